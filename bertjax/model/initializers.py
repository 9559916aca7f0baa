"""First values that let a short run learn sooner than Google's; the model they start is plain BERT.

BERT's masked-LM loss first falls to about the entropy of single tokens, stays near it for millions
of tokens, and then falls again, suddenly; the next-sentence loss waits longer still. With these
first values a small model needs no millions.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig
from bertjax.errors import UserError

_LONGEST_WAVE = 10_000.0
# Of the deviation of the word embeddings: the sum of the two is mostly the word.
_POSITION_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class InitializationConfig:
    """The first values of the weights; the defaults are Google's. For short runs there are better
    ones, which change nothing of what the model is."""

    mlm_bias: Literal["zeros", "unigram"] = "zeros"
    """unigram: the masked-LM output bias starts at the log frequency of every token in the data."""
    positions: Literal["random", "sinusoidal", "waves"] = "random"
    """sinusoidal: position embeddings start as sines and cosines, as those of Vaswani et al. waves:
    as sines and cosines in a few columns, which tell each place from all others."""
    attention: Literal["random", "averaging", "neighbours"] = "random"
    """averaging: every attention starts by adding the average of what it attends to, so that a
    model learns first which words occur in the same text. neighbours: the heads of the first layer
    start by looking one token back, one ahead, two back, and so on, so that it learns first which
    words stand beside each other; goes with positions waves."""

    def check(self, config: BertConfig) -> None:
        """Refuses what a shape has no room for.

        Raises:
            UserError: sinusoidal positions of an odd width; looking at neighbours without the
                positions for it.
        """
        if self.attention == "neighbours" and self.positions != "waves":
            raise UserError(
                "initialization.attention neighbours needs initialization.positions waves, not "
                f"{self.positions}: give --initialization.positions waves."
            )
        if self.positions == "sinusoidal" and config.hidden_size % 2:
            raise UserError(
                f"hidden_size {config.hidden_size} is odd: sinusoidal positions are pairs of sine "
                "and cosine; take an even one, or --initialization.positions random."
            )


def begin(
    params: dict[str, Any],
    config: BertConfig,
    initialization: InitializationConfig,
    counts: np.ndarray | None = None,
) -> dict[str, Any]:
    """The parameters of `init_params` with the first values of a start.

    Args:
        params: with whatever heads; without a head mlm there is no bias to start.
        config: their shape.
        start: which first values.
        counts: int [V], how often every token is seen; needed by mlm_bias="unigram" alone.

    Raises:
        ValueError: counts are needed and are not there.
    """
    if initialization.mlm_bias == "unigram" and "mlm" in params:
        if counts is None:
            raise ValueError('initialization.mlm_bias="unigram" needs the counts of the tokens.')
        params = {**params, "mlm": {**params["mlm"], "bias": jnp.asarray(unigram_bias(counts))}}
    shape = (config.max_position_embeddings, config.hidden_size)
    table = None
    if initialization.positions == "sinusoidal":
        table = sinusoidal_positions(*shape, _POSITION_SHARE * config.initializer_range)
    if initialization.positions == "waves":
        table = wave_positions(*shape, config.head_size, config.initializer_range)
    if table is not None:
        positions = {"embedding": jnp.asarray(table)}
        embeddings = {**params["embeddings"], "position_embeddings": positions}
        params = {**params, "embeddings": embeddings}
    if initialization.attention == "averaging":
        layers = {name: _averaging(layer) for name, layer in params["encoder"].items()}
        params = {**params, "encoder": layers}
    if initialization.attention == "neighbours":
        first = _neighbours(params["encoder"]["layer_0"], config)
        params = {**params, "encoder": {**params["encoder"], "layer_0": first}}
    return params


def unigram_bias(counts: np.ndarray) -> np.ndarray:
    """Log frequencies, add-one smoothed, of mean 0: a first masked-LM output bias, float32 [V].

    From zeros, the tied embeddings learn the frequencies before the bias does, as one direction
    that all of them share.

    Args:
        counts: int [V], how often every token is seen; 0 for special tokens.
    """
    logs = np.log(counts + 1.0)
    return (logs - logs.mean()).astype(np.float32)


def sinusoidal_positions(positions: int, width: int, deviation: float) -> np.ndarray:
    """The position embeddings of Vaswani et al. (2017) as first values, float32 [positions, width].

    The same distance between two positions is the same rotation everywhere, so what attention
    learns of two neighbours at one place holds at all places.

    Args:
        positions: number of them.
        width: D, even.
        deviation: of the values; each column has mean 0.
    """
    rates = _LONGEST_WAVE ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(positions)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table -= table.mean(0)
    return (deviation * table / table.std()).astype(np.float32)


def averaging_output(value: jax.Array) -> jax.Array:
    """An output projection [D, D] that undoes the value projection [D, D]: value @ output is the
    identity, but for noise.

    Attention of small random weights is uniform. So a masked token first reads the average of the
    words around it, which the tied decoder compares with every word, as in a continuous bag of
    words (Mikolov et al., 2013): words that occur together move together from the first step on.
    Between two random projections this takes millions of tokens. Products of value and output
    that are the identity are also what trained transformers show: Trockman and Kolter (2023),
    "Mimetic Initialization of Self-Attention Layers".
    """
    return value.T / jnp.square(value).sum(1).mean()


def _wave_rates(count: int) -> np.ndarray:
    """Radians from one position to the next, spread evenly over a half turn: their waves add up at
    distance 0 and cancel everywhere else."""
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    return math.pi * np.modf((np.arange(count) + 0.5) * golden)[0]


def wave_positions(positions: int, width: int, used: int, deviation: float) -> np.ndarray:
    """First values of position embeddings, float32 [positions, width]: waves in the first `used`
    columns, with this deviation, and 0 in the others."""
    angles = np.arange(positions)[:, None] * _wave_rates(used // 2)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.zeros((positions, width), np.float32)
    table[:, : waves.shape[1]] = deviation * math.sqrt(2.0) * waves
    return table


def _neighbours(layer: dict[str, Any], config: BertConfig) -> dict[str, Any]:
    """A layer whose heads attend to the tokens at offsets -1, 1, -2, 2, ..., by `wave_positions`.

    A head's key is the wave of a position and its query that of its own position, turned by the
    offset: their product has its peak where the two meet. Value and output stay random, in a size
    that makes what they add about as large as what it is added to.
    """
    attention, size = layer["attention"], config.head_size
    rates = _wave_rates(size // 2)
    query, key = np.zeros((2, config.hidden_size, config.hidden_size), np.float32)
    for head in range(config.num_attention_heads):
        offset = (head // 2 + 1) * (-1) ** (head + 1)
        cos, sin = np.diag(np.cos(rates * offset)), np.diag(np.sin(rates * offset))
        columns = slice(head * size, head * size + 2 * len(rates))
        query[: 2 * len(rates), columns] = np.block([[cos, -sin], [sin, cos]])
        key[: 2 * len(rates), columns] = np.eye(2 * len(rates))
    scale = 1.0 / (config.initializer_range * math.sqrt(config.hidden_size))
    kernels = {
        "query": jnp.asarray(query),
        "key": jnp.asarray(key),
        "value": attention["value"]["kernel"] * scale,
        "output": attention["output"]["kernel"] * scale,
    }
    turned = {name: {**attention[name], "kernel": kernel} for name, kernel in kernels.items()}
    return {**layer, "attention": {**attention, **turned}}


def _averaging(layer: dict[str, Any]) -> dict[str, Any]:
    attention = layer["attention"]
    output = {
        **attention["output"],
        "kernel": averaging_output(attention["value"]["kernel"]),
    }
    return {**layer, "attention": {**attention, "output": output}}

"""Initializations that let a small model learn sooner; the model itself stays plain BERT.

BERT's masked-LM loss first falls to about the entropy of single tokens, stays near it for millions
of tokens, and then falls again suddenly. The next-sentence loss waits even longer. With these
initializations a small model does not need millions of tokens.
"""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig, EncoderDecoderConfig
from bertjax.errors import UserError

# Relative to the deviation of the word embeddings, so that the word dominates their sum.
_POSITION_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class InitializationConfig:
    """Initialization of the weights. The defaults are Google's; others help in short runs and do
    not change the architecture."""

    mlm_bias: Literal["zeros", "unigram"] = "zeros"
    """Masked-LM bias. unigram: log frequencies of tokens."""
    positions: Literal["random", "sinusoidal", "waves"] = "random"
    """Position embeddings. sinusoidal: sines and cosines, as in Vaswani et al. waves: sines and
    cosines in a few columns, which distinguish each position from all others."""
    attention: Literal["random", "averaging", "neighbors"] = "random"
    """Attention. averaging: every layer adds the average of the tokens it attends to, so that a
    model first learns which words occur in the same text. neighbors: the heads of the first layer
    attend one token back, one ahead, two back, and so on, so that a model first learns which words
    are adjacent; it needs positions waves."""

    def check(self, config: BertConfig | EncoderDecoderConfig) -> None:
        """Raises UserError if the initialization does not fit the shape of a model."""
        if isinstance(config, EncoderDecoderConfig):
            self.check(config.encoder)
            return self.check(config.decoder)
        if self.attention == "neighbors" and self.positions != "waves":
            raise UserError(
                "`initialization.attention` neighbors needs `initialization.positions` waves, not "
                f"{self.positions}."
            )
        if self.positions == "sinusoidal" and config.hidden_size % 2:
            raise UserError(
                "`initialization.positions` sinusoidal needs an even hidden_size, and hidden_size "
                f"is {config.hidden_size}."
            )


def reinitialize(
    params: dict[str, Any],
    config: BertConfig | EncoderDecoderConfig,
    initialization: InitializationConfig,
    counts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Replaces parameters of `init_params` by those of an initialization.

    Without a head mlm, mlm_bias has no effect. Only mlm_bias="unigram" needs the counts, int [V],
    of every token.
    """
    params = dict(params)
    if isinstance(config, EncoderDecoderConfig):
        for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
            if config.share != "all" or name == "encoder":
                params[name] = reinitialize(params[name], part, initialization, counts)
        return params
    if initialization.mlm_bias == "unigram" and "mlm" in params:
        if counts is None:
            raise ValueError('initialization.mlm_bias="unigram" needs the counts of the tokens.')
        params["mlm"] = {**params["mlm"], "bias": jnp.asarray(unigram_bias(counts))}
    shape = (config.max_position_embeddings, config.hidden_size)
    table = None
    if initialization.positions == "sinusoidal":
        table = sinusoidal_positions(*shape, _POSITION_SHARE * config.initializer_range)
    if initialization.positions == "waves":
        table = wave_positions(*shape, config.head_size, config.initializer_range)
    if table is not None:
        positions = {"embedding": jnp.asarray(table)}
        params["embeddings"] = {**params["embeddings"], "position_embeddings": positions}
    layers = params["encoder"]
    if initialization.attention == "averaging":
        params["encoder"] = {
            name: _averaging(layer) if name.startswith("layer_") else layer
            for name, layer in layers.items()
        }
    if initialization.attention == "neighbors":
        params["encoder"] = {**layers, "layer_0": _neighbors(layers["layer_0"], config)}
    return params


def unigram_bias(counts: np.ndarray) -> np.ndarray:
    """Computes add-one smoothed log frequencies with mean 0, for the masked-LM output bias.

    With a bias of zeros, the tied embeddings learn the frequencies first, as a direction that all
    of them share. The counts are int [V], 0 for special tokens; the result is float32 [V].
    """
    logs = np.log(counts + 1.0)
    return (logs - logs.mean()).astype(np.float32)


def sinusoidal_positions(positions: int, width: int, deviation: float) -> np.ndarray:
    """Computes the position embeddings of Vaswani et al. (2017).

    A given distance is the same rotation at all positions, so that attention between neighbors at
    one position applies to all others. The result is float32 [positions, width], for an even width,
    with the given standard deviation; each column has mean 0.
    """
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(positions)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table -= table.mean(0)
    return (deviation * table / table.std()).astype(np.float32)


def _averaging(layer: dict[str, Any]) -> dict[str, Any]:
    """Returns a layer whose output projection approximately inverts its value projection.

    Attention with small random weights is uniform: a masked token first reads the average of the
    words around it, and the tied decoder compares that with every word, as in a continuous bag of
    words (Mikolov et al., 2013). Words that occur together therefore move together from the first
    step. With two random projections this takes millions of tokens. In trained transformers the
    product of value and output is also close to the identity: Trockman and Kolter (2023), "Mimetic
    Initialization of Self-Attention Layers".
    """
    attention = layer["attention"]
    value = attention["value"]["kernel"]
    output = {**attention["output"], "kernel": value.T / jnp.square(value).sum(1).mean()}
    return {**layer, "attention": {**attention, "output": output}}


def _wave_rates(count: int) -> np.ndarray:
    """Spreads radians per position over a half turn: waves add up at distance 0 only."""
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    return math.pi * np.modf((np.arange(count) + 0.5) * golden)[0]


def wave_positions(positions: int, width: int, used: int, deviation: float) -> np.ndarray:
    """Computes position embeddings with waves in the first `used` columns and zeros in the others.

    The result is float32 [positions, width]; the waves have the given standard deviation.
    """
    angles = np.arange(positions)[:, None] * _wave_rates(used // 2)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table = np.zeros((positions, width), np.float32)
    table[:, : waves.shape[1]] = deviation * math.sqrt(2.0) * waves
    return table


def _neighbors(layer: dict[str, Any], config: BertConfig) -> dict[str, Any]:
    """Returns a layer whose heads attend to offsets -1, 1, -2, 2, ... given `wave_positions`.

    The key of a head is the wave of a position, and its query is the wave of its own position
    rotated by the offset; their product peaks where both agree. Value and output stay random,
    scaled so that attention adds vectors about as large as the residual.
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
    changed = {name: {**attention[name], "kernel": kernel} for name, kernel in kernels.items()}
    return {**layer, "attention": {**attention, **changed}}

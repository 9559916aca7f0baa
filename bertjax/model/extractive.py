"""A BERT that scores the sentences of a document: BERTSUM's model of extractive summarization."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model import bert
from bertjax.model.bert import Params
from bertjax.model.dropout import LAYER_HEAD, fold_keys
from bertjax.model.encoder import Encoder
from bertjax.model.flops import encoder_flops
from bertjax.model.layers import dense
from bertjax.model.linen import BertEncoder, Inputs

KIND = "sentence_extraction"
"""Its kind, a key of `bertjax.model.heads.TASK_PARTS`."""

_TOKENS_PER_PLACE = 8


def places(length: int) -> int:
    """Returns how many sentences S a row of T tokens has places for, one for every 8 tokens.

    S depends on T alone, so that every width of a batch has one compiled program.
    """
    return -(-length // _TOKENS_PER_PLACE)


def min_length(sentences: int) -> int:
    """Returns the fewest tokens T of a row that has places for so many sentences, at least 1."""
    return _TOKENS_PER_PLACE * (sentences - 1) + 1


class SentenceScorer(nn.Module):
    """Inter-sentence layers, and a dense layer with one output.

    It follows `ExtTransformerEncoder` of PreSumm's src/models/encoder.py (Liu and Lapata 2019).
    There, the layers normalize their inputs (pre-norm), and have 8 heads, a feed-forward width of
    2,048 and a dropout rate of 0.2. Here, they are those of the encoder: `Layer`, which normalizes
    its outputs, with the encoder's sizes and dropout rates. Without inter-sentence layers there are
    no positions either, as in section 3.1 of Liu (2019), "Fine-tune BERT for Extractive
    Summarization".
    """

    config: BertConfig
    execution: Execution
    layers: int

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, mask: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Computes float32 logits [B, S] of vectors x [B, S, D] at positions [B, S].

        `mask` [B, S] is 1 for real sentences, and `keys` [B] are dropout keys or None.
        """
        if self.layers:
            depth = self.layers
            config = dataclasses.replace(self.config, num_hidden_layers=depth, final_norm=False)
            x = x + sinusoids(positions, config.hidden_size).astype(x.dtype)
            encoder = Encoder(config, self.execution, name="inter_sentence")
            real = (mask != 0)[:, None, None, :]
            x = encoder(x, mask=real, keys=fold_keys(keys, LAYER_HEAD))[0]
        logits = dense(1, self.config, self.execution, "classifier")(x)
        return logits[..., 0].astype(jnp.float32)


class BertForSentenceExtraction(BertEncoder):
    """A BertEncoder without pooler, with the subtree sentence_scorer on the [CLS] of sentences."""

    add_pooler: bool = False
    inter_sentence_layers: int = 2

    def setup(self) -> None:
        super().setup()
        self.sentence_scorer = SentenceScorer(
            self.config, self.execution, self.inter_sentence_layers
        )

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes float32 logits [B, S]; see `sentence_logits`."""
        firsts = inputs["cls_positions"]
        out = BertEncoder.__call__(self, inputs, dropout_keys, positions=firsts)
        positions, mask = inputs["sentence_positions"], inputs["sentence_mask"]
        return self.sentence_scorer(out.last_hidden_state, positions, mask, dropout_keys)


def init_params(
    config: BertConfig,
    key: jax.Array,
    kind: str = KIND,
    outputs: int = 1,
    *,
    whole: bool,
    inter_sentence_layers: int = 2,
) -> dict[str, Any]:
    """Draws random parameters of the whole model, or only the subtree sentence_scorer.

    The arguments are those of `bertjax.model.bert.init_task_params`.
    """
    del kind, outputs
    scorer = SentenceScorer(config, Execution(), inter_sentence_layers)
    ones = jnp.ones((1, 1), jnp.int32)
    drawn = scorer.init(key, jnp.zeros((1, 1, config.hidden_size)), ones, ones, None)["params"]
    rest = bert.init_params(config, key, heads=(), add_pooler=False) if whole else {}
    return {**rest, "sentence_scorer": dict(drawn)}


def sentence_logits(
    params: Params,
    inputs: Inputs,
    config: BertConfig,
    kind: str = KIND,
    *,
    execution: Execution = Execution(),
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes float32 logits [B, S]: the summary has the sentence.

    Args:
        params: parameters as from `init_params`.
        inputs: inputs as for `bertjax.encode`, with a [CLS] before each sentence, a [SEP] after it
            and token types 0 and 1 in turn; and, int32 [B, S], cls_positions of each sentence in
            its row, sentence_positions in its document, and sentence_mask, 0 for padding.
        config: the shape.
        kind: it is always KIND.
        execution: how to compute.
        dropout_key: None, one key or keys [B], as for `bertjax.encode`.
    """
    del kind
    layers = len(params["sentence_scorer"].get("inter_sentence", {}))
    module = BertForSentenceExtraction(config, execution, inter_sentence_layers=layers)
    keys = bert.row_keys(dropout_key, inputs["input_ids"].shape[0])
    return module.apply({"params": params}, inputs, dropout_keys=keys)  # type: ignore


def sentence_flops(
    config: BertConfig, kind: str, outputs: int, length: int, *, inter_sentence_layers: int
) -> int:
    """Counts the forward pass over one row of T tokens and the places of its sentences."""
    del kind
    sentences = places(length)
    layer = dataclasses.replace(config, num_hidden_layers=1)
    scorer = inter_sentence_layers * encoder_flops(layer, sentences)
    return (
        encoder_flops(config, length, sentences)
        + scorer
        + 2 * sentences * config.hidden_size * outputs
    )


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """Computes sines and cosines in turn, float32 [..., D], of positions [...] from 0.

    They are those of `PositionalEncoding` in PreSumm's src/models/encoder.py.
    """
    rates = jnp.exp(jnp.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = positions[..., None] * rates
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions.shape, -1)[..., :width]

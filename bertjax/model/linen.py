"""Whole models as Flax Linen modules; `.init` makes and `.apply` reads the public parameter dict.

variables = BertForPreTraining(config).init(key, inputs, masked_positions)
mlm, nsp = BertForPreTraining(config).apply({"params": params}, inputs, masked_positions)
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.encoder import Encoder
from bertjax.model.heads import MlmHead
from bertjax.model.layers import (
    LAYER_HEAD,
    SITE_POOLED,
    SITE_SEQUENCE,
    Embeddings,
    dense,
    dropout,
    fold_keys,
)

Inputs = Mapping[str, jax.Array]


class EncoderOutput(NamedTuple):
    """What `encode` gives; fields that were not asked for are None."""

    last_hidden_state: jax.Array
    """[B, T, D] in the compute type."""
    pooled: jax.Array | None
    """[B, D]; [B, S, D] where the inputs have cls_positions [B, S]; None without a pooler."""
    hidden_states: tuple[jax.Array, ...] | None = None
    """L + 1 arrays [B, T, D]: the embeddings, then every layer."""
    attentions: tuple[jax.Array, ...] | None = None
    """L arrays [B, N, T, T] of probabilities, before dropout."""


class BertEncoder(nn.Module):
    """Embeddings, the stack and the pooler: subtrees embeddings, encoder, pooler."""

    config: BertConfig
    execution: Execution = Execution()
    add_pooler: bool = True

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.execution)
        self.encoder = Encoder(self.config, self.execution)
        self.pooler = dense(self.config.hidden_size, self.config, self.execution)

    def __call__(
        self,
        inputs: Inputs,
        dropout_keys: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """inputs as `bertjax.encode` takes them; dropout_keys [B], one key a row, or None."""
        input_ids = inputs["input_ids"]
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"input_ids are {input_ids.shape[1]} tokens long; the model has "
                f"{self.config.max_position_embeddings} positions."
            )
        token_types = inputs.get("token_type_ids")
        positions = inputs.get("position_ids")
        x = self.embeddings(
            input_ids,
            jnp.zeros_like(input_ids) if token_types is None else token_types,
            jnp.arange(input_ids.shape[1])[None] if positions is None else positions,
            dropout_keys,
        )
        x, states, probs = self.encoder(
            x, attention_mask(inputs), dropout_keys, output_attentions, output_hidden_states
        )
        cls_positions = inputs.get("cls_positions")
        first = x[:, 0] if cls_positions is None else gather_positions(x, cls_positions)
        pooled = jnp.tanh(self.pooler(first)) if self.add_pooler else None
        return EncoderOutput(x, pooled, states, probs)


class BertForPreTraining(BertEncoder):
    """A BertEncoder with the masked-LM and next-sentence heads: subtrees mlm, nsp."""

    def setup(self) -> None:
        super().setup()
        self.mlm = MlmHead(self.config, self.execution)
        self.nsp = dense(2, self.config, self.execution)

    def __call__(
        self,
        inputs: Inputs,
        masked_positions: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """masked_positions [B, P] int32 -> float32 logits [B, P, V] and [B, 2] (or [B, S, 2])."""
        out = BertEncoder.__call__(self, inputs, dropout_keys)
        gathered = gather_positions(out.last_hidden_state, masked_positions)
        nsp = self.nsp(out.pooled).astype(jnp.float32)
        return self.mlm(gathered, self.embeddings.attend), nsp


class BertForMaskedLM(BertEncoder):
    """A BertEncoder with the masked-LM head: subtree mlm; no pooler."""

    add_pooler: bool = False

    def setup(self) -> None:
        super().setup()
        self.mlm = MlmHead(self.config, self.execution)

    def __call__(
        self,
        inputs: Inputs,
        dropout_keys: jax.Array | None = None,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 logits [B, P, V] at positions [B, P], or [B, T, V] at every position."""
        x = BertEncoder.__call__(self, inputs, dropout_keys).last_hidden_state
        if positions is not None:
            x = gather_positions(x, positions)
        return self.mlm(x, self.embeddings.attend)


class BertForNextSentencePrediction(BertEncoder):
    """A BertEncoder with one dense layer on the pooled output, without dropout: subtree nsp."""

    def setup(self) -> None:
        super().setup()
        self.nsp = dense(2, self.config, self.execution)

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Float32 logits [B, 2]: B follows A, B is random."""
        out = BertEncoder.__call__(self, inputs, dropout_keys)
        return self.nsp(out.pooled).astype(jnp.float32)


class BertForSequenceClassification(BertEncoder):
    """A BertEncoder with dropout and one dense layer on the pooled output: subtree classifier."""

    num_labels: int = 2

    def setup(self) -> None:
        super().setup()
        self.classifier = dense(self.num_labels, self.config, self.execution)

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Float32 logits [B, C]."""
        pooled = BertEncoder.__call__(self, inputs, dropout_keys).pooled
        assert pooled is not None
        keys = fold_keys(dropout_keys, LAYER_HEAD)
        pooled = dropout(pooled, keys, SITE_POOLED, self.config.hidden_dropout_prob)
        return self.classifier(pooled).astype(jnp.float32)


class BertForMultipleChoice(BertForSequenceClassification):
    """A BertForSequenceClassification of one output that scores every choice of a row by itself."""

    num_labels: int = 1

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Inputs [B, C, T] -> float32 logits [B, C]; dropout_keys [B].

        Choice c of a row draws from fold_in(the row's key, c).
        """
        input_ids = inputs["input_ids"]
        if input_ids.ndim != 3:
            raise ValueError(
                f"input_ids have the shape {input_ids.shape}: multiple choice takes [B, C, T], a "
                "sequence for each of the C choices of a row."
            )
        rows, choices, length = input_ids.shape
        flat = {
            name: inputs[name].reshape(rows * choices, length)
            for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids")
            if inputs.get(name) is not None
        }
        keys = None
        if dropout_keys is not None:
            fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
            keys = fold(dropout_keys, jnp.arange(choices)).reshape(-1)  # [B * C]
        logits = BertForSequenceClassification.__call__(self, flat, keys)
        return logits.reshape(rows, choices)


class BertForTokenClassification(BertEncoder):
    """A BertEncoder with dropout and one dense layer on every token: subtree classifier; no
    pooler."""

    add_pooler: bool = False
    num_labels: int = 2

    def setup(self) -> None:
        super().setup()
        self.classifier = dense(self.num_labels, self.config, self.execution)

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Float32 logits [B, T, C]."""
        x = BertEncoder.__call__(self, inputs, dropout_keys).last_hidden_state
        keys = fold_keys(dropout_keys, LAYER_HEAD)
        x = dropout(x, keys, SITE_SEQUENCE, self.config.hidden_dropout_prob)
        return self.classifier(x).astype(jnp.float32)


class BertForQuestionAnswering(BertEncoder):
    """A BertEncoder with one dense layer on every token, without dropout: subtree qa_outputs; no
    pooler."""

    add_pooler: bool = False

    def setup(self) -> None:
        super().setup()
        self.qa_outputs = dense(2, self.config, self.execution)

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Float32 logits [B, T, 2]: of a token as the start and as the end of the answer."""
        x = BertEncoder.__call__(self, inputs, dropout_keys).last_hidden_state
        return self.qa_outputs(x).astype(jnp.float32)


def attention_mask(inputs: Inputs) -> jax.Array | None:
    """bool [B, 1, 1 or T, T] of what may be attended to; None where nothing is masked.

    `segment_ids` [B, T] keep the examples of a packed row apart (0 is padding).
    """
    examples, mask = inputs.get("segment_ids"), inputs.get("attention_mask")
    allowed = None if mask is None else (mask != 0)[:, None, None, :]
    if examples is None:
        return allowed
    same = (examples[:, None, :, None] == examples[:, None, None, :]) & (examples != 0)[
        :, None, None, :
    ]
    return same if allowed is None else same & allowed


def gather_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [B, T, D], positions [B, P] -> [B, P, D]."""
    return jnp.take_along_axis(x, positions[..., None], axis=1)

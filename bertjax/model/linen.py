"""Whole models as Flax Linen modules, which share one public parameter dict.

variables = BertForPreTraining(config).init(key, inputs, masked_positions)
mlm, nsp = BertForPreTraining(config).apply({"params": params}, inputs, masked_positions)
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.model.dropout import LAYER_HEAD, Site, dropout, fold_keys
from bertjax.model.encoder import Encoder
from bertjax.model.heads import MlmHead, PredictionHead
from bertjax.model.layers import Embeddings, dense
from bertjax.model.pooling import pool
from bertjax.model.positions import gather_positions

Inputs = Mapping[str, jax.Array]


class EncoderOutput(NamedTuple):
    """Result of `encode`; outputs that were not requested are None."""

    last_hidden_state: jax.Array
    """[B, T, D] in the compute type, or [B, P, D] at positions [B, P]."""
    pooler_output: jax.Array | None
    """`pooled`, or None without a pooler."""
    hidden_states: tuple[jax.Array, ...] | None = None
    """L + 1 arrays [B, T, D]: outputs of the embeddings and of every layer."""
    attentions: tuple[jax.Array, ...] | None = None
    """L arrays [B, N, T, T] of probabilities before dropout."""

    @property
    def pooled(self) -> jax.Array:
        """[B, D], or [B, S, D] for inputs with cls_positions [B, S].

        Raises:
            ValueError: the parameters have no pooler, as in many masked LMs.
        """
        if self.pooler_output is None:
            raise ValueError("The parameters have no pooler: use last_hidden_state.")
        return self.pooler_output

    def __repr__(self) -> str:
        def shown(value: Any) -> str:
            if isinstance(value, tuple):
                return f"{len(value)} x {shown(value[0])}"
            return "None" if value is None else f"{value.dtype}{list(value.shape)}"

        fields = (f"{name}={shown(value)}" for name, value in self._asdict().items())
        return f"EncoderOutput({', '.join(fields)})"


class BertEncoder(nn.Module):
    """Embeddings, layers and pooler: subtrees embeddings, encoder, pooler."""

    config: BertConfig
    execution: Execution = Execution()
    add_pooler: bool = True
    add_cross_attention: bool = False
    """Whether the layers also attend to encoder_hidden_states, as those of a decoder."""

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.execution)
        self.encoder = Encoder(self.config, self.execution, self.add_cross_attention)
        if self.config.prediction_head:
            self.pooler = PredictionHead(self.config, self.execution)
        else:
            self.pooler = dense(self.config.hidden_size, self.config, self.execution)

    def __call__(
        self,
        inputs: Inputs,
        dropout_keys: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        positions: jax.Array | None = None,
    ) -> EncoderOutput:
        """Encodes inputs as `bertjax.encode` takes them; dropout_keys [B] or None.

        For `positions` [B, P] the last layer computes these alone, and the first tokens, if the
        pooler reads them; all tokens where `Encoder` or the pooler needs them.
        """
        x, position_ids = self.embed(inputs, dropout_keys)
        firsts, read = self._first_positions(inputs), None
        if positions is not None:
            rows, length = inputs["input_ids"].shape
            positions = jnp.broadcast_to(positions, (rows, positions.shape[-1]))
            positions = jnp.where(positions < 0, positions + length, positions)
            if firsts is not None and not (output_hidden_states or output_attentions):
                read = jnp.concatenate([firsts, positions], axis=1)
        memory_mask = inputs.get("encoder_attention_mask")
        x, states, probs = self.encoder(
            x,
            mask=attention_mask(inputs),
            position_ids=position_ids,
            keys=dropout_keys,
            memory=inputs.get("encoder_hidden_states"),
            memory_mask=None if memory_mask is None else (memory_mask != 0)[:, None, None, :],
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            positions=read,
        )
        first, pooled = x, None
        if firsts is not None and read is not None:
            first, x = jnp.split(x, [firsts.shape[1]], axis=1)
        elif positions is not None:
            x = gather_positions(x, positions)
        if self.add_pooler:
            pooled = self._pool(self._pooled_tokens(first, inputs, read is not None))
        return EncoderOutput(x, pooled, states, probs)

    def _first_positions(self, inputs: Inputs) -> jax.Array | None:
        """Returns the positions that the pooler reads, [B, 1] or [B, S], or [B, 0] without it; None
        if it reads the mean of all tokens."""
        if self.add_pooler and self.config.classifier_pooling == "mean":
            return None
        positions = inputs.get("cls_positions")
        if positions is not None and self.add_pooler:
            return positions
        return jnp.zeros((len(inputs["input_ids"]), int(self.add_pooler)), jnp.int32)

    def _pooled_tokens(self, x: jax.Array, inputs: Inputs, are_first: bool) -> jax.Array:
        """Returns what the pooler reads of x [B, T, D]: [B, D], or [B, S, D] of packed rows.

        `are_first` says that x has the tokens at `_first_positions` alone.
        """
        positions, mask = inputs.get("cls_positions"), inputs.get("attention_mask")
        if self.config.classifier_pooling == "mean":
            if positions is not None:
                raise UserError(
                    "Rows that pack several examples have a first token of each, and no mean: set "
                    "classifier_pooling 'cls', or do not pack."
                )
            mask = jnp.ones(x.shape[:2]) if mask is None else mask
            return pool(x, mask[..., None].astype(x.dtype), "mean")
        if positions is None:
            return x[:, 0]
        return x if are_first else gather_positions(x, positions)

    def _pool(self, first: jax.Array) -> jax.Array:
        """Computes what heads of whole texts read."""
        hidden = self.pooler(first)
        return hidden if self.config.prediction_head else jnp.tanh(hidden)

    def embed(
        self, inputs: Inputs, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the embeddings [B, T, D] of the inputs, and their position ids."""
        input_ids, positions = inputs["input_ids"], self.config.max_position_embeddings
        length, position_ids = input_ids.shape[1], inputs.get("position_ids")
        if position_ids is None and length > positions:
            raise ValueError(
                f"input_ids are {length} tokens long; the model has {positions} positions."
            )
        token_type_ids = inputs.get("token_type_ids")
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        if position_ids is None:
            position_ids = jnp.arange(length)[None]
        x = self.embeddings(input_ids, token_type_ids, position_ids, dropout_keys)
        return x, position_ids


class BertForPreTraining(BertEncoder):
    """A BertEncoder with the masked-LM and next-sentence heads: subtrees mlm, nsp."""

    def setup(self) -> None:
        super().setup()
        self.mlm = MlmHead(self.config, self.execution)
        self.nsp = dense(2, self.config, self.execution)

    def __call__(
        self, inputs: Inputs, masked_positions: jax.Array, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Computes float32 logits [B, P, V] at masked_positions [B, P], and [B, 2] or [B, S, 2]."""
        out = BertEncoder.__call__(self, inputs, dropout_keys, positions=masked_positions)
        nsp = self.nsp(out.pooled).astype(jnp.float32)
        return self.mlm(out.last_hidden_state, self.embeddings.attend), nsp


class BertForMaskedLM(BertEncoder):
    """A BertEncoder without pooler and with the masked-LM head: subtree mlm."""

    add_pooler: bool = False

    def setup(self) -> None:
        super().setup()
        self.mlm = MlmHead(self.config, self.execution)

    def __call__(
        self,
        inputs: Inputs,
        dropout_keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        decode: bool = True,
    ) -> jax.Array:
        """Computes float32 logits [B, P, V] at positions [B, P], or [B, T, V] at all positions.

        Without `decode`, the vectors [..., D] that the word embeddings would multiply.
        """
        out = BertEncoder.__call__(self, inputs, dropout_keys, positions=positions)
        return self.mlm(out.last_hidden_state, self.embeddings.attend if decode else None)


class _BertWithDenseHead(BertEncoder):
    """A BertEncoder and a dense layer on the pooled output or, without a pooler, on every token."""

    num_labels: int = 2
    head: ClassVar[str] = "classifier"
    site: ClassVar[Site | None] = None
    """Site of dropout before the layer."""

    def setup(self) -> None:
        super().setup()
        # transformers' distribution. Google's truncated one is an eighth narrower, which short
        # trainings show.
        normal = nn.initializers.normal
        new = dense(self.num_labels, self.config, self.execution, initializer=normal)
        setattr(self, self.head, new)
        if self.config.prediction_head and not self.add_pooler:
            self.token_head = PredictionHead(self.config, self.execution)

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes float32 logits: [B, C] with a pooler, [B, T, C] without."""
        read = jnp.zeros((1, 0), jnp.int32) if self.add_pooler else None  # the pooler's alone
        out = BertEncoder.__call__(self, inputs, dropout_keys, positions=read)
        x = out.last_hidden_state if out.pooler_output is None else out.pooler_output
        if self.config.prediction_head and not self.add_pooler:
            x = self.token_head(x)
        if self.site is not None:
            keys, rate = fold_keys(dropout_keys, LAYER_HEAD), self.config.classifier_dropout
            rate = self.config.hidden_dropout_prob if rate is None else rate
            x = dropout(x, keys, self.site, rate)
        return getattr(self, self.head)(x).astype(jnp.float32)


class BertForNextSentencePrediction(_BertWithDenseHead):
    """A BertEncoder with the subtree nsp. Logits [B, 2]: segment B follows A, B is random."""

    head = "nsp"


class BertForSequenceClassification(_BertWithDenseHead):
    """A BertEncoder with the subtree classifier, after dropout of the pooled output."""

    site = Site.POOLED


class BertForMultipleChoice(BertForSequenceClassification):
    """A BertForSequenceClassification with one output, which scores each choice separately."""

    num_labels: int = 1

    def __call__(self, inputs: Inputs, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Computes float32 logits [B, C] of inputs [B, C, T]; dropout_keys are [B].

        Choice c of a row draws from fold_in(key of the row, c).
        """
        shape = inputs["input_ids"].shape
        if len(shape) != 3:
            raise ValueError(
                f"input_ids have the shape {shape}: multiple choice takes [B, C, T], one sequence "
                "per choice."
            )
        rows, choices, length = shape
        flat = {
            name: inputs[name].reshape(rows * choices, length)
            for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids")
            if inputs.get(name) is not None
        }
        keys = None
        if dropout_keys is not None:
            fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
            keys = fold(dropout_keys, jnp.arange(choices)).reshape(-1)  # [B * C]
        return _BertWithDenseHead.__call__(self, flat, keys).reshape(rows, choices)


class BertForTokenClassification(_BertWithDenseHead):
    """A BertEncoder without pooler, with the subtree classifier after dropout of every token."""

    add_pooler: bool = False
    site = Site.SEQUENCE


class BertForQuestionAnswering(_BertWithDenseHead):
    """A BertEncoder without pooler, with the subtree qa_outputs. Logits [B, T, 2]: start, end."""

    add_pooler: bool = False
    head = "qa_outputs"


def attention_mask(inputs: Inputs) -> jax.Array | None:
    """Returns the mask bool [B, 1, 1 or T, T] of attention, or None if the inputs mask nothing.

    `attention_mask` is [B, T], or [B, T, T] with a row for each query. `segment_ids` [B, T]
    separate the examples of a packed row; 0 is padding.
    """
    segments, mask = inputs.get("segment_ids"), inputs.get("attention_mask")
    allowed = None if mask is None else (mask != 0).reshape(mask.shape[0], 1, -1, mask.shape[-1])
    if segments is None:
        return allowed
    own = segments[:, None, None, :]
    same = (segments[:, None, :, None] == own) & (own != 0)
    return same if allowed is None else same & allowed

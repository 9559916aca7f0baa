"""The base class of models that write a sequence, and decoding with a cache."""

import abc
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.bert import Params
from bertjax.model.heads import MlmHead
from bertjax.model.layers import Embeddings, KeyValue, Layer
from bertjax.model.linen import Inputs
from bertjax.model.search import Beams


class DecodeState(NamedTuple):
    """What decoding keeps of a batch between its steps."""

    cache: tuple[KeyValue, ...]
    """Keys and values of self-attention, a buffer for each layer. All beams of a row share it."""
    memory: tuple[KeyValue, ...]
    """Keys and values of cross-attention, for each layer; empty for a prefix model."""
    source_mask: jax.Array
    """bool [B, 1, 1, S]: which source tokens are real."""

    @property
    def slots(self) -> int:
        """Number of slots of the cache."""
        return self.cache[0].key.shape[2]

    def extended(self, slots: int) -> "DecodeState":
        """Returns the state with so many more slots in each buffer of the cache."""
        widths = ((0, 0), (0, 0), (0, slots), (0, 0))
        return self._replace(cache=jax.tree.map(lambda leaf: jnp.pad(leaf, widths), self.cache))


class Seq2Seq(abc.ABC):
    """An architecture that writes a target for a source. Implementations are hashable.

    Inputs are those of `bertjax.encode` for the source, input_ids [B, S] and, optionally,
    attention_mask and token_type_ids. Training adds decoder_input_ids [B, T]: a start token, and
    the target without its end token.
    """

    def logits(
        self,
        params: Params,
        inputs: Inputs,
        config: Any,
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Computes float32 logits [B, T, V] of the tokens that follow the decoder_input_ids."""
        x = self.hidden(params, inputs, config, execution=execution, dropout_key=dropout_key)
        return self.output_layer(params).logits(x, execution)

    @abc.abstractmethod
    def hidden(
        self,
        params: Params,
        inputs: Inputs,
        config: Any,
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the vectors [B, T, D] that the output layer multiplies."""

    @abc.abstractmethod
    def output_layer(self, params: Params) -> "OutputLayer":
        """Returns the layer over the vocabulary."""

    @abc.abstractmethod
    def start(
        self,
        params: Params,
        inputs: Inputs,
        config: Any,
        *,
        beams: int,
        max_length: int,
        execution: Execution,
    ) -> DecodeState:
        """Reads the sources, and makes room for `max_length` tokens of `beams` beams."""

    @abc.abstractmethod
    def step(
        self, params: Params, state: DecodeState, beams: Beams, config: Any, *, execution: Execution
    ) -> tuple[jax.Array, DecodeState]:
        """Computes float32 logits [B, K, V] of the next token of each beam, and the next state."""


class OutputLayer(NamedTuple):
    """The layer over the vocabulary: the word embeddings, and the bias of the masked-LM head."""

    table: jax.Array
    """[V, D]."""
    bias: jax.Array
    """[V]."""

    def logits(self, x: jax.Array, execution: Execution) -> jax.Array:
        """Computes float32 logits [..., V] of x [..., D]."""
        rows = x.reshape(-1, x.shape[-1])  # a matrix, which a search reads without a copy
        product = functools.partial(
            jnp.matmul, precision=execution.precision, preferred_element_type=jnp.float32
        )
        logits = product(rows, self.table.astype(x.dtype).T) + self.bias
        return logits.reshape(*x.shape[:-1], -1)

    @classmethod
    def of(cls, params: Params) -> "OutputLayer":
        """Returns that of a BERT or of a whole decoder."""
        return cls(params["embeddings"]["word_embeddings"]["embedding"], params["mlm"]["bias"])


def empty_cache(
    config: BertConfig, rows: int, slots: int, execution: Execution
) -> tuple[KeyValue, ...]:
    """Makes buffers [B, N, slots, H] of zeros for every layer."""
    shape = (rows, config.num_attention_heads, slots, config.head_size)
    dtype = jnp.dtype(execution.dtype)
    return tuple(
        KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        for _ in range(config.num_hidden_layers)
    )


def visible_slots(beams: Beams, length: int, first: int = 0) -> jax.Array:
    """Returns bool [B, 1, K, length * K]: which tokens are in the history of each beam.

    The cache has room for `length` steps, at most T. Slot t * K + j is the token of beam j at step
    t. The history of beam k has a beam for each step from `first` on, and ends with k itself at the
    current step.
    """
    rows, count, _ = beams.ancestors.shape
    steps, own = jnp.arange(length), jnp.arange(count)
    past = (first <= steps) & (steps < beams.index)
    ancestors = beams.ancestors[..., :length]
    visible = (ancestors[..., None] == own) & past[:, None]  # [B, K, length, K]
    present = (first <= beams.index) & (steps == beams.index)
    visible |= present[:, None] & (own[:, None, None] == own)
    return visible.reshape(rows, 1, count, length * count)


def embed(
    params: Params,
    input_ids: jax.Array,
    token_type_ids: jax.Array,
    position_ids: jax.Array,
    config: BertConfig,
    execution: Execution,
) -> jax.Array:
    """Embeds ids [B, T] as [B, T, D], without dropout."""
    module = Embeddings(config, execution)
    variables = {"params": params["embeddings"]}
    return module.apply(variables, input_ids, token_type_ids, position_ids)  # type: ignore


def apply_layers(
    params: Params,
    x: jax.Array,
    state: DecodeState,
    slot: jax.Array | int,
    mask: jax.Array,
    config: BertConfig,
    execution: Execution,
) -> tuple[jax.Array, DecodeState]:
    """Applies all layers to x [B, T, D], and writes its keys and values to the cache.

    Args:
        params: parameters of a BERT or of a decoder.
        x: embeddings of the new tokens.
        state: the cache before.
        slot: the first slot of the new tokens.
        mask: bool [B, 1, T, slots], which slots each new token attends to.
        config: the shape.
        execution: how to compute.
    """
    module = Layer(config, execution, add_cross_attention=bool(state.memory))
    caches = []
    for number, cache in enumerate(state.cache):
        variables = {"params": params["encoder"][f"layer_{number}"]}
        of_memory: dict[str, Any] = {}
        if state.memory:
            of_memory = {"memory": state.memory[number], "memory_mask": state.source_mask}
        out = module.apply(variables, x, mask=mask, cache=cache, slot=slot, **of_memory)
        x, cache = out.x, out.cache  # type: ignore[union-attr]
        caches.append(cache)
    return x, state._replace(cache=tuple(caches))


def head_vectors(
    params: Params, x: jax.Array, config: BertConfig, execution: Execution
) -> jax.Array:
    """Computes what the output layer multiplies, [B, T, D], of the last layer's x [B, T, D]."""
    variables = {"params": params["mlm"]}
    return MlmHead(config, execution).apply(variables, x, None)  # type: ignore[return-value]


def source_mask(inputs: Inputs) -> jax.Array:
    """Returns bool [B, 1, 1, S]: which source tokens are real."""
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = jnp.ones_like(inputs["input_ids"])
    return (mask != 0)[:, None, None, :]

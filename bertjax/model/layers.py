"""Building blocks of encoders and decoders: Flax Linen modules and functions of arrays.

Shape letters, here and everywhere: B batch rows, T tokens, S tokens attended to (or examples in a
packed row), P predictions, D model width, N heads, H head size, F feed-forward width, V vocabulary,
C classes or choices, K beams, L layers.

Dropout does not use Linen's random streams. Every call takes `keys`, one key per row of the global
batch, and folds in the number of its site. A microbatch, a shard or a scanned layer therefore draws
the same numbers as the whole batch. `keys=None` disables dropout.
"""

import enum
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig, Execution

# Stand in for a layer number in dropout keys outside the stack.
LAYER_EMBEDDINGS, LAYER_HEAD = 1 << 20, 1 << 21


@enum.unique
class Site(enum.IntEnum):
    """Places of dropout; each folds its own number into the key of a row and layer."""

    ATTENTION_PROBS = 0
    ATTENTION_OUTPUT = 1
    LAYER_OUTPUT = 2
    EMBEDDINGS = 3
    POOLED = 4
    SEQUENCE = 5
    CROSS_ATTENTION_PROBS = 6
    CROSS_ATTENTION_OUTPUT = 7


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    """Computes x * 0.5 * (1 + erf(x / sqrt(2))) in float32.

    This is the exact GELU (erf), as in the paper's release, Hugging Face and PyTorch. `jax.nn.gelu`
    uses erfc, which is slower on a CPU.
    """
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Computes the derivative; that of `jax.lax.erf` fails in `shard_map` under jax 0.12."""
    (x,), (x_dot,) = primals, tangents
    wide = x.astype(jnp.float32)
    below = 0.5 * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype) * x_dot


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


_ACTIVATIONS = {"gelu": _gelu, "gelu_new": _gelu_tanh, "gelu_tanh": _gelu_tanh, "relu": jax.nn.relu}


def activation(name: str, x: jax.Array) -> jax.Array:
    """Applies `hidden_act`; "gelu" is the exact one (erf)."""
    return _ACTIVATIONS[name](x)


def fold_keys(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Folds a number into the key of every row; None stays None."""
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def dropout(x: jax.Array, keys: jax.Array | None, site: int, rate: float) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales the others up.

    Row b draws from keys[b] and `site` alone: the draw of an entry is a hash of its number in the
    row and of 64 random bits. XLA fuses the hash into the operations that use it and stores no
    array of draws, as it does of `jax.random.bits`. The rate is rounded to a multiple of 2**-32,
    and stays below 1.
    """
    threshold = min(round(rate * (1 << 32)), (1 << 32) - 1)
    if keys is None or threshold == 0:
        return x
    row = x.shape[1:]

    def draw(key: jax.Array) -> jax.Array:
        first, second = jax.random.bits(jax.random.fold_in(key, site), (2,))
        numbers = sum(
            jax.lax.broadcasted_iota(jnp.uint32, row, axis) * np.uint32(math.prod(row[axis + 1 :]))
            for axis in range(len(row))
        )
        return _hash(_hash(numbers ^ first) + second)

    scale = jnp.asarray(1.0 / (1.0 - threshold / (1 << 32)), x.dtype)
    kept = jax.vmap(draw)(keys) >= np.uint32(threshold)
    return jnp.where(kept, x * scale, jnp.zeros((), x.dtype))


def _hash(x: jax.Array) -> jax.Array:
    """Permutes uint32 numbers by a function of Chris Wellons' hash-prospector."""
    x = (x ^ x >> 16) * np.uint32(0x21F0AAAD)
    x = (x ^ x >> 15) * np.uint32(0xD35A2D97)
    return x ^ x >> 15


def dense(
    features: int, config: BertConfig, execution: Execution, name: str | None = None
) -> nn.Dense:
    """Makes x @ kernel [in, out] + bias with float32 parameters, computed in execution.dtype."""
    return nn.Dense(
        features,
        dtype=jnp.dtype(execution.dtype),
        param_dtype=jnp.float32,
        precision=execution.precision,
        kernel_init=nn.initializers.truncated_normal(config.initializer_range),
        dot_general=_rows_times_kernel,
        name=name,
    )


def _rows_times_kernel(x: jax.Array, kernel: jax.Array, _: object, **options: Any) -> jax.Array:
    """Computes x [..., in] @ kernel [in, out] as one product of two matrices.

    With three axes XLA:CPU would transpose the gradient in memory first.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nn.Module):
    """LayerNorm over D in float32 with the two-pass variance; the result has the type of x."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        centered = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centered).mean(-1, keepdims=True)
        normal = centered * jax.lax.rsqrt(variance + self.config.layer_norm_eps)
        return (normal * scale + bias).astype(x.dtype)


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings, then LayerNorm and dropout."""

    config: BertConfig
    execution: Execution

    def setup(self) -> None:
        def table(rows: int) -> nn.Embed:
            initial = nn.initializers.truncated_normal(self.config.initializer_range)
            return nn.Embed(rows, self.config.hidden_size, embedding_init=initial)

        self.word_embeddings = table(self.config.vocab_size)
        self.position_embeddings = table(self.config.max_position_embeddings)
        self.token_type_embeddings = table(self.config.type_vocab_size)
        self.layer_norm = LayerNorm(self.config)

    def __call__(
        self,
        input_ids: jax.Array,
        token_type_ids: jax.Array,
        position_ids: jax.Array,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Embeds ids [B, T] int32 as [B, T, D] in the compute type."""
        words, positions = self.word_embeddings(input_ids), self.position_embeddings(position_ids)
        summed = words + positions + self.token_type_embeddings(token_type_ids)
        normal = self.layer_norm(summed).astype(self.execution.dtype)
        rate = self.config.hidden_dropout_prob
        return dropout(normal, fold_keys(keys, LAYER_EMBEDDINGS), Site.EMBEDDINGS, rate)

    def attend(self, x: jax.Array) -> jax.Array:
        """Multiplies x [..., D] with all word embeddings (the tied decoder): float32 [..., V]."""
        table = self.word_embeddings.embedding.astype(x.dtype)
        rows = x.reshape(-1, x.shape[-1])  # as in `_rows_times_kernel`
        logits = _float32_einsum("bd,vd->bv", rows, table, self.execution)
        return logits.reshape(*x.shape[:-1], -1)


class KeyValue(NamedTuple):
    """Projected keys and values of attention."""

    key: jax.Array
    """[B, N, S, H], the layout in which XLA:CPU multiplies."""
    value: jax.Array
    """[B, N, S, H]."""

    def updated(self, new: "KeyValue", slot: jax.Array | int) -> "KeyValue":
        """Returns a cache whose slots from `slot` on hold `new`."""
        return KeyValue(
            *(
                jax.lax.dynamic_update_slice_in_dim(old, each.astype(old.dtype), slot, 2)
                for old, each in zip(self, new, strict=True)
            )
        )


class Attention(nn.Module):
    """Multi-head attention of x over kv, with projections of queries, keys, values and output."""

    config: BertConfig
    execution: Execution
    site: Site
    """Dropout site of the probabilities."""

    def setup(self) -> None:
        for name in ("query", "key", "value", "output"):
            setattr(self, name, dense(self.config.hidden_size, self.config, self.execution))

    def __call__(
        self,
        x: jax.Array,
        kv: jax.Array | KeyValue | None = None,
        *,
        mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the projected context [B, T, D], and probabilities [B, N, T, S] before dropout.

        Args:
            x: [B, T, D].
            kv: [B, S, D] to attend to, or its keys and values from `project`; None for
                self-attention.
            mask: bool, broadcastable to [B, 1, T, S]; positions with False are not attended to.
            position_ids: [B, T] or [1, T], positions of x. Learned positions do not use them here;
                rotary positions would rotate query and key by them.
            keys: one dropout key per row, or None.
        """
        del position_ids
        config = self.config
        query = self._heads(self.query(x) * config.head_size**-0.5)
        key, value = kv if isinstance(kv, KeyValue) else self.project(x if kv is None else kv)
        logits = attention_logits(query, key, self.execution)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(logits, axis=-1).astype(value.dtype)  # [B, N, T, S]
        dropped = dropout(probs, keys, self.site, config.attention_probs_dropout_prob)
        context = attention_context(dropped, value, self.execution)  # [B, N, T, H]
        context = _heads_first(context, self.execution)
        return self.output(context.reshape(*context.shape[:2], config.hidden_size)), probs

    def project(self, kv: jax.Array) -> KeyValue:
        """Computes the keys and values of kv [B, S, D]."""
        return KeyValue(self._heads(self.key(kv)), self._heads(self.value(kv)))

    def _heads(self, x: jax.Array) -> jax.Array:
        """Splits x [B, T, D] into heads [B, N, T, H]."""
        x = x.reshape(*x.shape[:2], self.config.num_attention_heads, self.config.head_size)
        return _heads_first(x, self.execution)


class LayerOutput(NamedTuple):
    """Result of one layer."""

    x: jax.Array
    """[B, T, D]."""
    probs: jax.Array
    """[B, N, T, S]: probabilities of self-attention before dropout."""
    cache: KeyValue | None
    """The updated cache, if there is one."""


class Layer(nn.Module):
    """Self-attention, cross-attention in decoders, and feed-forward.

    Each is followed by dropout, residual and LayerNorm.
    """

    config: BertConfig
    execution: Execution
    add_cross_attention: bool = False
    """Whether the layer attends to `memory`, as those of a decoder do."""

    def setup(self) -> None:
        config, execution = self.config, self.execution
        self.attention = Attention(config, execution, Site.ATTENTION_PROBS)
        self.attention_layer_norm = LayerNorm(config)
        if self.add_cross_attention:
            self.cross_attention = Attention(config, execution, Site.CROSS_ATTENTION_PROBS)
            self.cross_attention_layer_norm = LayerNorm(config)
        self.intermediate = dense(config.intermediate_size, config, execution)
        self.output = dense(config.hidden_size, config, execution)
        self.output_layer_norm = LayerNorm(config)

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        keys: jax.Array | None = None,
        memory: jax.Array | KeyValue | None = None,
        memory_mask: jax.Array | None = None,
        cache: KeyValue | None = None,
        slot: jax.Array | int = 0,
    ) -> LayerOutput:
        """Computes the next x [B, T, D].

        Args:
            x: [B, T, D].
            mask: mask of self-attention, as in `Attention`.
            position_ids: [B, T] or [1, T].
            keys: one dropout key per row, or None.
            memory: what cross-attention attends to, the `kv` of `Attention`.
            memory_mask: mask of cross-attention.
            cache: keys and values [B, N, S, H] to attend to, after those of x are written.
            slot: the first slot of the cache to write to.
        """

        def add(x: jax.Array, output: jax.Array, site: Site, norm: LayerNorm) -> jax.Array:
            return norm(x + dropout(output, keys, site, self.config.hidden_dropout_prob))

        if cache is not None:
            cache = cache.updated(self.attention.project(x), slot)
        output, probs = self.attention(x, cache, mask=mask, position_ids=position_ids, keys=keys)
        x = add(x, output, Site.ATTENTION_OUTPUT, self.attention_layer_norm)
        if self.add_cross_attention:
            output, _ = self.cross_attention(x, memory, mask=memory_mask, keys=keys)
            x = add(x, output, Site.CROSS_ATTENTION_OUTPUT, self.cross_attention_layer_norm)
        hidden = activation(self.config.hidden_act, self.intermediate(x))
        x = add(x, self.output(hidden), Site.LAYER_OUTPUT, self.output_layer_norm)
        return LayerOutput(x, probs, cache)

    def project_memory(self, memory: jax.Array) -> KeyValue:
        """Computes the keys and values of cross-attention for memory [B, S, D]."""
        return self.cross_attention.project(memory)


def attention_logits(query: jax.Array, key: jax.Array, execution: Execution) -> jax.Array:
    """Multiplies query [B, N, T, H] and key [B, N, S, H]: float32 [B, N, T, S]."""
    return _float32_einsum("bnth,bnsh->bnts", query, key, execution)


def attention_context(probs: jax.Array, value: jax.Array, execution: Execution) -> jax.Array:
    """Multiplies probs [B, N, T, S] and value [B, N, S, H]: [B, N, T, H]."""
    return jnp.einsum("bnts,bnsh->bnth", probs, value, precision=execution.precision)


def _float32_einsum(equation: str, x: jax.Array, y: jax.Array, execution: Execution) -> jax.Array:
    return jnp.einsum(
        equation, x, y, precision=execution.precision, preferred_element_type=jnp.float32
    )


def _heads_first(x: jax.Array, execution: Execution) -> jax.Array:
    """Swaps [B, T, N, H] and [B, N, T, H], on a CPU in memory.

    XLA:CPU multiplies contiguous heads three times as fast. Without the barrier it folds the
    transposition back into the product.
    """

    def plain(x: jax.Array) -> jax.Array:
        return x.swapaxes(1, 2)

    def in_memory(x: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier(plain(x))

    if execution.attention == "plain":
        return plain(x)
    return jax.lax.platform_dependent(x, cpu=in_memory, default=plain)

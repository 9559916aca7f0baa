"""The parts of an encoder, as Flax Linen modules over plain arrays.

Shape letters, here and everywhere: B batch rows, T tokens, S tokens attended to (or examples in a
packed row), P predictions, D model width, N heads, H head size, F feed-forward width, V vocabulary,
C classes or choices, L layers.

Dropout never uses Linen's own random streams: every call gets `keys`, one key a row of the global
batch, and folds in the number of its site, so that a microbatch, a shard or a scanned layer draws
what the whole batch would have drawn. `keys=None` means no dropout.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution

# Sites of dropout within a layer, and the layer numbers of what lies outside the stack.
SITE_ATTENTION_PROBS, SITE_ATTENTION_OUTPUT, SITE_LAYER_OUTPUT, SITE_EMBEDDINGS = range(4)
SITE_POOLED, SITE_SEQUENCE = 4, 5
LAYER_EMBEDDINGS, LAYER_HEAD = 1 << 20, 1 << 21


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    """x * 0.5 * (1 + erf(x / sqrt(2))) in float32, as Google's `modeling.py` and PyTorch write it;
    `jax.nn.gelu` goes by erfc, which is slower on a CPU."""
    wide = x.astype(jnp.float32)
    return (wide * 0.5 * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The derivative written out: that of `jax.lax.erf` fails in `shard_map` under jax 0.12."""
    (x,), (x_dot,) = primals, tangents
    wide = x.astype(jnp.float32)
    below = 0.5 * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype) * x_dot


_ACTIVATIONS = {
    "gelu": _gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def activation(name: str, x: jax.Array) -> jax.Array:
    """`hidden_act` applied to x; "gelu" is the exact one (erf)."""
    return _ACTIVATIONS[name](x)


def fold_keys(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Folds a number into one key a row; None stays None."""
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def dropout(x: jax.Array, keys: jax.Array | None, site: int, rate: float) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales the others up.

    Row b draws from keys[b] and `site` alone. Each 32-bit word gives two 16-bit draws, which costs
    a tenth of a Bernoulli draw on CPU; the rate is rounded to 1/65,536 and the scale follows it.
    """
    threshold = round(rate * (1 << 16))
    if keys is None or threshold == 0:
        return x
    shape = x.shape[1:]

    def draw(key: jax.Array) -> jax.Array:
        # Two halves one after the other on the first axis: a TPU lays out a last axis of two in
        # 128 lanes.
        half = ((shape[0] + 1) // 2, *shape[1:])
        words = jax.random.bits(jax.random.fold_in(key, site), half, jnp.uint32)
        return jnp.concatenate([words & 0xFFFF, words >> 16])[: shape[0]]

    scale = jnp.asarray(1.0 / (1.0 - threshold / (1 << 16)), x.dtype)
    return jnp.where(jax.vmap(draw)(keys) >= threshold, x * scale, jnp.zeros((), x.dtype))


def dense(
    features: int, config: BertConfig, execution: Execution, name: str | None = None
) -> nn.Dense:
    """x @ kernel [in, out] + bias; the parameters are float32, the product in execution.dtype."""
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
    """x [..., in] @ kernel [in, out] as one product of two matrices: XLA:CPU transposes a gradient
    of three axes in memory before it multiplies."""
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nn.Module):
    """LayerNorm over D in float32 with the two-pass variance, returned in the type of x."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.config.layer_norm_eps)
        return (normal * scale + bias).astype(x.dtype)


class Embeddings(nn.Module):
    """Word + position + token type, LayerNorm, dropout."""

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
        """ids [B, T] int32 -> [B, T, D] in the compute type."""
        summed = (
            self.word_embeddings(input_ids)
            + self.position_embeddings(position_ids)
            + self.token_type_embeddings(token_type_ids)
        )
        normal = self.layer_norm(summed).astype(self.execution.dtype)
        rate = self.config.hidden_dropout_prob
        return dropout(normal, fold_keys(keys, LAYER_EMBEDDINGS), SITE_EMBEDDINGS, rate)

    def attend(self, x: jax.Array) -> jax.Array:
        """Products of x [..., D] with every word embedding: float32 [..., V], the tied decoder."""
        table = self.word_embeddings.embedding.astype(x.dtype)
        return jnp.einsum(
            "...d,vd->...v",
            x,
            table,
            precision=self.execution.precision,
            preferred_element_type=jnp.float32,
        )


class Attended(NamedTuple):
    """What attention gives: output [B, T, D], probs [B, N, T, S] and the keys and values of S."""

    output: jax.Array
    probs: jax.Array
    cache: tuple[jax.Array, jax.Array]


class EncoderLayer(nn.Module):
    """One post-LN layer: self-attention, then feed-forward, each with residual and LayerNorm."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x [B, T, D], mask broadcastable to [B, 1, T, T] -> x [B, T, D], probs [B, N, T, T]."""
        config = self.config
        attended = Attention(config, self.execution, name="attention")(x, mask=mask, keys=keys)
        x = attended.output
        hidden = dense(config.intermediate_size, config, self.execution, "intermediate")(x)
        hidden = activation(config.hidden_act, hidden)
        output = dense(config.hidden_size, config, self.execution, "output")(hidden)
        output = dropout(output, keys, SITE_LAYER_OUTPUT, config.hidden_dropout_prob)
        return LayerNorm(config, name="layer_norm")(x + output), attended.probs


class Attention(nn.Module):
    """Multi-head attention of x over kv, output projection, dropout, residual, LayerNorm."""

    config: BertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kv: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: tuple[jax.Array, jax.Array] | None = None,
        keys: jax.Array | None = None,
    ) -> Attended:
        """Attends.

        Args:
            x: [B, T, D].
            kv: [B, S, D] to attend to; x itself where it is None.
            mask: bool, broadcastable to [B, 1, T, S]; False is not attended to.
            cache: keys and values [B, S', N, H] of earlier positions, put before those of kv.
            keys: one dropout key a row, or None.
        """
        config = self.config
        kv = x if kv is None else kv

        def project(name: str, source: jax.Array) -> jax.Array:
            flat = dense(config.hidden_size, config, self.execution, name)(source)
            return flat.reshape(*flat.shape[:2], config.num_attention_heads, config.head_size)

        query, key, value = project("query", x), project("key", kv), project("value", kv)
        if cache is not None:
            key = jnp.concatenate([cache[0], key], axis=1)
            value = jnp.concatenate([cache[1], value], axis=1)
        logits = attention_logits(query * config.head_size**-0.5, key, self.execution)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        probs = jax.nn.softmax(logits, axis=-1).astype(value.dtype)  # [B, N, T, S]
        rate = config.attention_probs_dropout_prob
        dropped = dropout(probs, keys, SITE_ATTENTION_PROBS, rate)
        context = attention_context(dropped, value, self.execution)  # [B, T, N, H]
        context = context.reshape(*context.shape[:2], config.hidden_size)
        output = dense(config.hidden_size, config, self.execution, "output")(context)
        output = dropout(output, keys, SITE_ATTENTION_OUTPUT, config.hidden_dropout_prob)
        return Attended(LayerNorm(config, name="layer_norm")(x + output), probs, (key, value))


def attention_logits(query: jax.Array, key: jax.Array, execution: Execution) -> jax.Array:
    """query [B, T, N, H], key [B, S, N, H] -> float32 [B, N, T, S]."""

    def einsum(equation: str, query: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.einsum(
            equation,
            query,
            key,
            precision=execution.precision,
            preferred_element_type=jnp.float32,
        )

    def plain(query: jax.Array, key: jax.Array) -> jax.Array:
        return einsum("btnh,bsnh->bnts", query, key)

    def heads_first(query: jax.Array, key: jax.Array) -> jax.Array:
        return einsum("bnth,bnsh->bnts", _heads_first(query), _heads_first(key))

    if execution.attention == "plain":
        return plain(query, key)
    return jax.lax.platform_dependent(query, key, cpu=heads_first, default=plain)


def attention_context(probs: jax.Array, value: jax.Array, execution: Execution) -> jax.Array:
    """probs [B, N, T, S], value [B, S, N, H] -> [B, T, N, H]."""

    def plain(probs: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.einsum("bnts,bsnh->btnh", probs, value, precision=execution.precision)

    def heads_first(probs: jax.Array, value: jax.Array) -> jax.Array:
        context = jnp.einsum(
            "bnts,bnsh->bnth", probs, _heads_first(value), precision=execution.precision
        )
        return _heads_first(context)

    if execution.attention == "plain":
        return plain(probs, value)
    return jax.lax.platform_dependent(probs, value, cpu=heads_first, default=plain)


def _heads_first(x: jax.Array) -> jax.Array:
    """Swaps [B, T, N, H] and [B, N, T, H] in memory: XLA:CPU multiplies contiguous heads 3 x
    faster, and without the barrier it folds the transposition back into the product."""
    return jax.lax.optimization_barrier(x.swapaxes(1, 2))

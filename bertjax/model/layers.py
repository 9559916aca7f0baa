"""Building blocks of encoders and decoders: Flax Linen modules and functions of arrays.

Shape letters, here and everywhere: B batch rows, T tokens, S tokens attended to (or examples in a
packed row), P predictions, D model width, N heads, H head size, F feed-forward width, V vocabulary,
C classes or choices, K beams, L layers.

`keys` are those of `bertjax.model.dropout`: one key per row of the global batch, or None.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.config import BertConfig, Execution
from bertjax.model.attention import (
    attention_context,
    attention_probs,
    dropped_attention,
    float32_einsum,
)
from bertjax.model.dropout import LAYER_EMBEDDINGS, Site, dropout, fold_keys
from bertjax.model.positions import Rotation, View, gather_positions, rotate
from bertjax.model.splash import check_splash, splash_attention

truncated_normal = nn.initializers.truncated_normal


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


_ACTIVATIONS = {"gelu": _gelu, "gelu_new": _gelu_tanh, "gelu_tanh": _gelu_tanh}
_ACTIVATIONS |= {"relu": jax.nn.relu, "silu": jax.nn.silu}


def activation(name: str, x: jax.Array) -> jax.Array:
    """Applies `hidden_act`; "gelu" is the exact one (erf)."""
    return _ACTIVATIONS[name](x)


def dense(
    features: int,
    config: BertConfig,
    execution: Execution,
    name: str | None = None,
    initializer: Callable[[float], nn.initializers.Initializer] = truncated_normal,
    use_bias: bool = True,
) -> nn.Dense:
    """Makes x @ kernel [in, out] + bias with float32 parameters, computed in execution.dtype."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=jnp.dtype(execution.dtype),
        param_dtype=jnp.float32,
        precision=execution.precision,
        kernel_init=initializer(config.initializer_range),
        dot_general=_x_times_kernel,
        name=name,
    )


def output_initializer(config: BertConfig) -> Callable[[float], nn.initializers.Initializer]:
    """Returns the initializer of the layers whose output is added to the residual stream.

    With norm_placement "pre" their deviation is divided by sqrt(2 L), as in GPT-2 and ModernBERT:
    nothing else normalizes the sum.
    """
    if config.norm_placement == "post":
        return truncated_normal
    depth = math.sqrt(2 * config.num_hidden_layers)
    return lambda deviation: truncated_normal(deviation / depth)


def _x_times_kernel(x: jax.Array, kernel: jax.Array, _: object, **options: Any) -> jax.Array:
    """Computes x [..., in] @ kernel [in, out], on a CPU as one product of two matrices.

    With three axes XLA:CPU would transpose the gradient in memory first. With two, a TPU would copy
    queries, keys and values to split them into heads.
    """

    def rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
        product = whole(x.reshape(-1, x.shape[-1]), kernel)
        return product.reshape(*x.shape[:-1], kernel.shape[-1])

    def whole(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), **options)

    return jax.lax.platform_dependent(x, kernel, cpu=rows, default=whole)


class LayerNorm(nn.Module):
    """LayerNorm over D, computed in float32; the result has the type of x.

    The variance of float32 takes two passes over x. That of bfloat16 is the mean of the squares
    less the square of the mean, which a TPU computes in one pass, forward and backward. Its
    rounding error stays below that of x itself, which has 8 bits.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = None
        if self.config.norm_bias:
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        centered = wide - mean
        if x.dtype == jnp.bfloat16:
            squares = jnp.square(wide).mean(-1, keepdims=True)
            variance = jnp.maximum(squares - jnp.square(mean), 0.0)
        else:
            variance = jnp.square(centered).mean(-1, keepdims=True)
        normal = centered * jax.lax.rsqrt(variance + self.config.layer_norm_eps)
        scaled = normal * scale
        return (scaled if bias is None else scaled + bias).astype(x.dtype)


class Embeddings(nn.Module):
    """Sum of word, position and token type embeddings, then LayerNorm and dropout.

    Rotary positions have no embeddings, and a shape may be without token types and LayerNorm.
    """

    config: BertConfig
    execution: Execution

    def setup(self) -> None:
        def table(rows: int) -> nn.Embed:
            initial = nn.initializers.truncated_normal(self.config.initializer_range)
            return nn.Embed(rows, self.config.hidden_size, embedding_init=initial)

        self.word_embeddings = table(self.config.vocab_size)
        positions = self.config.max_position_embeddings + self.config.position_offset
        self.position_embeddings = table(positions)
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
        config, x = self.config, self.word_embeddings(input_ids)
        if config.position_embedding_type == "absolute":
            offset = config.position_offset
            x = x + self.position_embeddings(position_ids + offset if offset else position_ids)
        if config.type_vocab_size:
            x = x + self.token_type_embeddings(token_type_ids)
        normal = (self.layer_norm(x) if config.embedding_norm else x).astype(self.execution.dtype)
        rate = self.config.hidden_dropout_prob
        return dropout(normal, fold_keys(keys, LAYER_EMBEDDINGS), Site.EMBEDDINGS, rate)

    def attend(self, x: jax.Array) -> jax.Array:
        """Multiplies x [R, D] with all word embeddings (the tied decoder): float32 [R, V]."""
        table = self.word_embeddings.embedding.astype(x.dtype)
        return float32_einsum("rd,vd->rv", x, table, self.execution)


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
        config, bias = self.config, self.config.attention_bias
        for name in ("query", "key", "value", "output"):
            initializer = output_initializer(config) if name == "output" else truncated_normal
            made = dense(config.hidden_size, config, self.execution, None, initializer, bias)
            setattr(self, name, made)

    def __call__(
        self,
        x: jax.Array,
        kv: jax.Array | KeyValue | None = None,
        *,
        mask: jax.Array | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the projected context [B, T, D], and probabilities [B, N, T, S] before dropout.

        Args:
            x: [B, T, D].
            kv: [B, S, D] to attend to, or its keys and values from `project`; None for
                self-attention.
            mask: bool, broadcastable to [B, 1, T, S]; positions with False are not attended to.
            rotation: rotary positions of x, by which queries and new keys are rotated.
            keys: one dropout key per row, or None.
            positions: [B, P]: the places of x [B, P, D] among the tokens that it attends to, if it
                has not all of them. Its dropout is then that of these places.
        """
        config = self.config
        query = rotate(self._heads(self.query(x) * config.head_size**-0.5), rotation)
        if not isinstance(kv, KeyValue):
            kv = self.project(x if kv is None else kv, rotation)
        key, value = kv
        probs = attention_probs(query, key, mask, self.execution).astype(value.dtype)
        rate = config.attention_probs_dropout_prob
        if self.execution.attention == "splash" and not self.is_initializing():
            check_splash(query.shape[2], key.shape[2], 0.0 if keys is None else rate, mask)
            context = jax.lax.platform_dependent(
                tpu=lambda: splash_attention(query, key, value, mask),
                default=lambda: attention_context(probs, value, self.execution),
            )
        elif keys is None or self.execution.attention == "plain":
            dropped = dropout(probs, keys, self.site, rate, positions)
            context = attention_context(dropped, value, self.execution)
        else:
            how = self.site, rate, self.execution
            context = dropped_attention(query, key, value, mask, keys, positions, *how)
        context = _heads_first(context, self.execution)
        return self.output(context.reshape(*context.shape[:2], config.hidden_size)), probs

    def project(self, kv: jax.Array, rotation: Rotation | None = None) -> KeyValue:
        """Computes the keys, rotated if they have rotary positions, and values of kv [B, S, D]."""
        return KeyValue(rotate(self._heads(self.key(kv)), rotation), self._heads(self.value(kv)))

    def _heads(self, x: jax.Array) -> jax.Array:
        """Splits x [B, T, D] into heads [B, N, T, H]."""
        x = x.reshape(*x.shape[:2], self.config.num_attention_heads, self.config.head_size)
        return _heads_first(x, self.execution)


class LayerOutput(NamedTuple):
    """Result of one layer."""

    x: jax.Array
    """[B, T, D], or [B, P, D] at positions [B, P]."""
    probs: jax.Array
    """[B, N, T, S]: probabilities of self-attention before dropout; [B, N, P, S] at positions."""
    cache: KeyValue | None
    """The updated cache, if there is one."""


class Layer(nn.Module):
    """Self-attention, cross-attention in decoders, and feed-forward.

    Each is followed by dropout, residual and LayerNorm or, with norm_placement "pre", preceded by
    LayerNorm and followed by dropout and residual.
    """

    config: BertConfig
    execution: Execution
    add_cross_attention: bool = False
    """Whether the layer attends to `memory`, as those of a decoder do."""
    lacks_norm: bool = False
    """Whether there is no LayerNorm before attention; see `BertConfig.lacks_norm`."""

    def setup(self) -> None:
        config, execution = self.config, self.execution
        self.attention = Attention(config, execution, Site.ATTENTION_PROBS)
        self.attention_layer_norm = LayerNorm(config)
        if self.add_cross_attention:
            self.cross_attention = Attention(config, execution, Site.CROSS_ATTENTION_PROBS)
            self.cross_attention_layer_norm = LayerNorm(config)
        make = functools.partial(dense, config=config, execution=execution)
        self.intermediate = make(config.intermediate_size, use_bias=config.mlp_bias)
        if config.glu:
            self.gate = make(config.intermediate_size, use_bias=config.mlp_bias)
        self.output = make(
            config.hidden_size, initializer=output_initializer(config), use_bias=config.mlp_bias
        )
        self.output_layer_norm = LayerNorm(config)

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        memory: jax.Array | KeyValue | None = None,
        memory_mask: jax.Array | None = None,
        cache: KeyValue | None = None,
        slot: jax.Array | int = 0,
        positions: jax.Array | None = None,
    ) -> LayerOutput:
        """Computes the next x [B, T, D], or [B, P, D] at `positions` alone.

        Args:
            x: [B, T, D].
            mask: mask of self-attention, as in `Attention`.
            rotation: rotary positions of x.
            keys: one dropout key per row, or None.
            memory: what cross-attention attends to, the `kv` of `Attention`.
            memory_mask: mask of cross-attention.
            cache: keys and values [B, N, S, H] to attend to, after those of x are written.
            slot: the first slot of the cache to write to.
            positions: [B, P]: the tokens whose output is computed. They attend to all tokens. None:
                all; always None with a cache.
        """
        is_post = self.config.norm_placement == "post"

        def read(x: jax.Array, norm: LayerNorm, skip: bool = False) -> jax.Array:
            return x if is_post or skip else norm(x)

        def add(x: jax.Array, output: jax.Array, site: Site, norm: LayerNorm) -> jax.Array:
            rate = self.config.hidden_dropout_prob
            x = x + dropout(output, keys, site, rate, positions)
            return norm(x) if is_post else x

        own = read(x, self.attention_layer_norm, skip=self.lacks_norm)
        attended = None
        if cache is not None:
            attended = cache = cache.updated(self.attention.project(own, rotation), slot)
        elif positions is not None:
            attended = self.attention.project(own, rotation)
            own = gather_positions(own, positions)
            x = own if is_post else gather_positions(x, positions)
            mask, rotation = View(mask, rotation).at(positions)
        view = {"mask": mask, "rotation": rotation}
        output, probs = self.attention(own, attended, keys=keys, positions=positions, **view)
        x = add(x, output, Site.ATTENTION_OUTPUT, self.attention_layer_norm)
        if self.add_cross_attention:
            own = read(x, self.cross_attention_layer_norm)
            output, _ = self.cross_attention(own, memory, mask=memory_mask, keys=keys)
            x = add(x, output, Site.CROSS_ATTENTION_OUTPUT, self.cross_attention_layer_norm)
        own = read(x, self.output_layer_norm)
        hidden = activation(self.config.hidden_act, self.intermediate(own))
        hidden = hidden * self.gate(own) if self.config.glu else hidden
        x = add(x, self.output(hidden), Site.LAYER_OUTPUT, self.output_layer_norm)
        return LayerOutput(x, probs, cache)

    def project_memory(self, memory: jax.Array) -> KeyValue:
        """Computes the keys and values of cross-attention for memory [B, S, D]."""
        return self.cross_attention.project(memory)


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

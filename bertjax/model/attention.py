"""Attention as functions of queries, keys and values, with a derivative that needs less memory."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax.config import Execution
from bertjax.model.dropout import kept_entries, scale_of_kept


def attention_probs(
    query: jax.Array, key: jax.Array, mask: jax.Array | None, execution: Execution
) -> jax.Array:
    """Computes float32 probabilities [B, N, T, S].

    Args:
        query: [B, N, T, H], already scaled.
        key: [B, N, S, H].
        mask: bool, broadcastable to [B, N, T, S]; positions with False are not attended to.
        execution: how to compute.
    """
    logits = float32_einsum("bnth,bnsh->bnts", query, key, execution)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(logits, axis=-1)


def attention_context(probs: jax.Array, value: jax.Array, execution: Execution) -> jax.Array:
    """Multiplies probs [B, N, T, S] and value [B, N, S, H]: [B, N, T, H]."""
    return jnp.einsum("bnts,bnsh->bnth", probs, value, precision=execution.precision)


class _Saved(NamedTuple):
    """The backward pass reads these arrays."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    signed: jax.Array
    """Probabilities [B, N, T, S], negative where dropout zeroes them."""
    context: jax.Array


def dropped_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    keys: jax.Array,
    positions: jax.Array | None,
    site: int,
    rate: float,
    execution: Execution,
) -> jax.Array:
    """Computes the context [B, N, T, H] of attention with dropout of its probabilities.

    Its value is that of `attention_probs`, `dropout` and `attention_context`. For the backward pass
    it keeps one array [B, N, T, S], whose sign says what dropout zeroes, so that nothing is drawn
    twice. The sum over S in the derivative of softmax is the product of the context and its
    gradient, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135, appendix B). It has no
    forward-mode derivative.

    Args:
        query: [B, N, T, H], already scaled.
        key: [B, N, S, H].
        value: [B, N, S, H].
        mask: as in `attention_probs`.
        keys: one dropout key per row.
        positions: [B, T]: the places of the queries among the keys, if they are not all of them;
            see `kept_entries`.
        site: number of the dropout site.
        rate: probability of zeroing.
        execution: how to compute.
    """
    context: Any = _context(query, key, value, mask, keys, positions, site, rate, execution)
    return context


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _context(query, key, value, mask, keys, positions, site, rate, execution):  # noqa: ANN001
    return _forward(query, key, value, mask, keys, positions, site, rate, execution)[0]


def _forward(query, key, value, mask, keys, positions, site, rate, execution):  # noqa: ANN001
    signed = attention_probs(query, key, mask, execution).astype(value.dtype)
    kept = kept_entries(signed.shape, keys, site, rate, positions)
    if kept is not None:
        signed = jnp.where(kept, signed, -signed)
    context = attention_context(_dropped(signed, rate), value, execution)
    return context, _Saved(query, key, value, signed, context)


def _dropped(signed: jax.Array, rate: float) -> jax.Array:
    return jnp.maximum(signed, 0) * scale_of_kept(rate, signed.dtype)


def _backward(_site, rate, execution, saved, gradient):  # noqa: ANN001
    query, key, value, signed, context = saved
    product = functools.partial(jnp.einsum, precision=execution.precision)
    sums = (gradient.astype(jnp.float32) * context.astype(jnp.float32)).sum(-1, keepdims=True)
    of_value = product("bnts,bnth->bnsh", _dropped(signed, rate), gradient)
    of_probs = float32_einsum("bnth,bnsh->bnts", gradient, value, execution)
    of_probs *= scale_of_kept(rate, jnp.float32)
    wide = signed.astype(jnp.float32)
    of_logits = (wide * jnp.where(wide > 0, of_probs - sums, sums)).astype(query.dtype)
    of_query = product("bnts,bnsh->bnth", of_logits, key)
    of_key = product("bnts,bnth->bnsh", of_logits, query)
    return of_query, of_key, of_value, None, None, None


_context.defvjp(_forward, _backward)


def float32_einsum(equation: str, x: jax.Array, y: jax.Array, execution: Execution) -> jax.Array:
    """Computes `jnp.einsum` with a float32 result."""
    return jnp.einsum(
        equation, x, y, precision=execution.precision, preferred_element_type=jnp.float32
    )

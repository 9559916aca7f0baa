"""Poolings: from the states of the tokens of a text to one vector."""

import jax
import jax.numpy as jnp


def pool(states: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
    """Pools states [B, T, D] whose tokens have mask 1 [B, T, 1]; returns [B, D].

    Source: sentence-transformers' `models/Pooling.py`.
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return jnp.where(mask > 0, states, -jnp.inf).max(1)
    if pooling == "lasttoken":
        last = mask.sum(1, keepdims=True).astype(jnp.int32) - 1
        return jnp.take_along_axis(states, jnp.maximum(last, 0), axis=1)[:, 0]
    if pooling == "weightedmean":  # a token weighs as much as its position, from 1
        mask = mask * jnp.arange(1.0, mask.shape[1] + 1)[:, None]
    total, count = (states * mask).sum(1), jnp.maximum(mask.sum(1), 1.0)
    return total / (jnp.sqrt(count) if pooling == "mean_sqrt_len_tokens" else count)


def unit(vectors: jax.Array) -> jax.Array:
    """Scales vectors [..., D] to length 1, as PyTorch's `normalize` does."""
    squares = (vectors * vectors).sum(-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squares, 1e-24))

"""Dropout whose draws are a function of a key for each row and of the number of its site.

It does not use Linen's random streams. Every call takes `keys`, one key per row of the global
batch, and folds in the number of its site. A microbatch, a shard or a scanned layer therefore draws
the same numbers as the whole batch. `keys=None` disables dropout.
"""

import enum
import math

import jax
import jax.numpy as jnp
import numpy as np

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


def fold_keys(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Folds a number into the key of every row; None stays None."""
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def dropout(
    x: jax.Array,
    keys: jax.Array | None,
    site: int,
    rate: float,
    positions: jax.Array | None = None,
) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales the others up.

    With positions [B, P], x [B, P, D] or [B, N, P, S] has those tokens alone; see `kept_entries`.
    """
    kept = kept_entries(x.shape, keys, site, rate, positions)
    if kept is None:
        return x
    return jnp.where(kept, x * scale_of_kept(rate, x.dtype), jnp.zeros((), x.dtype))


def kept_entries(
    shape: tuple[int, ...],
    keys: jax.Array | None,
    site: int,
    rate: float,
    positions: jax.Array | None = None,
) -> jax.Array | None:
    """Draws which entries dropout keeps: bool [B, ...], or None if it keeps all.

    Row b draws from keys[b] and `site` alone: the draw of an entry is a hash of its number in the
    row and of 64 random bits. XLA fuses the hash into the operations that use it and stores no
    array of draws, as it does of `jax.random.bits`. The rate is rounded to a multiple of 2**-32,
    and stays below 1.

    With positions [B, P], the axis before the last has these tokens alone, and they draw what they
    draw among all tokens, of [B, T, D] or of self-attention, [B, N, T, T].
    """
    threshold, row = _threshold(rate), shape[1:]
    if keys is None or threshold == 0:
        return None
    # The sizes of all tokens. That of [T, D] before D counts nothing, and in [N, T, T] both are T.
    whole = row if positions is None else (*row[:-2], row[-1], row[-1])

    def draw(key: jax.Array, tokens: jax.Array | None) -> jax.Array:
        first, second = jax.random.bits(jax.random.fold_in(key, site), (2,))
        indices = [jax.lax.broadcasted_iota(jnp.uint32, row, axis) for axis in range(len(row))]
        if tokens is not None:
            indices[-2] = tokens[:, None].astype(jnp.uint32)
        numbers = sum(
            index * np.uint32(math.prod(whole[axis + 1 :])) for axis, index in enumerate(indices)
        )
        return _hash(_hash(numbers ^ first) + second)

    over_rows = (0, None if positions is None else 0)
    return jax.vmap(draw, over_rows)(keys, positions) >= np.uint32(threshold)


def scale_of_kept(rate: float, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the factor of the entries that dropout keeps, 1 / (1 - rate)."""
    return jnp.asarray(1.0 / (1.0 - _threshold(rate) / (1 << 32)), dtype)


def _threshold(rate: float) -> int:
    return min(round(rate * (1 << 32)), (1 << 32) - 1)


def _hash(x: jax.Array) -> jax.Array:
    """Permutes uint32 numbers by a function of Chris Wellons' hash-prospector."""
    x = (x ^ x >> 16) * np.uint32(0x21F0AAAD)
    x = (x ^ x >> 15) * np.uint32(0xD35A2D97)
    return x ^ x >> 15

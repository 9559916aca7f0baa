"""Cross-entropy of a linear layer over the vocabulary, which never keeps its logits."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class CrossEntropySums(NamedTuple):
    """Weighted sums over all tokens, float32 []."""

    loss: jax.Array
    """Cross-entropy with label smoothing, in nats."""
    nll: jax.Array
    """Cross-entropy without it. It has no gradient."""
    correct: jax.Array
    """Tokens whose label has the largest logit. It has no gradient."""


def linear_cross_entropy(
    x: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    smoothing: float = 0.0,
    precision: str | None = None,
) -> CrossEntropySums:
    """Computes sums of `smoothed_cross_entropy` of the logits x @ table^T + bias.

    The gradients are computed beside the loss, as in Liger-Kernel's FusedLinearCrossEntropy
    (Hsu et al. 2024), so that the logits [B, T, V] are neither stored nor computed again. On a CPU
    a few positions of all rows are computed at a time, whose logits stay in the cache.

    Args:
        x: [B, T, D], float32 or bfloat16, the type of the products.
        table: [V, D] float32.
        bias: [V] float32.
        labels: int32 [B, T].
        weights: float32 [B, T].
        smoothing: as in `smoothed_cross_entropy`.
        precision: of the products, as in `jax.lax.dot_general`.
    """
    sums: Any = _sums(smoothing, precision, x, table, bias, labels, weights)
    return CrossEntropySums(*sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(smoothing, precision, x, table, bias, labels, weights):  # noqa: ANN001
    return _sums_and_gradients(smoothing, precision, x, table, bias, labels, weights)[0]


def _sums_and_gradients(smoothing, precision, x, table, bias, labels, weights):  # noqa: ANN001
    """Returns the sums, and the gradients of the loss in x, table and bias."""

    def in_slices(*arrays: jax.Array):
        split = [_split(array, _positions(*labels.shape)) for array in arrays]
        one = functools.partial(_of_rows, smoothing, precision, table, bias, gather=True)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(lambda: one(*(array[0] for array in split))[0]),
        )

        def body(total, arrays):  # noqa: ANN001
            sums, x_gradient = one(*arrays)
            return jax.tree.map(jnp.add, total, sums), x_gradient

        sums, x_gradient = jax.lax.scan(body, zeros, tuple(split))
        joined = jnp.moveaxis(x_gradient, 0, 1).reshape(x.shape[0], -1, x.shape[2])
        return sums, joined[:, : x.shape[1]]

    def whole(*arrays: jax.Array):
        return _of_rows(smoothing, precision, table, bias, *arrays)

    (sums, *gradients), x_gradient = jax.lax.platform_dependent(
        x, labels, weights, cpu=in_slices, default=whole
    )
    return sums, (x_gradient, *gradients)


def _positions(rows: int, length: int) -> int:
    """Returns how many of the T positions to compute at a time, all of them for few rows.

    Products of 128 to 512 rows of logits are equally fast. Of these, it is the number that leaves
    the least padding.
    """
    least = min(-(-128 // rows), length)
    most = min(max(512 // rows, least), length)
    return min(range(least, most + 1), key=lambda size: -(-length // size) * size)


def _split(array: jax.Array, size: int) -> jax.Array:
    """Cuts [B, T, ...] into [T / size, B, size, ...], padded with zeros, which weigh nothing."""
    rows, length, *rest = array.shape
    padded = jnp.pad(array, ((0, 0), (0, -length % size), *((0, 0) for _ in rest)))
    return jnp.moveaxis(padded.reshape(rows, -1, size, *rest), 1, 0)


def _of_rows(smoothing, precision, table, bias, x, labels, weights, *, gather=False):  # noqa: ANN001
    """Returns ((the sums, gradients in table and bias), gradient in x [B, T, D]).

    `gather` says how to find the logit of the label: a CPU gathers it sooner than it sums a row.
    """
    shape, vocabulary = x.shape, table.shape[0]
    x, labels, weights = x.reshape(-1, shape[-1]), labels.reshape(-1), weights.reshape(-1, 1)
    product = functools.partial(
        jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32
    )
    narrow = table.astype(x.dtype)
    logits = product(x, narrow, (((1,), (1,)), ((), ()))) + bias
    largest = logits.max(-1, keepdims=True)
    exponentials = jnp.exp(logits - largest)
    total = exponentials.sum(-1, keepdims=True)
    is_label = jnp.arange(vocabulary) == labels[:, None]
    if gather:
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    else:
        chosen = jnp.where(is_label, logits, 0.0).sum(-1, keepdims=True)
    log_total = jnp.log(total) + largest
    nll = log_total - chosen
    smoothed = log_total - (1 - smoothing) * chosen - smoothing * logits.mean(-1, keepdims=True)
    sums = tuple(
        (each * weights).sum() for each in (smoothed, nll, (chosen >= largest).astype(jnp.float32))
    )
    spread = smoothing / vocabulary
    target = jnp.where(is_label, 1 - smoothing + spread, spread)
    gradient = weights * (exponentials / total - target)  # [B * T, V]
    rounded = gradient.astype(x.dtype)
    table_gradient = product(rounded, x, (((0,), (0,)), ((), ())))
    x_gradient = product(rounded, narrow, (((1,), (0,)), ((), ()))).astype(x.dtype)
    return (sums, table_gradient, gradient.sum(0)), x_gradient.reshape(shape)


def _backward(smoothing, precision, gradients, cotangents):  # noqa: ANN001
    del smoothing, precision
    scale = cotangents[0]
    return (*((scale * each).astype(each.dtype) for each in gradients), None, None)


_sums.defvjp(_sums_and_gradients, _backward)

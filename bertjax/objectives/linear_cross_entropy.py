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
        slices = _slices(*labels.shape)
        split = [
            jnp.moveaxis(array.reshape(array.shape[0], slices, -1, *array.shape[2:]), 1, 0)
            for array in arrays
        ]
        one = functools.partial(_of_rows, smoothing, precision, table, bias)
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(lambda: one(*(array[0] for array in split))[0]),
        )

        def body(total, arrays):  # noqa: ANN001
            sums, x_gradient = one(*arrays)
            return jax.tree.map(jnp.add, total, sums), x_gradient

        sums, x_gradient = jax.lax.scan(body, zeros, tuple(split))
        return sums, jnp.moveaxis(x_gradient, 0, 1).reshape(x.shape)

    def whole(*arrays: jax.Array):
        return _of_rows(smoothing, precision, table, bias, *arrays)

    (sums, *gradients), x_gradient = jax.lax.platform_dependent(
        x, labels, weights, cpu=in_slices, default=whole
    )
    return sums, (x_gradient, *gradients)


def _slices(rows: int, length: int) -> int:
    """Returns in how many equal parts to cut T: the most whose rows are at least 256."""
    parts = (n for n in range(length, 0, -1) if length % n == 0)
    return next(n for n in parts if rows * length // n >= 256 or n == 1)


def _of_rows(smoothing, precision, table, bias, x, labels, weights):  # noqa: ANN001
    """Returns ((the sums, gradients in table and bias), gradient in x [B, T, D])."""
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

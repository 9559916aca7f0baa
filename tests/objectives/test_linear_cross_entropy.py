"""The fused cross-entropy equals that of logits, and so do its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.objectives.linear_cross_entropy import linear_cross_entropy
from bertjax.objectives.losses import smoothed_cross_entropy

B, D, V = 64, 8, 37


def arguments(length):
    random = np.random.default_rng(length)
    x = random.normal(size=(B, length, D)).astype(np.float32)
    table = random.normal(size=(V, D)).astype(np.float32)
    bias = random.normal(size=V).astype(np.float32)
    labels = random.integers(0, V, (B, length), np.int32)
    weights = random.random((B, length), np.float32) * (random.random((B, length)) < 0.8)
    return (x, table, bias), labels, weights


# Slices of 64 rows have 2 to 8 positions: six slices of 2, and two of 7 with a padded position.
@pytest.mark.parametrize("length", [12, 13])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_logits(length, smoothing):
    given, labels, weights = arguments(length)

    def of_logits(x, table, bias):
        logits = x @ table.T + bias
        return (smoothed_cross_entropy(logits, labels, smoothing) * weights).sum() / 3

    def fused(x, table, bias):
        sums = linear_cross_entropy(x, table, bias, labels, weights, smoothing=smoothing)
        return sums.loss / 3, sums

    wanted, gradients = jax.jit(jax.value_and_grad(of_logits, (0, 1, 2)))(*given)
    both = jax.jit(jax.value_and_grad(fused, (0, 1, 2), has_aux=True))
    (loss, sums), found = both(*given)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    # Sums of 64 x 12 float32 terms in another order.
    for mine, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    x, table, bias = given
    logits = x @ table.T + bias
    nll = (smoothed_cross_entropy(jnp.asarray(logits), labels, 0.0) * weights).sum()
    np.testing.assert_allclose(sums.nll, nll, rtol=1e-5)
    right = ((logits.argmax(-1) == labels) * weights).sum()
    np.testing.assert_allclose(sums.correct, right, rtol=1e-5)


def test_metrics_have_no_gradient_and_bfloat16_stays_close():
    (x, table, bias), labels, weights = arguments(12)

    def metric(x):
        sums = linear_cross_entropy(x, table, bias, labels, weights)
        return sums.nll + sums.correct

    assert not jax.grad(metric)(x).any()
    narrow = linear_cross_entropy(x.astype(jnp.bfloat16), table, bias, labels, weights)
    wide = linear_cross_entropy(x, table, bias, labels, weights)
    # bfloat16 has 8 bits: a logit of size 10 is off by 0.04, and their errors average out.
    np.testing.assert_allclose(narrow.loss, wide.loss, rtol=5e-3)

"""The loss of a student against a teacher's outputs, beside float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.objectives.distillation import (
    Distillation,
    soft_binary_cross_entropy,
    soft_cross_entropy,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(scale=3, size=(2, 4, 5, 3)).astype(np.float32)
TEMPERATURES = (0.5, 1.0, 4.0)


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def divergence(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


def binary_divergence(student, teacher, temperature):
    pairs = (np.stack([each, np.zeros_like(each)], -1) for each in (student, teacher))
    return divergence(*pairs, temperature).mean(-1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_divergence_of_one_label(temperature):
    found = soft_cross_entropy(STUDENT, TEACHER, temperature)
    # Where both nearly agree, float32 rounds the difference of logits.
    expected = divergence(STUDENT, TEACHER, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: soft_cross_entropy(x, TEACHER, temperature).sum())(STUDENT)
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    np.testing.assert_allclose(gradient, temperature * (q - p), atol=3e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_divergence_of_labels_of_a_set(temperature):
    found = soft_binary_cross_entropy(STUDENT, TEACHER, temperature)
    expected = binary_divergence(STUDENT, TEACHER, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_has_no_divergence_from_itself():
    assert not np.asarray(soft_cross_entropy(TEACHER, TEACHER, 2.0)).any()
    assert not np.asarray(soft_binary_cross_entropy(TEACHER, TEACHER, 2.0)).any()


def test_the_parts_are_weighted_and_shown():
    def soft_loss(logits, batch, temperature):
        return (logits - batch["teacher_logits"]).sum() * temperature

    batch = {"teacher_logits": jnp.ones(4)}
    metrics = {"loss": (jnp.float32(10.0), jnp.float32(4.0)), "accuracy": (1.0, 4.0)}
    found = Distillation(soft_loss, 0.25, 2.0)(metrics, jnp.full(4, 3.0), batch)
    assert found == {
        "loss": (0.75 * 10 + 0.25 * 16, 4),
        "hard_loss": (10, 4),
        "soft_loss": (16, 4),
        "accuracy": (1, 4),
    }

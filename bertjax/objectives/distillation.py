"""Distillation: a student learns from the outputs of a teacher beside the labels of the rows."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bertjax.objectives.losses import Batch, Metrics

SoftLoss = Callable[[jax.Array, Batch, float], jax.Array]
"""(logits, batch, temperature) -> float32 []: the sum of a loss against the outputs of a teacher.
They are batch["teacher_logits"], shaped like the logits. The normalizer is that of the loss against
the labels."""


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The loss (1 - weight) * hard + weight * soft; equal values share compiled programs.

    hard is the loss against the labels, soft that against the teacher's outputs.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """

    soft_loss: SoftLoss
    weight: float
    """Weight of the soft loss, from 0 to 1."""
    temperature: float
    """Divides the logits of both models before the softmax; above 0."""

    def __call__(self, metrics: Metrics, logits: jax.Array, batch: Batch) -> Metrics:
        """Replaces `loss` by the weighted sum, and adds its parts hard_loss and soft_loss."""
        hard, weight = metrics["loss"]
        soft = self.soft_loss(logits, batch, self.temperature)
        total = (1.0 - self.weight) * hard + self.weight * soft
        parts = {"loss": total, "hard_loss": hard, "soft_loss": soft}
        return {**metrics, **{name: (value, weight) for name, value in parts.items()}}


def soft_cross_entropy(
    logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> jax.Array:
    """Computes T^2 * KL(teacher || student) of the distributions at the temperature T, in nats.

    The factor keeps the size of the gradient as T changes. The gradient is that of the
    cross-entropy; this loss is 0 where both models agree.

    Args:
        logits: [..., C] float32 of the student.
        teacher_logits: [..., C] float32.
        temperature: T.

    Returns:
        [...] float32.
    """
    student, teacher = (jax.nn.log_softmax(each / temperature) for each in (logits, teacher_logits))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)


def soft_binary_cross_entropy(
    logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> jax.Array:
    """Computes the same for C independent probabilities, as the mean over them.

    The arguments and the result are those of `soft_cross_entropy`.
    """
    student, teacher = logits / temperature, teacher_logits / temperature
    chances = jax.nn.sigmoid(teacher)
    entropies = [optax.sigmoid_binary_cross_entropy(each, chances) for each in (student, teacher)]
    return temperature**2 * jnp.mean(entropies[0] - entropies[1], axis=-1)

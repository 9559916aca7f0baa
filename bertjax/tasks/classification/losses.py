"""Losses of sequence classification and regression, as functions of logits and of parameters."""

import jax
import jax.numpy as jnp
import optax

from bertjax.objectives.distillation import soft_binary_cross_entropy, soft_cross_entropy
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    classify,
    example_weights,
    model_loss,
    task_logits_fn,
)


def classification(logits: jax.Array, batch: Batch) -> Metrics:
    """Cross-entropy of a sequence classifier, as in Google's `run_classifier.py`: loss, accuracy.

    Args:
        logits: [B, C] float32.
        batch: label [B] int32.
    """
    return classify("", logits, batch["label"], example_weights(batch, "label"))


def regression(logits: jax.Array, batch: Batch) -> Metrics:
    """Squared error of a classifier with one output: loss.

    Args:
        logits: [B, 1] float32.
        batch: label [B] float32.
    """
    weights = example_weights(batch, "label")
    total = (jnp.square(logits[:, 0] - batch["label"]) * weights).sum()
    return {"loss": (total, weights.sum())}


def multi_label(logits: jax.Array, batch: Batch) -> Metrics:
    """Binary cross-entropy, the mean over labels, as in PyTorch's `BCEWithLogitsLoss`: loss,
    exact_match (every label is right at a probability of 0.5).

    Args:
        logits: [B, C] float32.
        batch: label [B, C] int32, 1 for every label of the example.
    """
    label, weights = batch["label"], example_weights(batch, "label", axes=1)
    binary = optax.sigmoid_binary_cross_entropy(logits, label.astype(logits.dtype)).mean(-1)
    right = ((logits >= 0) == (label > 0)).all(-1).astype(jnp.float32)
    return {
        "loss": ((binary * weights).sum(), weights.sum()),
        "exact_match": ((right * weights).sum(), weights.sum()),
    }


def classification_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of a loss with one label field per row: the number of examples."""
    return {"examples": example_weights(batch, "label", axes=1).sum()}


def soft_classification(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `classification`: the divergence from the teacher's probabilities."""
    soft = soft_cross_entropy(logits, batch["teacher_logits"], temperature)
    return (soft * example_weights(batch, "label")).sum()


def soft_regression(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `regression`: the squared error to the teacher's number.

    A number has no temperature.
    """
    del temperature
    error = logits[:, 0] - batch["teacher_logits"][:, 0]
    return (jnp.square(error) * example_weights(batch, "label")).sum()


def soft_multi_label(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `multi_label`: the divergence of each label's probability."""
    soft = soft_binary_cross_entropy(logits, batch["teacher_logits"], temperature)
    return (soft * example_weights(batch, "label", axes=1)).sum()


_logits = task_logits_fn("sequence_classification")
classification_loss = model_loss(
    "classification_loss", _logits, classification, classification_normalizers
)
regression_loss = model_loss("regression_loss", _logits, regression, classification_normalizers)
multi_label_loss = model_loss("multi_label_loss", _logits, multi_label, classification_normalizers)

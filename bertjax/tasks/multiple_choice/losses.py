"""The loss of multiple choice, as a function of logits and of parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from bertjax.config import BertConfig
from bertjax.model import bert
from bertjax.objectives.distillation import soft_cross_entropy
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    classify,
    example_weights,
    model_loss,
)


def choice_logits(
    params: bert.Params, inputs: Batch, config: BertConfig, name: str, **how: Any
) -> jax.Array:
    """Computes float32 logits [B, C]; those of padding choices are -1e9.

    Args:
        params: the parameters.
        inputs: input_ids, attention_mask, token_type_ids int32 [B, C, T]; choice_mask int32 [B, C].
        config: the shape.
        name: the name of the head.
        **how: execution and dropout_key, as for `bertjax.task_logits`.
    """
    logits = bert.task_logits(params, inputs, config, name, **how)
    return jnp.where(inputs["choice_mask"] > 0, logits, -1e9)


def multiple_choice(logits: jax.Array, batch: Batch) -> Metrics:
    """Cross-entropy over the choices of a question, as in BertForMultipleChoice: loss, accuracy.

    Args:
        logits: [B, C] float32, without weight for padding choices.
        batch: label [B] int32.
    """
    return classify("", logits, batch["label"], example_weights(batch, "label"))


def multiple_choice_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of `multiple_choice_loss`: the number of questions."""
    return {"examples": example_weights(batch, "label").sum()}


def soft_multiple_choice(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `multiple_choice`: the divergence from the teacher's probabilities."""
    soft = soft_cross_entropy(logits, batch["teacher_logits"], temperature)
    return (soft * example_weights(batch, "label")).sum()


def _logits(params: bert.Params, batch: Batch, config: BertConfig, **how: Any) -> jax.Array:
    del how["sample_key"]
    return choice_logits(params, batch, config, "multiple_choice", **how)


multiple_choice_loss = model_loss(
    "multiple_choice_loss", _logits, multiple_choice, multiple_choice_normalizers
)

"""Losses of question answering, as functions of logits and of parameters."""

import jax
import jax.numpy as jnp

from bertjax.objectives.distillation import soft_cross_entropy
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    cross_entropy,
    example_weights,
    model_loss,
    task_logits_fn,
)


def question_answering(logits: jax.Array, batch: Batch) -> Metrics:
    """Mean of the cross-entropies of an answer's start and end: loss, accuracy (both are right).

    The softmax is over the tokens of a row, the question's too, as in Google's `run_squad.py`. It
    leaves out the padding, which Google's includes, so that the loss does not depend on the width
    of a batch. Rows without padding have the same loss in both.

    Args:
        logits: [B, T, 2] float32.
        batch: attention_mask [B, T]; start_position, end_position [B] int32, the positions of the
            answer's first and last token, both 0 without an answer.
    """
    logits = _without_padding(logits, batch)
    start, end = logits[..., 0], logits[..., 1]
    weights = example_weights(batch, "start_position")
    both = cross_entropy(start, batch["start_position"]) + cross_entropy(end, batch["end_position"])
    right = (start.argmax(-1) == batch["start_position"]) & (
        end.argmax(-1) == batch["end_position"]
    )
    return {
        "loss": ((0.5 * both * weights).sum(), weights.sum()),
        "accuracy": ((right * weights).sum(), weights.sum()),
    }


def soft_question_answering(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `question_answering`: the mean of the divergences of start and end.

    Source: `run_squad_w_distillation.py` of Hugging Face's DistilBERT, without the padding.
    """
    student, teacher = (
        _without_padding(each, batch).swapaxes(1, 2) for each in (logits, batch["teacher_logits"])
    )
    soft = soft_cross_entropy(student, teacher, temperature).mean(-1)  # [B, 2] -> [B]
    return (soft * example_weights(batch, "start_position")).sum()


def _without_padding(logits: jax.Array, batch: Batch) -> jax.Array:
    """Returns logits [B, T, 2] that give padding no probability."""
    # A large finite number: 0 times infinity would make the gradient NaN.
    return jnp.where(batch["attention_mask"][..., None] != 0, logits, -1e9)


def question_answering_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of `question_answering_loss`: the number of examples."""
    return {"examples": example_weights(batch, "start_position").sum()}


question_answering_loss = model_loss(
    "question_answering_loss",
    task_logits_fn("question_answering"),
    question_answering,
    question_answering_normalizers,
)

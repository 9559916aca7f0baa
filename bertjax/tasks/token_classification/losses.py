"""The loss of token classification, as a function of logits and of parameters."""

import jax

from bertjax.objectives.distillation import soft_cross_entropy
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    classify,
    divide,
    model_loss,
    task_logits_fn,
    weigh_rows,
)


def token_classification(logits: jax.Array, batch: Batch) -> Metrics:
    """Cross-entropy of the tags of tokens: loss, accuracy, both over tokens.

    Like `BertForTokenClassification` of transformers, whose mean leaves out tokens with the label
    -100. These have weight 0 here. Weights of tags give the weighted mean of PyTorch's
    `CrossEntropyLoss`.

    Args:
        logits: [B, T, C] float32.
        batch: label [B, T] int32; label_weight [B, T] float32.
    """
    return classify("", logits, batch["label"], weigh_rows(batch["label_weight"], batch))


def token_classification_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of `token_classification_loss`: the weight of the tagged tokens."""
    return {"tokens": weigh_rows(batch["label_weight"], batch).sum()}


def soft_token_classification(logits: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The `SoftLoss` of `token_classification`: the divergence at the tokens that have a label."""
    soft = soft_cross_entropy(logits, batch["teacher_logits"], temperature)
    return (soft * weigh_rows(batch["label_weight"], batch)).sum()


token_classification_loss = model_loss(
    "token_classification_loss",
    task_logits_fn("token_classification"),
    token_classification,
    token_classification_normalizers,
    lambda metrics, normalizers: divide(metrics["loss"][0], normalizers["tokens"]),
)

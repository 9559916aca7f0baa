"""The loss of extractive summarization, as a function of logits and of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax.config import BertConfig
from bertjax.model import bert, extractive
from bertjax.objectives.losses import Batch, Metrics, Normalizers, divide, model_loss, weigh_rows


def sentence_extraction(logits: jax.Array, batch: Batch) -> Metrics:
    """Binary cross-entropy over sentences, as in PreSumm's src/models/trainer_ext.py: loss,
    accuracy (at a probability of 0.5).

    PreSumm divides the sum by the number of places for sentences in a batch, padding included. Here
    the normalizer is the number of sentences.

    Args:
        logits: [B, S] float32.
        batch: sentence_mask, label [B, S] int32.
    """
    weights = weigh_rows(batch["sentence_mask"].astype(jnp.float32), batch)
    binary = optax.sigmoid_binary_cross_entropy(logits, batch["label"].astype(logits.dtype))
    right = (logits >= 0) == (batch["label"] > 0)
    return {
        "loss": ((binary * weights).sum(), weights.sum()),
        "accuracy": ((right * weights).sum(), weights.sum()),
    }


def sentence_extraction_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of `sentence_extraction_loss`: the number of sentences."""
    return {"sentences": weigh_rows(batch["sentence_mask"].astype(jnp.float32), batch).sum()}


def _logits(params: bert.Params, batch: Batch, config: BertConfig, **how: Any) -> jax.Array:
    del how["sample_key"]
    return extractive.sentence_logits(params, batch, config, **how)


sentence_extraction_loss = model_loss(
    "sentence_extraction_loss",
    _logits,
    sentence_extraction,
    sentence_extraction_normalizers,
    lambda metrics, normalizers: divide(metrics["loss"][0], normalizers["sentences"]),
)

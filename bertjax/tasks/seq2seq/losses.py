"""The loss of sequence-to-sequence models, as functions of logits and of parameters."""

import dataclasses
from typing import Any

import jax

from bertjax.model.bert import Params
from bertjax.model.decoding import Seq2Seq
from bertjax.objectives.losses import (
    Batch,
    Metrics,
    Normalizers,
    cross_entropy,
    divide,
    model_loss,
    smoothed_cross_entropy,
)


def seq2seq(logits: jax.Array, batch: Batch, label_smoothing: float = 0.0) -> Metrics:
    """Cross-entropy of the target tokens: loss, nll_loss (without smoothing), accuracy.

    As in fairseq's `label_smoothed_cross_entropy`, of all tokens of the batch together, in nats.

    Args:
        logits: [B, T, V] float32.
        batch: labels [B, T] int32; label_weights [B, T] float32, 0 for padding.
        label_smoothing: probability that is spread evenly over the vocabulary.
    """
    labels, weights = batch["labels"], batch["label_weights"]
    nll = (cross_entropy(logits, labels) * weights).sum()
    smoothed = (smoothed_cross_entropy(logits, labels, label_smoothing) * weights).sum()
    right = ((logits.argmax(-1) == labels) * weights).sum()
    count = weights.sum()
    return {"loss": (smoothed, count), "nll_loss": (nll, count), "accuracy": (right, count)}


def seq2seq_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of the loss: the number of target tokens."""
    return {"tokens": batch["label_weights"].sum()}


def _mean_of_tokens(metrics: Metrics, normalizers: Normalizers) -> jax.Array:
    return divide(metrics["loss"][0], normalizers["tokens"])


@dataclasses.dataclass(frozen=True)
class Seq2SeqLoss:
    """The loss of an architecture as a function of parameters; equal values are equal losses."""

    architecture: Seq2Seq
    label_smoothing: float = 0.0

    def __call__(
        self, params: Params, batch: Batch, config: Any, **how: Any
    ) -> tuple[jax.Array, Metrics]:
        """Computes (loss, metrics), as a `bertjax.objectives.losses.ModelLoss`."""

        def logits_fn(params: Params, batch: Batch, config: Any, **how: Any) -> jax.Array:
            del how["sample_key"]
            return self.architecture.logits(params, batch, config, **how)

        loss = model_loss("seq2seq_loss", logits_fn, seq2seq, seq2seq_normalizers, _mean_of_tokens)
        return loss(params, batch, config, label_smoothing=self.label_smoothing, **how)

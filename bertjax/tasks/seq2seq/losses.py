"""The loss of sequence-to-sequence models."""

import dataclasses
from typing import Any

import jax

from bertjax.config import Execution
from bertjax.model.bert import Params
from bertjax.model.decoding import Seq2Seq
from bertjax.objectives.linear_cross_entropy import linear_cross_entropy
from bertjax.objectives.losses import Batch, Metrics, Normalizers, divide


def seq2seq_normalizers(batch: Batch) -> Normalizers:
    """Returns the normalizer of the loss: the number of target tokens."""
    return {"tokens": batch["label_weights"].sum()}


@dataclasses.dataclass(frozen=True)
class Seq2SeqLoss:
    """The loss of an architecture as a function of parameters; equal values are equal losses.

    It is the cross-entropy of all target tokens of the batch together, in nats, as in fairseq's
    `label_smoothed_cross_entropy`.
    """

    architecture: Seq2Seq
    label_smoothing: float = 0.0

    def __call__(
        self,
        params: Params,
        batch: Batch,
        config: Any,
        *,
        normalizers: Normalizers | None = None,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
        sample_key: jax.Array | None = None,
    ) -> tuple[jax.Array, Metrics]:
        """Computes the loss, and the metrics loss, nll_loss (without smoothing) and accuracy.

        Args:
            params: parameters of the architecture.
            batch: inputs as `Seq2Seq` takes them; labels int32 [B, T], and label_weights
                float32 [B, T], 0 for padding.
            config: the shape.
            normalizers: those of the global batch; by default, those of `batch`.
            execution: how to compute.
            dropout_key: as in `bertjax.encode`.
            sample_key: is not used.
        """
        del sample_key
        x = self.architecture.hidden(
            params, batch, config, execution=execution, dropout_key=dropout_key
        )
        labels, weights = batch["labels"], batch["label_weights"]
        sums = linear_cross_entropy(
            x,
            *self.architecture.output_layer(params),
            labels,
            weights,
            smoothing=self.label_smoothing,
            precision=execution.precision,
        )
        count = weights.sum()
        metrics = {
            "loss": (sums.loss, count),
            "nll_loss": (sums.nll, count),
            "accuracy": (sums.correct, count),
        }
        whole = seq2seq_normalizers(batch) if normalizers is None else normalizers
        return divide(sums.loss, whole["tokens"]), metrics

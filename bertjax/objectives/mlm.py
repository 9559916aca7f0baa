"""Masked LM alone, as in RoBERTa (Liu et al., 2019): neither a pooler nor a sentence head."""

import dataclasses
from typing import Any

import jax

from bertjax.config import BertConfig
from bertjax.model import bert
from bertjax.model.flops import pretraining_flops
from bertjax.objectives import losses
from bertjax.objectives.losses import Batch, Metrics, Normalizers
from bertjax.objectives.objective import UNIGRAM, Metric, Objective

METRICS = (
    Metric("mlm_loss", "mlm", "masked-LM loss", "min", in_verdict=True, baseline=UNIGRAM),
    Metric("mlm_accuracy", "mlm_acc", "masked-LM accuracy"),
)


@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
    """Predicts masked tokens."""

    name = "mlm"
    segments = "single"
    any_segments = True
    metrics = METRICS
    best_metric = "mlm_loss"
    export_kind = "masked_lm"

    def init_params(self, config: BertConfig, key: jax.Array) -> dict[str, Any]:
        """Draws embeddings, encoder and the masked-LM head."""
        return bert.init_params(config, key, heads=("mlm",), add_pooler=False)

    def logits(self, params: Any, batch: Batch, config: BertConfig, **how: Any) -> jax.Array:
        """Returns [B, P, V]."""
        del how["sample_key"]
        return bert.mlm_logits(params, batch, config, positions=batch["masked_positions"], **how)

    def scores(self, logits: jax.Array, batch: Batch, token_groups: Any = None) -> Metrics:
        """Returns mlm_loss and mlm_accuracy; see `losses.masked_lm`."""
        return losses.masked_lm(logits, batch, token_groups)

    def normalizers(self, batch: Batch) -> Normalizers:
        """Counts the predictions."""
        return losses.masked_lm_normalizers(batch)

    def total(self, metrics: Metrics, normalizers: Normalizers) -> jax.Array:
        """Divides the masked-LM loss by the number of predictions."""
        return losses.masked_lm_total(metrics, normalizers)

    def flops(self, config: BertConfig, length: int, predictions: int) -> int:
        """Counts the encoder and the masked-LM head at P positions."""
        return pretraining_flops(config, length, predictions, sentences=False)

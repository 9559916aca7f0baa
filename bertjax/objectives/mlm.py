"""Masked LM alone, as in RoBERTa (Liu et al., 2019): neither a pooler nor a sentence head."""

import dataclasses
import functools
from typing import Any

import jax

from bertjax.config import BertConfig
from bertjax.model import bert
from bertjax.model.flops import pretraining_flops
from bertjax.model.input_checks import model_inputs
from bertjax.objectives import losses
from bertjax.objectives.losses import Batch
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
    may_be_causal = True
    metrics = METRICS
    best_metric = "mlm_loss"
    export_kind = "masked_lm"

    init_params = staticmethod(
        functools.partial(bert.init_params, heads=("mlm",), add_pooler=False)
    )
    scores = staticmethod(losses.masked_lm)
    normalizers = staticmethod(losses.masked_lm_normalizers)
    total = staticmethod(losses.masked_lm_total)
    flops = staticmethod(functools.partial(pretraining_flops, sentences=False))

    @staticmethod
    def logits(params: Any, batch: Batch, config: BertConfig, **how: Any) -> jax.Array:
        """Returns [B, P, V]."""
        del how["sample_key"]
        return bert.mlm_logits(
            params, model_inputs(batch), config, positions=batch["masked_positions"], **how
        )

"""Masked LM and next-sentence prediction, as in BERT (Devlin et al., 2019)."""

import dataclasses
from typing import Any

import jax

from bertjax.config import BertConfig
from bertjax.model import bert
from bertjax.model.flops import pretraining_flops
from bertjax.model.input_checks import model_inputs
from bertjax.objectives import losses
from bertjax.objectives.losses import Batch, Metrics, Normalizers
from bertjax.objectives.mlm import METRICS
from bertjax.objectives.objective import MAJORITY, TOKENS, Metric, Objective


def sentence_metrics(name: str, words: str) -> tuple[Metric, ...]:
    """Returns the metrics of masked LM and of an objective with a sentence head."""
    loss = Metric(f"{name}_loss", name, f"{words} loss", "min")
    accuracy = Metric(
        f"{name}_accuracy", f"{name}_acc", f"{words} accuracy", in_verdict=True, baseline=MAJORITY
    )
    return *METRICS, loss, accuracy


@dataclasses.dataclass(frozen=True)
class NextSentence(Objective):
    """Predicts masked tokens, and whether B follows A (label 0) or is random (label 1)."""

    name = "nsp"
    segments = "next_sentence"
    arrays = (*TOKENS, "next_sentence_label")
    metrics = sentence_metrics("nsp", "next-sentence")
    best_metric = "mlm_loss"
    export_kind = "pretraining"

    init_params = staticmethod(bert.init_params)
    flops = staticmethod(pretraining_flops)

    @staticmethod
    def normalizers(batch: Batch) -> Normalizers:
        """Counts the predictions and the examples."""
        return {**losses.masked_lm_normalizers(batch), "examples": _weights(batch).sum()}

    @staticmethod
    def logits(
        params: Any, batch: Batch, config: BertConfig, **how: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Returns [B, P, V] and [B, 2]."""
        del how["sample_key"]
        return bert.pretraining_logits(
            params, model_inputs(batch), batch["masked_positions"], config, **how
        )

    def scores(
        self, logits: tuple[jax.Array, jax.Array], batch: Batch, token_groups: Any = None
    ) -> Metrics:
        """Masked-LM loss + sentence loss, as in Google's `run_pretraining.py`.

        The loss is sum_mlm / (W_mlm + 1e-5) + sum_sentences / W_sentences. The metrics are
        mlm_loss, mlm_accuracy, and {name}_loss, {name}_accuracy of the sentence head.

        Args:
            logits: [B, P, V] and [B, 2].
            batch: masked_positions, masked_labels, masked_weights [B, P]; next_sentence_label [B].
                Packed rows also have segment_ids, position_ids [B, T] and cls_positions [B, S];
                next_sentence_label and example_weight are then [B, S].
            token_groups: {name: bool [V]}. Adds the accuracy over the tokens of each group.
        """
        label, weights = batch["next_sentence_label"], _weights(batch)
        masked = losses.masked_lm(logits[0], batch, token_groups)
        return {**masked, **losses.classify(f"{self.name}_", logits[1], label, weights)}

    def total(self, metrics: Metrics, normalizers: Normalizers) -> jax.Array:
        """Adds the two mean losses."""
        sentences = losses.divide(metrics[f"{self.name}_loss"][0], normalizers["examples"])
        return losses.masked_lm_total(metrics, normalizers) + sentences


def _weights(batch: Batch) -> jax.Array:
    return losses.example_weights(batch, "next_sentence_label")


pretraining_loss, pretraining_normalizers = NextSentence().loss, NextSentence.normalizers

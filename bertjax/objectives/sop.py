"""Masked LM and the order of two segments, as in ALBERT (Lan et al., 2020)."""

import dataclasses

from bertjax.objectives.nsp import NextSentence, sentence_metrics


@dataclasses.dataclass(frozen=True)
class SentenceOrder(NextSentence):
    """Predicts masked tokens, and whether A and B are swapped (label 1).

    Head, label and parameters have the places of next-sentence prediction.
    """

    name = "sop"
    segments = "sentence_order"
    metrics = sentence_metrics("sop", "sentence-order")

"""ROUGE of picks, of Lead-k and of the oracle, and the metrics of labels."""

import math

import numpy as np
import pytest

from bertjax.tasks.summarization_extractive import metrics
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.summarization_extractive.documents import Document
from bertjax.tasks.summarization_extractive.features import Windows

pytest.importorskip("rouge_score", reason="ROUGE needs rouge-score: pip install 'bertjax[seq2seq]'")


def test_scores_by_hand():
    """Two documents, one row each: the first is picked right, the second half right."""
    documents = [
        Document(("red fox", "blue sky", "a b"), (1,), "blue sky"),
        Document(("c d", "e f"), (0, 1), "c d\ne f"),
    ]
    spans = np.array([[0, 0, 3], [1, 0, 2]])
    windows = Windows(documents, [], spans, 0, 0)
    logits = np.array([[-1.0, 2.0, -3.0], [0.0, 1.0, 9.0]])
    options = ExtractiveSummarizationConfig(sentences=1)
    found = metrics.scores(windows, [(np.array([0, 1]), logits)], options)
    assert found["rouge1"] == pytest.approx(100 * (1 + 2 / 3) / 2)  # recall 1 / 2 in the second
    assert found["lead_rouge1"] == pytest.approx(100 * (0 + 2 / 3) / 2)
    assert found["oracle_rouge1"] == found["oracle_rougeLsum"] == 100
    assert found["f1"] == pytest.approx(2 * 2 / (2 + 3))
    assert found["accuracy"] == pytest.approx(4 / 5)
    signed = [1.0, 2.0, 3.0, 0.0, 1.0]  # logits, with the other sign where there is no label
    assert found["loss"] == pytest.approx(np.mean([math.log1p(math.exp(-z)) for z in signed]))

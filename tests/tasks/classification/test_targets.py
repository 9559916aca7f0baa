"""Baselines: the metrics of one answer for all rows."""

import numpy as np
import pytest

from bertjax.tasks.classification.targets import label_set, number, one_label


def test_the_most_common_label():
    baseline = one_label(("a", "b")).baseline(np.array([1, 1, 0, 1]))
    assert baseline.scores == pytest.approx(
        {
            "accuracy": 0.75,
            "macro_f1": (6 / 7) / 2,
            "mcc": 0.0,
            "f1": 6 / 7,
            "loss": -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)),
        }
    )
    # A label of the training file that these rows do not have.
    rare = one_label(("a", "b", "c")).baseline(np.array([2, 2]))
    assert rare.scores["accuracy"] == 1.0 and rare.scores["loss"] == pytest.approx(0, abs=1e-6)


def test_the_most_common_set_of_labels():
    values = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    scores = label_set(("a", "b", "c"), "|").baseline(values).scores
    assert scores["exact_match"] == 0.5
    assert scores["micro_f1"] == pytest.approx(2 * 5 / (8 + 5))
    entropies = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (0.75, 0.5)]
    assert scores["loss"] == pytest.approx(sum(entropies) / 3)  # the label c is never there


def test_the_mean_of_numbers():
    scores = number().baseline(np.array([1.0, 2.0, 6.0], np.float32)).scores
    assert scores == pytest.approx({"pearson": 0, "spearman": 0, "loss": 14 / 3})

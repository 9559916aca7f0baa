"""Metrics of classifiers and regressors, beside those of scikit-learn and SciPy."""

import numpy as np
import pytest

from bertjax.tasks.classification.targets import label_set
from bertjax.tasks.metrics import (
    THRESHOLD,
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
    sigmoid,
)


def test_metrics_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for classes in (2, 5):
        labels = rng.integers(0, classes, 200).astype(np.int32)
        logits = rng.normal(size=(200, classes)).astype(np.float32)
        logits[np.arange(200), labels] += 1
        ours, predicted = classification_metrics(logits, labels), logits.argmax(1)
        assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
        assert ours["mcc"] == pytest.approx(sklearn.matthews_corrcoef(labels, predicted))
        assert ours["macro_f1"] == pytest.approx(
            sklearn.f1_score(labels, predicted, average="macro")
        )
        probabilities = np.exp(logits.astype(np.float64))
        probabilities /= probabilities.sum(1, keepdims=True)
        assert ours["loss"] == pytest.approx(sklearn.log_loss(labels, probabilities))
        assert ("f1" in ours) == (classes == 2)
        if classes == 2:
            assert ours["f1"] == pytest.approx(sklearn.f1_score(labels, predicted))


def test_regression_metrics_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, 100).astype(np.float32)  # with ties
    logits = (labels + rng.normal(size=100)).astype(np.float32)[:, None]
    logits[:10] = 1.0
    ours = regression_metrics(logits, labels)
    assert ours["pearson"] == pytest.approx(stats.pearsonr(logits[:, 0], labels)[0], abs=1e-6)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(logits[:, 0], labels)[0], abs=1e-6)
    assert ours["loss"] == pytest.approx(np.mean((logits[:, 0] - labels) ** 2), rel=1e-6)


def test_constant_predictions_have_no_correlation():
    labels = np.array([0, 1, 1], np.int32)
    assert classification_metrics(np.array([[1.0, 0.0]] * 3), labels)["mcc"] == 0.0
    scores = regression_metrics(np.ones((3, 1)), labels.astype(np.float32))
    assert scores["pearson"] == scores["spearman"] == 0.0


@pytest.mark.parametrize("classes", [2, 5])
def test_multi_label_metrics_agree_with_scikit_learn(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(classes)
    for _ in range(20):
        true = (rng.random((12, classes)) < 0.4).astype(np.int32)
        logits = rng.normal(size=(12, classes)).astype(np.float32)
        said = sigmoid(logits) >= THRESHOLD
        ours = multi_label_metrics(logits, true)
        assert tuple(ours) == label_set(("a", "b"), "|").metric_names
        present = np.flatnonzero(true.any(0) | said.any(0))
        chances = sigmoid(logits)
        wanted = {
            "micro_f1": sklearn.f1_score(true, said, average="micro"),
            "macro_f1": sklearn.f1_score(true, said, average="macro", labels=present),
            "exact_match": sklearn.accuracy_score(true, said),
            "loss": np.mean(
                [sklearn.log_loss(true[:, c], chances[:, c], labels=[0, 1]) for c in range(classes)]
            ),
        }
        assert ours == pytest.approx(wanted, rel=1e-6)  # logits are float32


def test_the_threshold_is_a_probability_of_one_half():
    logits = np.array([[0.0, -1e-6, 800.0, -800.0]], np.float32)
    assert (sigmoid(logits) >= THRESHOLD).tolist() == [[True, False, True, False]]
    assert sigmoid(logits)[0] == pytest.approx([0.5, 0.5, 1.0, 0.0], abs=1e-6)


def test_nothing_there_and_nothing_said_is_no_error_and_no_success():
    none = np.zeros((3, 2), np.int32)
    scores = multi_label_metrics(np.full((3, 2), -5.0, np.float32), none)
    assert scores["micro_f1"] == scores["macro_f1"] == 0.0
    assert scores["exact_match"] == 1.0

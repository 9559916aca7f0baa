"""Metrics of classifiers and regressors, beside those of scikit-learn and SciPy."""

import numpy as np
import pytest

from bertjax.tasks.metrics import classification_metrics, regression_metrics


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

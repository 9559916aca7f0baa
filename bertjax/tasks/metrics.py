"""Metrics of classifiers and regressors over all examples, GLUE's among them."""

import math

import numpy as np

THRESHOLD = 0.5
"""Minimum probability of a label, where a text has any number of them."""


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the metrics of a classifier.

    Args:
        logits: [N, C].
        labels: int [N].

    Returns:
        accuracy; macro_f1; mcc, Matthews' correlation; loss, the cross-entropy in nats; and for two
        labels f1, of the second one. A label that neither occurs nor is predicted has no F1.
    """
    classes = logits.shape[1]
    # confusion [true label, predicted label]
    confusion = np.zeros((classes, classes), np.float64)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    hits, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    present = (true + predicted) > 0
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    result = {
        "accuracy": float(hits.sum() / confusion.sum()),
        "macro_f1": float(f1[present].mean()),
        "mcc": _matthews(hits, true, predicted),
        "loss": _cross_entropy(logits.astype(np.float64), labels),
    }
    if classes == 2:
        result["f1"] = float(f1[1])
    return result


def regression_metrics(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Computes the metrics of a regressor.

    Args:
        outputs: [N, 1].
        targets: float [N].

    Returns:
        pearson; spearman; loss, the mean squared error. A correlation with a constant is 0.
    """
    predicted, targets = outputs[:, 0].astype(np.float64), targets.astype(np.float64)
    return {
        "pearson": _correlation(predicted, targets),
        "spearman": _correlation(_ranks(predicted), _ranks(targets)),
        "loss": float(np.mean((predicted - targets) ** 2)),
    }


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64 [N, C]: the sigmoid of each logit."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the metrics of a classifier that gives any number of labels.

    Args:
        logits: [N, C].
        labels: int [N, C], 1 for each label of an example.

    Returns:
        micro_f1, over all decisions; macro_f1, the mean over labels that occur or are predicted;
        exact_match, the share of examples with all labels right; loss, the mean binary
        cross-entropy in nats.
    """
    predicted, true = sigmoid(logits) >= THRESHOLD, labels.astype(bool)
    hits = (predicted & true).sum(0)
    both = predicted.sum(0) + true.sum(0)
    present = both > 0
    f1 = 2 * hits / np.maximum(both, 1)
    # log(1 + e^x) - x y, for y in {0, 1}
    loss = np.logaddexp(0.0, logits.astype(np.float64)) - logits * labels
    return {
        "micro_f1": float(2 * hits.sum() / max(both.sum(), 1)),
        "macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "exact_match": float((predicted == true).all(1).mean()),
        "loss": float(loss.mean()),
    }


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    picked = shifted[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - picked))


def _matthews(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews' correlation for any number of labels (Gorodkin 2004, R_K)."""
    total = true.sum()
    covariance = hits.sum() * total - true @ predicted
    spread = math.sqrt((total**2 - predicted @ predicted) * (total**2 - true @ true))
    return float(covariance / spread) if spread else 0.0


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse.reshape(-1)] if len(unique) else values

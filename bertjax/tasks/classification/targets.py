"""The three things that a label column may hold: labels, label sets or numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bertjax.tasks import labels as columns
from bertjax.tasks import metrics
from bertjax.tasks.classification import losses
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.tables import Table
from bertjax.tasks.task import Baseline, Head, Scores, TrainedModel

_ONE_LABEL, _LABEL_SET, _NUMBER = HEADS = (
    "sequence_classification",
    "multi_label_classification",
    "regression",
)
"""The heads of classification, one for each kind of target."""

SOFT_LOSSES = {
    _ONE_LABEL: losses.soft_classification,
    _LABEL_SET: losses.soft_multi_label,
    _NUMBER: losses.soft_regression,
}


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets that a model learns from a label column, and the form of its answers."""

    head: Head
    """The compiled part."""
    labels: tuple[str, ...]
    """Names of the outputs; empty for a number."""
    metric_names: tuple[str, ...]
    """Names of the metrics, the main one first."""
    train_metrics: tuple[str, ...]
    """Metrics of the loss that training lines show."""
    read: Callable[[Table, str], np.ndarray]
    """(table, column) -> the targets, [N] or [N, C]."""
    metrics: Callable[[np.ndarray, np.ndarray], Scores]
    """(logits [N, C], targets) -> metrics."""
    answer: Callable[[np.ndarray], dict[str, Any]]
    """The logits [C] of a text -> its answer."""
    errors: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(logits [N, C], targets) -> float [N]: how wrong each answer is; 0 if it is right."""
    baseline: Callable[[np.ndarray], Baseline]
    """Targets of some rows -> the best rule that gives all of them one answer."""


def one_label(labels: tuple[str, ...]) -> Targets:
    """Returns targets for texts with exactly one of the labels."""

    def answer(logits: np.ndarray) -> dict[str, Any]:
        exponents = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = exponents / exponents.sum()
        best = int(probabilities.argmax())
        scores = dict(zip(labels, map(float, probabilities), strict=True))
        return {"label": labels[best], "score": float(probabilities[best]), "scores": scores}

    def majority(values: np.ndarray) -> Baseline:
        shares = np.bincount(values, minlength=len(labels)) / len(values)
        logits = np.tile(np.log(shares + 1e-9), (len(values), 1))  # the loss is the entropy
        scores = metrics.classification_metrics(logits, values)
        return Baseline("majority", "the most common label", scores)

    f1 = ("f1",) if len(labels) == 2 else ()
    return Targets(
        _head(_ONE_LABEL, len(labels), losses.classification_loss),
        labels,
        ("accuracy", "macro_f1", "mcc", "loss", *f1),
        ("accuracy",),
        lambda table, column: columns.label_ids(table, column, labels),
        metrics.classification_metrics,
        answer,
        # The logit of the answer over that of the label.
        lambda logits, values: logits.max(1) - logits[np.arange(len(values)), values],
        majority,
    )


def label_set(labels: tuple[str, ...], separator: str) -> Targets:
    """Returns targets for texts with any number of the labels."""

    def answer(logits: np.ndarray) -> dict[str, Any]:
        probabilities = metrics.sigmoid(logits)
        scores = dict(zip(labels, map(float, probabilities), strict=True))
        given = [name for name, score in scores.items() if score >= metrics.THRESHOLD]
        return {"labels": given, "scores": scores}

    def errors(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
        probabilities = metrics.sigmoid(logits)
        wrong = (probabilities >= metrics.THRESHOLD) != (values > 0)
        return (np.abs(probabilities - values) * wrong).sum(1)

    def commonest(values: np.ndarray) -> Baseline:
        sets, counts = np.unique(values, axis=0, return_counts=True)
        logits = np.tile(2.0 * sets[counts.argmax()] - 1.0, (len(values), 1))
        shares = np.clip(values.mean(0), 1e-9, 1 - 1e-9)
        entropy = -(shares * np.log(shares) + (1 - shares) * np.log(1 - shares)).mean()
        scores = metrics.multi_label_metrics(logits, values) | {"loss": float(entropy)}
        return Baseline("commonest", "the most common set of labels", scores)

    return Targets(
        _head(_LABEL_SET, len(labels), losses.multi_label_loss),
        labels,
        ("micro_f1", "macro_f1", "exact_match", "loss"),
        ("exact_match",),
        lambda table, column: columns.label_sets(table, column, labels, separator),
        metrics.multi_label_metrics,
        answer,
        errors,
        commonest,
    )


def number() -> Targets:
    """Returns targets for texts with a number."""

    def mean(values: np.ndarray) -> Baseline:
        outputs = np.full((len(values), 1), values.mean(dtype=np.float64))
        scores = metrics.regression_metrics(outputs, values)
        return Baseline("mean", "the mean of the numbers", scores)

    return Targets(
        _head(_NUMBER, 1, losses.regression_loss),
        (),
        ("spearman", "pearson", "loss"),
        (),
        columns.target_values,
        metrics.regression_metrics,
        lambda logits: {"score": float(logits[0])},
        lambda logits, values: np.abs(logits[:, 0] - values),
        mean,
    )


def find_targets(options: ClassificationConfig, table: Table) -> Targets:
    """Returns the targets that the options ask for; the labels are those of the training file."""
    column, separator = options.label_column, options.label_separator
    if options.regression:
        return number()
    if options.multi_label:
        return label_set(columns.find_labels(table, column, separator), separator)
    return one_label(columns.find_labels(table, column))


def targets_of_model(model: TrainedModel) -> Targets:
    """Returns the targets that a model was trained on."""
    if model.kind == _NUMBER:
        return number()
    recorded = model.task or {}
    outputs = model.shapes["classifier"]["bias"].shape[0]
    labels = tuple(recorded.get("labels") or [f"LABEL_{index}" for index in range(outputs)])
    if len(set(labels)) < len(labels):  # each keeps its probability
        labels = tuple(f"{label} ({index})" for index, label in enumerate(labels))
    if model.kind == _LABEL_SET:
        return label_set(labels, recorded.get("label_separator") or "|")
    return one_label(labels)


def _head(name: str, outputs: int, loss: Callable) -> Head:
    return Head(name, outputs, loss, losses.classification_normalizers)

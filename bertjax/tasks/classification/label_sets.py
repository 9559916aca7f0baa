"""Any number of labels per text: a column of label sets, and their metrics."""

from collections.abc import Sequence

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.labels import check_label, order_labels, unseen_label
from bertjax.tasks.tables import Table

THRESHOLD = 0.5
"""Minimum probability of a label that a text gets."""
METRICS = ("micro_f1", "macro_f1", "exact_match", "loss")
"""Names of the metrics, the main one first."""


def find_labels(table: Table, column: str, separator: str) -> tuple[str, ...]:
    """Returns the labels of a training file, in the order of `labels.find_labels`.

    Args:
        table: the rows.
        column: holds the labels of each row with `separator` between them; empty for no label.
        separator: text between two labels.

    Raises:
        UserError: a label is empty or too long, or there are fewer than two or too many labels.
    """
    names = {
        check_label(name, table.where(row), column)
        for row, value in enumerate(table.columns[column])
        for name in split(value, separator, table.where(row))
    }
    if len(names) < 2:
        found = f"only the label {names.pop()!r}" if names else "no label"
        raise UserError(
            f"{table.path}: column {column!r} has {found}; `multi_label` needs two different "
            f"labels, with {separator!r} between the labels of a text."
        )
    return order_labels(names, table, column)


def label_sets(table: Table, column: str, labels: Sequence[str], separator: str) -> np.ndarray:
    """int32 [N, C]: 1 for each label of a row.

    Raises:
        UserError: a label is empty or not among `labels`.
    """
    index = {name: index for index, name in enumerate(labels)}
    sets = np.zeros((len(table), len(labels)), np.int32)
    for row, value in enumerate(table.columns[column]):
        for name in split(value, separator, table.where(row)):
            if name not in index:
                raise unseen_label(name, labels, table.where(row))
            sets[row, index[name]] = 1
    return sets


def split(value: str, separator: str, where: str) -> list[str]:
    """Returns the labels of one row; [] for an empty value.

    Raises:
        UserError: there is nothing between two separators.
    """
    if not value.strip():
        return []
    names = [name.strip() for name in value.split(separator)]
    if not all(names):
        raise UserError(
            f"{where}: the labels {value[:40]!r} have an empty one; write a label between any two "
            f"{separator!r}, or nothing at all for no label."
        )
    return names


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 [N, C]: the sigmoid of each logit."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the metrics over all examples.

    Args:
        logits: [N, C].
        labels: int [N, C], 1 for each label of an example.

    Returns:
        micro_f1, over all decisions; macro_f1, the mean over labels that occur or are predicted;
        exact_match, the share of examples with all labels right; loss, the mean binary
        cross-entropy in nats.
    """
    predicted, true = probabilities(logits) >= THRESHOLD, labels.astype(bool)
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

"""Several labels a text, or none: a column of label sets, their metrics, and what is said."""

from collections.abc import Sequence

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.classification.features import (
    MAX_LABEL,
    MAX_LABELS,
    label_order,
    unseen_label,
)
from bertjax.tasks.tables import Table

THRESHOLD = 0.5
"""A label is given to a text from this probability on: each is a decision of its own."""
SEPARATOR = "|"
"""Stands between the labels of a text unless another is named."""
METRICS = ("micro_f1", "macro_f1", "exact_match", "loss")
"""Names of what `metrics` gives."""


def find_labels(table: Table, column: str, separator: str) -> tuple[str, ...]:
    """The labels of a training file, in the order of `classification.find_labels`.

    Args:
        table: its column holds the labels of each row with `separator` between them; an empty value
            is a row with no label.
        column: the labels' column.
        separator: between two labels.

    Raises:
        UserError: an empty label between two separators or an overlong one, fewer than two labels,
            or too many to be labels.
    """
    names: set[str] = set()
    for row, value in enumerate(table.columns[column]):
        for name in split(value, separator, table.where(row)):
            if len(name) > MAX_LABEL:
                raise UserError(
                    f"{table.where(row)}: a label has {len(name):,} characters (at most "
                    f"{MAX_LABEL}); is {column!r} the labels' column, and {separator!r} between "
                    "them?"
                )
            names.add(name)
    if len(names) < 2:
        found = f"only the label {names.pop()!r}" if names else "no label"
        raise UserError(
            f"{table.path}: column {column!r} has {found}; several labels a text need two "
            f"different ones, with {separator!r} between them."
        )
    if len(names) > MAX_LABELS:
        raise UserError(
            f"{table.path}: column {column!r} has {len(names):,} different labels (at most "
            f"{MAX_LABELS:,}); is {separator!r} between them?"
        )
    return tuple(sorted(names, key=label_order(names)))


def label_sets(table: Table, column: str, labels: Sequence[str], separator: str) -> np.ndarray:
    """int32 [N, C]: 1 for every label that a row has.

    Raises:
        UserError: a label that isn't among `labels`, or an empty one between two separators.
    """
    place = {name: index for index, name in enumerate(labels)}
    sets = np.zeros((len(table), len(labels)), np.int32)
    for row, value in enumerate(table.columns[column]):
        for name in split(value, separator, table.where(row)):
            if name not in place:
                raise unseen_label(name, labels, table.where(row))
            sets[row, place[name]] = 1
    return sets


def split(value: str, separator: str, where: str) -> list[str]:
    """The labels of one row; [] for an empty value.

    Raises:
        UserError: nothing stands between two separators.
    """
    if not value.strip():
        return []
    names = [name.strip() for name in value.split(separator)]
    if not all(names):
        raise UserError(
            f"{where}: the labels {value[:40]!r} have an empty one; write one between any two "
            f"{separator!r}, or nothing at all for no label."
        )
    return names


def decide(logits: np.ndarray) -> np.ndarray:
    """bool [N, C]: which labels logits [N, C] give, those of probability `THRESHOLD` or more."""
    return probabilities(logits) >= THRESHOLD


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 [N, C]: the sigmoid of every logit."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics over all examples.

    Args:
        logits: [N, C].
        labels: int [N, C], 1 for every label that an example has.

    Returns:
        micro_f1 (of all decisions together), macro_f1 (the mean over the labels; one neither there
        nor predicted doesn't count), exact_match (share of the examples with all labels right) and
        loss (mean binary cross-entropy, nats).
    """
    said, true = decide(logits), labels.astype(bool)
    hits = (said & true).sum(0)
    both = said.sum(0) + true.sum(0)
    present = both > 0
    f1 = 2 * hits / np.maximum(both, 1)
    # log(1 + e^x) - x y, for y in {0, 1}
    loss = np.logaddexp(0.0, logits.astype(np.float64)) - logits * labels
    return {
        "micro_f1": float(2 * hits.sum() / max(both.sum(), 1)),
        "macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "exact_match": float((said == true).all(1).mean()),
        "loss": float(loss.mean()),
    }

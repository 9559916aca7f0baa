"""Labels and numbers of a table's column."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.tables import Table, shorten

MAX_LABEL = 200
"""Maximum characters of a label. A longer value is a text in the label column."""
MAX_LABELS = 10_000
"""Maximum labels of a classifier. A column with more values is no label column."""


def find_labels(table: Table, column: str) -> tuple[str, ...]:
    """Returns the labels of a training file: in numeric order if all are integers, else by name.

    Raises:
        UserError: a label is empty or too long, or there are fewer than two or too many labels.
    """
    names: set[str] = set()
    for row, value in enumerate(table.columns[column]):
        name = value.strip()
        if not name:
            raise UserError(f"{table.where(row)}: the label is empty; write one or drop the row.")
        names.add(check_label(name, table.where(row), column))
    if len(names) < 2:
        raise UserError(
            f"{table.path}: every row has the label {names.pop()!r}; a classifier needs two "
            "different labels."
        )
    return order_labels(names, table, column)


def check_label(name: str, where: str, column: str) -> str:
    """Returns the label, or raises a UserError if it is too long."""
    if len(name) > MAX_LABEL:
        raise UserError(
            f"{where}: a label has {len(name):,} characters (at most {MAX_LABEL}); is {column!r} "
            "the label column?"
        )
    return name


def order_labels(names: Iterable[str], table: Table, column: str) -> tuple[str, ...]:
    """Sorts labels, as integers if all of them are integers.

    Raises:
        UserError: there are too many.
    """
    names = sorted(names)
    if len(names) > MAX_LABELS:
        raise UserError(
            f"{table.path}: column {column!r} has {len(names):,} different labels (at most "
            f"{MAX_LABELS:,}); give the label column, or set `regression` to predict numbers."
        )
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        names.sort(key=int)  # "01" stays beside "1"
    return tuple(names)


def label_ids(table: Table, column: str, labels: Sequence[str]) -> np.ndarray:
    """int32 [N]: the index of each row's label in `labels`.

    Raises:
        UserError: a label is not among `labels`.
    """
    index = {name: index for index, name in enumerate(labels)}
    ids = np.zeros(len(table), np.int32)
    for row, value in enumerate(table.columns[column]):
        name = value.strip()
        if name not in index:
            raise unseen_label(name, labels, table.where(row))
        ids[row] = index[name]
    return ids


def unseen_label(name: str, labels: Sequence[str], where: str) -> UserError:
    """Returns the error for a label that is not among `labels`."""
    return UserError(
        f"{where}: label {shorten(name)} was not seen in training (which has {_some(labels)}); "
        "correct it, or add rows with it to the training file."
    )


def target_values(table: Table, column: str) -> np.ndarray:
    """float32 [N]: the numbers of a column.

    Raises:
        UserError: a value is not a finite number.
    """
    values = np.zeros(len(table), np.float32)
    for row, text in enumerate(table.columns[column]):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= float(np.finfo(np.float32).max):
            raise UserError(
                f"{table.where(row)}: {shorten(text)} in column {column!r} is no finite number, "
                "which `regression` needs; correct it or drop the row."
            )
        values[row] = value
    return values


def label_weights(
    weights: Literal["balanced"] | Mapping[str, float], labels: Sequence[str], ids: np.ndarray
) -> np.ndarray:
    """float32 [C]: the weight of a row with each label.

    Args:
        weights: weights by label, by default 1; or "balanced": N / (C * rows of the label), as
            scikit-learn's class_weight.
        labels: names of the labels.
        ids: int [N], the label of each training row.

    Raises:
        UserError: a label does not exist, a weight is not above 0, or there is no weight.
    """
    if weights == "balanced":
        counts = np.bincount(ids, minlength=len(labels))
        return (len(ids) / (len(labels) * counts)).astype(np.float32)
    assert not isinstance(weights, str), weights
    if not weights:
        raise UserError("`class_weights` is empty: give labels with weights, or leave it out.")
    for name, weight in weights.items():
        if name not in labels:
            raise UserError(
                f"`class_weights` has {name!r}, which is no label; the labels are {_some(labels)}."
            )
        if not 0 < weight < math.inf:
            raise UserError(f"`class_weights` gives {name!r} {weight}: give a number above 0.")
    return np.array([weights.get(name, 1.0) for name in labels], np.float32)


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")

"""Labels and numbers of a table's column, and class weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.tables import Table, shorten

MAX_LABEL = 200
"""Maximum characters of a label. A longer value is a text in the label column."""
MAX_LABELS = 10_000
"""Maximum labels of a classifier. A column with more values is no label column."""


def find_labels(table: Table, column: str, separator: str | None = None) -> tuple[str, ...]:
    """Returns the labels of a training file: in numeric order if all are integers, else by name.

    Args:
        table: the rows.
        column: the label column.
        separator: text between the labels of a row, which may have none; None: a row has one label.

    Raises:
        UserError: a label is empty or too long, or there are fewer than two or too many labels.
    """
    names = set()
    for row in range(len(table)):
        for name in _labels_of(table, column, row, separator):
            if len(name) > MAX_LABEL:
                raise UserError(
                    f"{table.where(row)}: a label has {len(name):,} characters (at most "
                    f"{MAX_LABEL}); is {column!r} the label column?"
                )
            names.add(name)
    if len(names) < 2:
        found = f"only the label {names.pop()!r}" if names else "no label"
        raise UserError(
            f"{table.path}: column {column!r} has {found}; a classifier needs two different labels."
        )
    if len(names) > MAX_LABELS:
        raise UserError(
            f"{table.path}: column {column!r} has {len(names):,} different labels (at most "
            f"{MAX_LABELS:,}); give the label column, or set `regression` to predict numbers."
        )
    ordered = sorted(names)
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in names):
        ordered.sort(key=int)  # "01" stays beside "1"
    return tuple(ordered)


def label_ids(table: Table, column: str, labels: Sequence[str]) -> np.ndarray:
    """int32 [N]: the index of each row's label in `labels`.

    Raises:
        UserError: a label is not among `labels`.
    """
    ids = np.zeros(len(table), np.int32)
    for row, index in _indices(table, column, labels, None):
        ids[row] = index
    return ids


def label_sets(table: Table, column: str, labels: Sequence[str], separator: str) -> np.ndarray:
    """int32 [N, C]: 1 for each label of a row.

    Raises:
        UserError: a label is empty or not among `labels`.
    """
    sets = np.zeros((len(table), len(labels)), np.int32)
    for row, index in _indices(table, column, labels, separator):
        sets[row, index] = 1
    return sets


def _indices(
    table: Table, column: str, labels: Sequence[str], separator: str | None
) -> Iterator[tuple[int, int]]:
    """Yields (row, index of a label of the row)."""
    places = {name: index for index, name in enumerate(labels)}
    for row in range(len(table)):
        for name in _labels_of(table, column, row, separator):
            if name not in places:
                raise UserError(
                    f"{table.where(row)}: label {shorten(name)} was not seen in training (which "
                    f"has {_some(labels)}); correct it, or add rows with it to the training file."
                )
            yield row, places[name]


def _labels_of(table: Table, column: str, row: int, separator: str | None) -> list[str]:
    value = table.columns[column][row].strip()
    if separator is None:
        names = [value]
    else:
        names = [name.strip() for name in value.split(separator)] if value else []
    if not all(names):
        raise UserError(
            f"{table.where(row)}: a label is empty; write one"
            + (", or drop the row." if separator is None else f" beside each {separator!r}.")
        )
    return names


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

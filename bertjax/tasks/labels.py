"""Labels and numbers of a table's column, and class weights."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.tables import Table, as_number, read_table, shorten

MAX_LABEL = 200
"""Maximum characters of a label. A longer value is a text in the label column."""
MAX_LABELS = 10_000
"""Maximum labels of a classifier. A column with more values is no label column."""

_UNLABELED = frozenset({"", "-", "nan", "NaN"})
_UNNAMED = re.compile(r"LABEL_(\d+)")


def read_labeled(path: epath.PathLike, options: Any) -> Table:
    """Reads the texts, the pairs if there are any, and the labels of a file.

    With `drop_unlabeled` it leaves out rows without a label: "", "nan" and, unless "+" is a label,
    "-", which SNLI's rows without a gold label have.

    Args:
        path: the file.
        options: has text_column, pair_column, label_column, column_names and drop_unlabeled.

    Raises:
        UserError: see `read_table`; or no row has a label.
    """
    columns, label = {}, options.label_column or ""
    for field in ("text_column", "pair_column", "label_column"):
        if name := getattr(options, field):
            columns.setdefault(name, field)
    table = read_table(path, columns, column_names=options.column_names, may_be_null={label})
    return _labeled(table, label) if options.drop_unlabeled else table


def _labeled(table: Table, column: str) -> Table:
    values = table.columns[column]
    none = _unlabeled(values)
    rows = [row for row, value in enumerate(values) if value.strip() not in none]
    if not rows:
        raise UserError(f"{table.path}: no row has a label in column {column!r}; add labels.")
    columns = {name: [each[row] for row in rows] for name, each in table.columns.items()}
    return dataclasses.replace(table, columns=columns, lines=[table.lines[row] for row in rows])


def _unlabeled(values: Sequence[str]) -> frozenset[str]:
    return _UNLABELED - {"-"} if "+" in values else _UNLABELED


def find_labels(table: Table, column: str, separator: str | None = None) -> tuple[str, ...]:
    """Returns the labels of a training file: in numeric order if all are integers, else by name.

    Args:
        table: the rows.
        column: the label column.
        separator: text between the labels of a row, which may have none; None: a row has one label.

    Raises:
        UserError: a label is none or too long, two are the same number, or there are fewer than two
            or too many labels.
    """
    names: set[str] = set()
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
    numbers = {name: number for name in ordered if (number := as_number(name)) is not None}
    spellings = {number: name for name, number in numbers.items()}
    for name, number in numbers.items():
        if (other := spellings[number]) != name:
            raise UserError(
                f"{table.path}: column {column!r} has the labels {name!r} and {other!r}, which are "
                "the same number; write it in one way."
            )
    if len(numbers) == len(names):
        ordered.sort(key=numbers.__getitem__)
    return tuple(ordered)


def looks_like_numbers(labels: Sequence[str]) -> bool:
    """Whether labels are numbers and not all of them integers, as what regression predicts."""
    numbers = [as_number(label) for label in labels]
    return None not in numbers and any(number % 1 for number in numbers if number is not None)


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
    # Labels without names, as Hugging Face's models have them.
    unnamed = {match[1]: at for name, at in places.items() if (match := _UNNAMED.fullmatch(name))}
    places = {**unnamed, **places}
    for row in range(len(table)):
        for name in _labels_of(table, column, row, separator):
            if name not in places:
                raise UserError(
                    f"{table.where(row)}: label {shorten(name)} was not seen in training (which "
                    f"has {_some(labels)}); {_advice(name, labels)}."
                )
            yield row, places[name]


def _advice(name: str, labels: Sequence[str]) -> str:
    number, numbers = as_number(name), [as_number(label) for label in labels]
    if number is not None and number in numbers:
        return f"write it {labels[numbers.index(number)]!r} as there"
    if number is not None and None not in numbers:
        return "correct it or, if these are numbers to predict, set `regression` in training"
    return "correct it, or add rows with it to the training file"


def _labels_of(table: Table, column: str, row: int, separator: str | None) -> list[str]:
    value = table.columns[column][row].strip()
    if separator is None:
        names = [value]
        if value in _UNLABELED and value in _unlabeled(table.columns[column]):
            raise UserError(
                f"{table.where(row)}: {value!r} in column {column!r} is no label; write one, or "
                "set `drop_unlabeled` to leave out all such rows."
            )
    else:
        names = [name.strip() for name in value.split(separator)] if value else []
    if not all(names):
        raise UserError(
            f"{table.where(row)}: a label is empty; write one beside each {separator!r}."
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
            remedy = "correct it, or leave out `regression` if these are labels"
            if text.strip() in _UNLABELED:
                remedy = "write one, or set `drop_unlabeled` to leave out all such rows"
            raise UserError(
                f"{table.where(row)}: {shorten(text)} in column {column!r} is no finite number, "
                f"which `regression` needs; {remedy}."
            )
        values[row] = value
    return values


def label_weights(
    weights: Literal["balanced"] | Mapping[str, float], labels: Sequence[str], ids: np.ndarray
) -> np.ndarray:
    """float32 [C]: the weight of a row with each label.

    Args:
        weights: weights by label, by default 1; or "balanced": N / (labels that occur * rows of the
            label), as scikit-learn's class_weight.
        labels: names of the labels.
        ids: int [N], the label of each training row.

    Raises:
        UserError: a label does not exist, a weight is not above 0, or there is no weight.
    """
    if weights == "balanced":
        counts = np.bincount(ids, minlength=len(labels))
        return (len(ids) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
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

"""Tests which rows are the largest errors, for the three kinds of targets."""

import numpy as np

from bertjax.tasks.classification.errors import largest_errors
from bertjax.tasks.classification.targets import label_set, number, one_label

TEXTS = ["one", "two", "three", "four"]


def rows_of(targets, logits, values, labels):
    columns = {"text": TEXTS, "label": labels}
    tables = largest_errors(targets, np.array(logits, np.float32), np.array(values), columns)
    return [row for table in tables for row in table.rows]


def test_wrong_labels_come_by_the_margin_of_the_answer():
    logits = [[3, 0, 0], [0, 1, 0], [0, 4, 1], [2, 2.5, 0]]
    targets = one_label(("a", "b", "c"))
    assert rows_of(targets, logits, [0, 0, 2, 0], ["a", "a", "c", "a"]) == [
        ["three", "c", "b"],
        ["two", "a", "b"],
        ["four", "a", "b"],
    ]
    assert rows_of(targets, logits, [0, 1, 1, 1], ["a", "b", "b", "b"]) == []


def test_label_sets_with_a_wrong_label_come_by_its_probability():
    logits = [[5, -5], [5, 5], [-1, -5], [-9, -9]]
    values = [[1, 0], [1, 0], [1, 0], [0, 0]]
    assert rows_of(label_set(("a", "b"), "|"), logits, values, ["a", "a", "a", ""]) == [
        ["two", "a", "a, b"],
        ["three", "a", ""],
    ]


def test_numbers_come_by_their_difference():
    logits, values = [[1.0], [2.5], [0.0], [4.0]], [1.0, 2.0, 3.0, 4.5]
    assert rows_of(number(), logits, values, ["1", "2", "3", "4.5"]) == [
        ["three", "3", "0"],
        ["two", "2", "2.5"],
        ["four", "4.5", "4"],
    ]

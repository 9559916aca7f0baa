"""Labels, numbers and weights of a column."""

import numpy as np
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks import labels as c
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.tables import Table


def table(labels, column="label"):
    return Table(epath.Path("a.tsv"), {column: list(labels)}, list(range(2, len(labels) + 2)))


def test_labels_are_sorted_by_name_or_by_value():
    assert c.find_labels(table(["b", "a", " b "]), "label") == ("a", "b")
    assert c.find_labels(table(["10", "9", "-1"]), "label") == ("-1", "9", "10")
    assert c.find_labels(table(["10", "9", "x"]), "label") == ("10", "9", "x")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a", " "], "a.tsv:3: '' in column 'label' is no label; write .* set `drop_unlabeled`"),
        (["entailment", "-"], "a.tsv:3: '-' in column 'label' is no label"),
        (["a", "nan"], "a.tsv:3: 'nan' in column 'label' is no label"),
        (["0", "1", "0.0"], "labels '0' and '0.0', which are the same number|'0.0' and '0'"),
        (["1", "01"], "which are the same number; write it in one way"),
        (["a", "b" * 5000], "a.tsv:3: a label has 5,000 characters"),
        (["a", "a"], "has only the label 'a'"),
        (list(map(str, range(10_001))), "has 10,001 different labels .* set `regression`"),
    ],
)
def test_what_is_no_column_of_labels(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        c.find_labels(table(labels), "label")


def test_a_label_not_seen_in_training():
    assert c.label_ids(table(["b", "a"]), "label", ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"a.tsv:3: label 'c' was not seen in training .*a, b"):
        c.label_ids(table(["a", "c"]), "label", ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "value", "advice"),
    [
        (["0", "1"], "0.0", "write it '0' as there"),
        (["1.5", "2"], "1.6", "if these are numbers to predict, set `regression`"),
        (["0", "1"], "x", "add rows with it to the training file"),
        (["a", "b"], "1", "add rows with it to the training file"),
    ],
)
def test_what_to_do_about_a_label_not_seen_in_training(labels, value, advice):
    with pytest.raises(UserError, match=advice):
        c.label_ids(table([value]), "label", labels)


def test_labels_without_names_are_numbers_too():
    unnamed = ["LABEL_0", "LABEL_1"]
    assert c.label_ids(table(["1", "LABEL_0"]), "label", unnamed).tolist() == [1, 0]
    with pytest.raises(UserError, match="label '2' was not seen"):
        c.label_ids(table(["2"]), "label", unnamed)


def test_plus_and_minus_are_labels():
    assert c.find_labels(table(["+", "-"]), "label") == ("+", "-")
    assert c.looks_like_numbers(["0.5", "1"]) and not c.looks_like_numbers(["0", "1.0"])
    assert not c.looks_like_numbers(["0.5", "x"])


def test_rows_without_a_label_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(
            f'{{"text": "{n}", "label": {label}}}\n'
            for n, label in enumerate(['"a"', '"-"', "null", '"nan"', '""', '"b"'])
        )
    )
    options = ClassificationConfig(drop_unlabeled=True)
    read = c.read_labeled(path, options)
    assert read.columns == {"text": ["0", "5"], "label": ["a", "b"]} and read.lines == [1, 6]
    with pytest.raises(UserError, match=r"a.jsonl:2: '-' in column 'label' is no label"):
        c.find_labels(c.read_labeled(path, ClassificationConfig()), "label")
    path.write_text('{"text": "a", "label": "-"}\n')
    with pytest.raises(UserError, match="no row has a label in column 'label'"):
        c.read_labeled(path, options)


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    ids = np.array([0, 0, 0, 2, 1, 2], np.int32)
    wanted = utils.compute_class_weight("balanced", classes=np.arange(3), y=ids)
    ours = c.label_weights("balanced", ["a", "b", "c"], ids)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)  # float32
    np.testing.assert_allclose(np.bincount(ids, ours[ids]), [2, 2, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({}, "`class_weights` is empty"),
        ({"d": 1.0}, "`class_weights` has 'd', which is no label; the labels are a, b."),
        ({"a": 0.0}, "`class_weights` gives 'a' 0.0"),
        ({"a": float("nan")}, "`class_weights` gives 'a' nan"),
    ],
)
def test_weights_that_are_none(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        c.label_weights(weights, ["a", "b"], np.array([0, 1]))


@pytest.mark.parametrize("value", ["x", "", "nan", "-inf", "1e99", "9" * 5000])
def test_what_regression_can_not_predict(value):
    assert c.target_values(table(["0.5", "-1e3"]), "label").tolist() == [0.5, -1000.0]
    with pytest.raises(UserError, match=r"a.tsv:3: .* is no finite number") as caught:
        c.target_values(table(["0.5", value]), "label")
    assert ("`drop_unlabeled`" in str(caught.value)) == (value in ("", "nan"))


def test_weights_by_label():
    weights = c.label_weights({"c": 0.5, "a": 3}, ["a", "b", "c"], np.array([0, 1, 2], np.int32))
    assert weights.tolist() == [3.0, 1.0, 0.5] and weights.dtype == np.float32


def test_labels_are_those_of_all_rows_and_a_row_may_have_none():
    rows = table(["b|a", "", " c | b ", "  "])
    labels = c.find_labels(rows, "label", "|")
    assert labels == ("a", "b", "c")
    sets = c.label_sets(rows, "label", labels, "|")
    assert sets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert sets.dtype == np.int32


def test_another_separator_leaves_bars_in_names():
    assert c.find_labels(table(["a|b, 10", "9"]), "label", ",") == ("10", "9", "a|b")
    assert c.find_labels(table(["10;9", "-1"]), "label", ";") == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a|b", "a||b"], r"a.tsv:3: a label is empty; write one beside each '|'"),
        (["a|b|", "a"], "a.tsv:2: a label is empty"),
        (["", "x" * 201], "a.tsv:3: a label has 201 characters"),
        (["a", ""], "only the label 'a'; a classifier needs two"),
        (["", ""], "has no label; a classifier"),
        (["|".join(map(str, range(10_001)))], "has 10,001 different labels"),
    ],
)
def test_what_is_no_column_of_label_sets(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        c.find_labels(table(labels), "label", "|")


def test_a_label_of_a_set_not_seen_in_training():
    with pytest.raises(UserError, match=r"a.tsv:3: label 'c' was not seen in training .*a, b"):
        c.label_sets(table(["a|b", "a|c"]), "label", ["a", "b"], "|")

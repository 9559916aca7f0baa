import numpy as np
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.classification import label_sets as m
from bertjax.tasks.tables import Table


def table(labels):
    return Table(epath.Path("a.tsv"), {"label": list(labels)}, list(range(2, len(labels) + 2)))


def test_labels_are_those_of_all_rows_and_a_row_may_have_none():
    rows = table(["b|a", "", " c | b ", "  "])
    labels = m.find_labels(rows, "label", "|")
    assert labels == ("a", "b", "c")
    sets = m.label_sets(rows, "label", labels, "|")
    assert sets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert sets.dtype == np.int32


def test_another_separator_leaves_bars_in_names():
    assert m.find_labels(table(["a|b, 10", "9"]), "label", ",") == ("10", "9", "a|b")
    assert m.find_labels(table(["10;9", "-1"]), "label", ";") == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a|b", "a||b"], r"a.tsv:3: the labels 'a\|\|b' have an empty one"),
        (["a|b|", "a"], "a.tsv:2: the labels .* have an empty one"),
        (["", "x" * 201], "a.tsv:3: a label has 201 characters"),
        (["a", ""], "only the label 'a'; `multi_label` needs two"),
        (["", ""], "has no label; `multi_label`"),
        (["|".join(map(str, range(10_001)))], "has 10,001 different labels"),
    ],
)
def test_what_is_no_column_of_label_sets(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        m.find_labels(table(labels), "label", "|")


def test_a_label_not_seen_in_training():
    with pytest.raises(UserError, match=r"a.tsv:3: label 'c' was not seen in training .*a, b"):
        m.label_sets(table(["a|b", "a|c"]), "label", ["a", "b"], "|")


@pytest.mark.parametrize("classes", [2, 5])
def test_metrics_agree_with_scikit_learn(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(classes)
    for _ in range(20):
        true = (rng.random((12, classes)) < 0.4).astype(np.int32)
        logits = rng.normal(size=(12, classes)).astype(np.float32)
        said = m.probabilities(logits) >= m.THRESHOLD
        ours = m.metrics(logits, true)
        assert tuple(ours) == m.METRICS
        present = np.flatnonzero(true.any(0) | said.any(0))
        chances = m.probabilities(logits)
        wanted = {
            "micro_f1": sklearn.f1_score(true, said, average="micro"),
            "macro_f1": sklearn.f1_score(true, said, average="macro", labels=present),
            "exact_match": sklearn.accuracy_score(true, said),
            "loss": np.mean(
                [sklearn.log_loss(true[:, c], chances[:, c], labels=[0, 1]) for c in range(classes)]
            ),
        }
        assert ours == pytest.approx(wanted, rel=1e-6)  # logits are float32


def test_the_threshold_is_a_probability_of_one_half():
    logits = np.array([[0.0, -1e-6, 800.0, -800.0]], np.float32)
    assert (m.probabilities(logits) >= m.THRESHOLD).tolist() == [[True, False, True, False]]
    assert m.probabilities(logits)[0] == pytest.approx([0.5, 0.5, 1.0, 0.0], abs=1e-6)


def test_nothing_there_and_nothing_said_is_no_error_and_no_success():
    none = np.zeros((3, 2), np.int32)
    scores = m.metrics(np.full((3, 2), -5.0, np.float32), none)
    assert scores["micro_f1"] == scores["macro_f1"] == 0.0
    assert scores["exact_match"] == 1.0

"""Entities as seqeval counts them, and the other metrics and tables."""

import numpy as np
import pytest

from bertjax.tasks.token_classification import metrics
from bertjax.tasks.token_classification.features import make_windows


@pytest.fixture(scope="module")
def cases(load_helper):
    return load_helper("tasks/token_classification/seqeval_cases.py")


@pytest.fixture(scope="module")
def golden(cases):
    return np.load(cases.GOLDEN)


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "iobes"])
def test_ten_thousand_sequences_with_errors_score_as_in_seqeval(scheme, cases, golden):
    """Precision, recall and F1, of each sequence and of all of them, are equal to the last bit."""
    pairs = cases.pairs(scheme)

    def scores(true, found):
        own = metrics.entity_scores(true, found)
        return [own[name] for name in ("precision", "recall", "f1")], own

    own = np.array([scores([true], [found])[0] for true, found in pairs])
    assert own.shape == (10_000, 3) and len(np.unique(own[:, 2])) > 50
    np.testing.assert_array_equal(own, golden[scheme])
    whole, every = scores(*zip(*pairs, strict=True))
    types = sorted(cases.TYPES)
    by_type = [
        [every[f"{label}_{name}"] for label in types] for name in ("precision", "recall", "f1")
    ]
    found = np.concatenate([np.array(whole)[:, None], by_type], 1)
    np.testing.assert_array_equal(found, golden[f"{scheme}_corpus"])


LABELS = ("O", "B-A", "I-A", "B-B", "I-B")


@pytest.fixture
def windows(tiny_model):
    words = [["good", "film", "plot"], ["the", "bad"]]
    tags = [("B-A", "I-A", "O"), ("O", "B-B")]
    return make_windows(words, tiny_model.tokenizer, 16, tags=tags, labels=LABELS)


def outputs_of(windows, tags, labels):
    """Logits of 4 for these tags of all words and 0 for others, on first tokens."""
    logits = np.zeros((len(windows.ids), len(labels)), np.float32)
    logits[windows.first_tokens, [labels.index(tag) for tag in tags]] = 4
    for row, (first, end, _, _) in enumerate(windows.spans):
        values = np.zeros((1, 16, len(labels)), np.float32)
        values[0, 1 : end - first + 1] = logits[first:end]
        yield np.array([row]), values


def test_scores_of_a_file_and_its_tables(windows):
    found = ["B-A", "I-A", "O", "B-A", "B-B"]
    scores = metrics.tag_scores(windows, outputs_of(windows, found, LABELS), LABELS)
    assert (scores["precision"], scores["recall"]) == (2 / 3, 1.0) and scores["f1"] == 0.8
    assert scores["A_precision"] == 0.5 and scores["B_f1"] == 1.0 and scores["accuracy"] == 0.8
    right, wrong = np.log(np.exp(4) + 4) - 4, np.log(np.exp(4) + 4)
    assert scores["loss"] == pytest.approx((4 * right + wrong) / 5)
    types, confusion, errors = metrics.report_tables(
        windows, outputs_of(windows, found, LABELS), LABELS
    )
    assert types.rows == [["A", 1, 2, 0.5, 1.0, 2 / 3], ["B", 1, 1, 1.0, 1.0, 1.0]]
    assert {
        row[0]: dict(zip(confusion.columns[1:], row[1:], strict=True)) for row in confusion.rows
    } == {
        "A": {"A": 2, "O": 0, "B": 0},
        "O": {"A": 1, "O": 1, "B": 0},
        "B": {"A": 0, "O": 0, "B": 1},
    }
    assert errors.rows == [["the bad", "bad (B)", "the (A), bad (B)"]]


def test_a_model_of_another_scheme_has_the_same_metrics_and_no_loss(windows):
    labels = ("O", "S-A", "B-A", "E-A", "S-B")
    found = ["B-A", "E-A", "O", "O", "S-B"]
    scores = metrics.tag_scores(windows, outputs_of(windows, found, labels), labels)
    assert scores["f1"] == scores["accuracy"] == 1.0 and "loss" not in scores


def test_tags_without_a_scheme_have_accuracy(tiny_model):
    tags, labels = [("DT", "NN"), ("NN",)], ("DT", "NN")
    words = [["the", "film"], ["plot"]]
    windows = make_windows(words, tiny_model.tokenizer, 16, tags=tags, labels=labels)
    found = ["DT", "NN", "DT"]
    scores = metrics.tag_scores(windows, outputs_of(windows, found, labels), labels)
    assert scores["accuracy"] == 2 / 3 and {"macro_f1", "mcc", "loss"} < scores.keys()
    confusion, errors = metrics.report_tables(windows, outputs_of(windows, found, labels), labels)
    assert confusion.rows == [["DT", 1, 0], ["NN", 1, 1]]
    assert errors.rows == [["plot", "NN", "DT"]]


def test_the_majority_is_that_of_each_word():
    train = (["a", "b", "a", "a", "b"], ["X", "Y", "X", "Y", "Y"])
    assert metrics.majority_tags(train, ["a", "b", "c"]) == ["X", "Y", "Y"]

import dataclasses

import numpy as np
import pytest
from etils import epath

from bertjax.errors import UserError
from bertjax.tasks.classification import features as c
from bertjax.tasks.tables import Table


def table(labels, column="label"):
    return Table(epath.Path("a.tsv"), {column: list(labels)}, list(range(2, len(labels) + 2)))


class Letters:
    """A tokenizer whose tokens are letters: [CLS] 1, letters 3 and up, [SEP] 2."""

    pad_id = 0

    def batch(self, texts, pairs=None, max_length=128, *, parse_mask=False):
        rows = []
        for at, text in enumerate(texts):
            row = [1, *(3 + ord(letter) for letter in text[: max_length - 2]), 2]
            rows.append((row, [3] * len(pairs[at]) + [2] if pairs else []))
        width = max(len(first) + len(second) for first, second in rows)
        shape = (len(rows), width)
        ids, mask, types = (np.zeros(shape, np.int32) for _ in range(3))
        for at, (first, second) in enumerate(rows):
            ids[at, : len(first) + len(second)] = first + second
            mask[at, : len(first) + len(second)] = 1
            types[at, len(first) : len(first) + len(second)] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def test_labels_are_sorted_by_name_or_by_value():
    assert c.find_labels(table(["b", "a", " b "]), "label") == ("a", "b")
    assert c.find_labels(table(["10", "9", "-1"]), "label") == ("-1", "9", "10")
    assert c.find_labels(table(["10", "9", "x"]), "label") == ("10", "9", "x")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a", " "], "a.tsv:3: the label is empty"),
        (["a", "b" * 5000], "a.tsv:3: the label has 5,000 characters"),
        (["a", "a"], "every row has the label 'a'"),
        (list(map(str, range(10_001))), "has 10,001 different labels .* use --regression"),
    ],
)
def test_what_is_no_column_of_labels(labels, sentence):
    with pytest.raises(UserError, match=sentence):
        c.find_labels(table(labels), "label")


def test_a_label_not_seen_in_training():
    assert c.label_ids(table(["b", "a"]), "label", ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"a.tsv:3: label 'c' was not seen in training .*a, b"):
        c.label_ids(table(["a", "c"]), "label", ["a", "b"])


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    ids = np.array([0, 0, 0, 2, 1, 2], np.int32)
    wanted = utils.compute_class_weight("balanced", classes=np.arange(3), y=ids)
    ours = c.label_weights("balanced", ["a", "b", "c"], ids)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)  # float32
    np.testing.assert_allclose(np.bincount(ids, ours[ids]), [2, 2, 2], rtol=1e-6)


def test_weights_by_label_reach_the_batch():
    ids = np.array([0, 1, 2], np.int32)
    weights = c.label_weights({"c": 0.5, "a": 3}, ["a", "b", "c"], ids)
    assert weights.tolist() == [3.0, 1.0, 0.5]
    examples = c.tokenize(["x"] * 3, None, Letters(), 5, ids)
    examples = dataclasses.replace(examples, weights=weights[ids])
    batch = examples.batch(np.array([2, 0, -1]), 5)
    assert batch["example_weight"].tolist() == [0.5, 3.0, 0.0]
    assert batch["example_weight"].dtype == np.float32


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({}, "class_weights is empty"),
        ({"d": 1.0}, "class_weights has 'd', which is no label; those are a, b."),
        ({"a": 0.0}, "class_weights gives 'a' 0.0"),
        ({"a": float("nan")}, "class_weights gives 'a' nan"),
    ],
)
def test_weights_that_are_none(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        c.label_weights(weights, ["a", "b"], np.array([0, 1]))


@pytest.mark.parametrize("value", ["x", "", "nan", "-inf", "1e99", "9" * 5000])
def test_what_regression_can_not_predict(value):
    assert c.target_values(table(["0.5", "-1e3"]), "label").tolist() == [0.5, -1000.0]
    with pytest.raises(UserError, match=r"a.tsv:3: .* is no finite number"):
        c.target_values(table(["0.5", value]), "label")


def test_a_batch_is_padded_and_weighted():
    examples = c.tokenize(["ab", "abcd"], None, Letters(), 5, np.array([1, 0], np.int32))
    assert examples.lengths.tolist() == [4, 5]
    batch = examples.batch(np.array([1, 0, -1]), 6)
    assert batch["input_ids"].shape == (3, 6)
    assert batch["attention_mask"].sum(1).tolist() == [5, 4, 4]
    assert batch["label"].tolist() == [0, 1, 1]
    assert batch["example_weight"].tolist() == [1.0, 1.0, 0.0]
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "input_ids": "int32",
        "attention_mask": "int32",
        "token_type_ids": "int32",
        "label": "int32",
        "example_weight": "float32",
    }


def test_pairs_and_more_rows_than_a_chunk():
    texts = ["a" * (row % 7) for row in range(600)]
    examples = c.tokenize(texts, texts[::-1], Letters(), 64)
    assert [len(ids) for ids in examples.input_ids] == [
        len(a) + len(b) + 3 for a, b in zip(texts, texts[::-1], strict=True)
    ]
    assert examples.token_type_ids[6].sum() == len(texts[-7]) + 1


def test_metrics_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for classes in (2, 5):
        labels = rng.integers(0, classes, 200).astype(np.int32)
        logits = rng.normal(size=(200, classes)).astype(np.float32)
        logits[np.arange(200), labels] += 1
        ours, said = c.metrics(logits, labels), logits.argmax(1)
        assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, said))
        assert ours["mcc"] == pytest.approx(sklearn.matthews_corrcoef(labels, said))
        assert ours["macro_f1"] == pytest.approx(sklearn.f1_score(labels, said, average="macro"))
        probabilities = np.exp(logits.astype(np.float64))
        probabilities /= probabilities.sum(1, keepdims=True)
        assert ours["loss"] == pytest.approx(sklearn.log_loss(labels, probabilities))
        assert ("f1" in ours) == (classes == 2)
        if classes == 2:
            assert ours["f1"] == pytest.approx(sklearn.f1_score(labels, said))


def test_regression_metrics_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, 100).astype(np.float32)  # with ties
    logits = (labels + rng.normal(size=100)).astype(np.float32)[:, None]
    logits[:10] = 1.0
    ours = c.metrics(logits, labels)
    assert ours["pearson"] == pytest.approx(stats.pearsonr(logits[:, 0], labels)[0], abs=1e-6)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(logits[:, 0], labels)[0], abs=1e-6)
    assert ours["loss"] == pytest.approx(np.mean((logits[:, 0] - labels) ** 2), rel=1e-6)


def test_constant_predictions_have_no_correlation():
    labels = np.array([0, 1, 1], np.int32)
    assert c.metrics(np.array([[1.0, 0.0]] * 3), labels)["mcc"] == 0.0
    scores = c.metrics(np.ones((3, 1)), labels.astype(np.float32))
    assert scores["pearson"] == scores["spearman"] == 0.0

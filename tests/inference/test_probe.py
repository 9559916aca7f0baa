import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference.config import ProbeConfig
from bertjax.inference.embed import embed
from bertjax.inference.probe import Probe, fit_probe, probe
from bertjax.interop.sentence_transformers import Normalize, SentenceModules
from bertjax.tasks.metrics import classification_metrics

pytest.importorskip("sklearn", reason="a probe needs scikit-learn: pip install 'bertjax[demo]'")
threadpoolctl = pytest.importorskip("threadpoolctl", reason="scikit-learn brings it")

WORDS = ("the", "a", "film", "plot", "acting", "was", "is", "very", "one", "two", ",", ".")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sample(rng, rows):
    """One word tells the label; its number of occurrences is the number."""
    made = []
    for _ in range(rows):
        count = int(rng.integers(0, 4))
        words = [*["good"] * count, *rng.choice(WORDS, 6 - count)]
        second, label = " ".join(rng.permutation(words)), "yes" if count else "no"
        made.append({"text": second, "label": label, "count": count, "first": "the film"})
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Products of small matrices are faster in one thread."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return sample(rng, 80), sample(rng, 40)


@pytest.fixture(scope="module")
def config(rows, tmp_path_factory):
    directory = tmp_path_factory.mktemp("probe")
    train, dev = (
        write(directory / f"{name}.jsonl", part)
        for name, part in zip(("train", "dev"), rows, strict=True)
    )
    return ProbeConfig("unused", train, dev, layer=(0,))


@pytest.fixture(scope="module")
def vectors(tiny_model, rows):
    return [embed(tiny_model, [row["text"] for row in part], 0) for part in rows]


@pytest.fixture(scope="module")
def result(config, tiny_model):
    return probe(config, tiny_model)


@pytest.fixture(scope="module")
def labels(rows):
    return [np.array([row["label"] == "yes" for row in part], np.int32) for part in rows]


def test_a_word_is_read_in_the_embeddings(result, vectors, labels):
    """A fit by hand with the reported C, on vectors standardized by the training rows, agrees."""
    from sklearn.linear_model import LogisticRegression

    assert result["accuracy"] > 0.95
    mean, deviation = vectors[0].mean(0), vectors[0].std(0)
    train, dev = ((part - mean) / deviation for part in vectors)
    model = LogisticRegression(C=result["C"], max_iter=5000, tol=1e-6).fit(train, labels[0])
    logits = model.decision_function(dev)
    expected = classification_metrics(np.stack([0 * logits, logits], 1), labels[1])
    for name, value in expected.items():
        # The probe's solver stops at a gradient of 1e-3.
        assert result[name] == pytest.approx(value, rel=0.02)
    tried = {float(strength): score for strength, score in result["tried"].items()}
    best = [strength for strength, score in tried.items() if score == max(tried.values())]
    assert result["C"] == min(best)
    assert (result["examples"], result["train_examples"]) == (40, 80)
    assert (result["layer"], result["layer_weights"], result["pooling"]) == ([0], None, "mean")


def test_the_dev_rows_choose_nothing(result, tiny_model, config, rows, tmp_path):
    other = {"yes": "no", "no": "yes"}
    flipped = [{**row, "label": other[row["label"]]} for row in rows[1]]
    path = write(tmp_path / "flipped.jsonl", flipped)
    wrong = probe(dataclasses.replace(config, dev=path), tiny_model)
    assert (result["C"], result["tried"]) == (wrong["C"], wrong["tried"])
    assert result["accuracy"] == pytest.approx(1 - wrong["accuracy"])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_answer_does_not_know_of_the_others(vectors, labels, dtype):
    """Nor do the mean and deviation that standardize the vectors depend on them."""
    train, dev = vectors
    far = np.concatenate([dev, 1e4 * dev[:1]])
    alone, among = (
        fit_probe(train, labels[0].astype(dtype), part, folds=2, seed=0) for part in (dev[:5], far)
    )
    assert (alone.strength, alone.tried) == (among.strength, among.tried)
    # Matrix products of other shapes add in another order.
    np.testing.assert_allclose(alone.outputs, among.outputs[:5], rtol=1e-9, atol=1e-12)


def test_the_seed_deals_out_the_training_rows(vectors, labels):
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(80) < 0.3, 1 - labels[0], labels[0])
    tried = [fit_probe(vectors[0], noisy, vectors[1], folds=2, seed=n).tried for n in (0, 1)]
    assert tried[0] != tried[1]


def test_several_labels_have_a_logit_each(vectors, rows):
    counts = np.array([row["count"] for row in rows[0]], np.int32)
    fitted = fit_probe(vectors[0], counts, vectors[1], folds=2, seed=0)
    assert fitted.outputs.shape == (40, 4)
    gold = np.array([row["count"] for row in rows[1]], np.int32)
    assert classification_metrics(fitted.outputs, gold)["accuracy"] > 0.7


def test_a_number_is_read_too(tiny_model, config):
    numbers = dataclasses.replace(config, label_column="count", regression=True)
    result = probe(numbers, tiny_model)
    assert result["spearman"] > 0.9 and result["loss"] < 0.3
    errors = {float(strength): error for strength, error in result["tried"].items()}
    assert result["alpha"] == min(errors, key=errors.__getitem__)
    assert "C" not in result


@pytest.mark.parametrize(
    "fields",
    [
        {"layer": (0, 1), "layer_weights": (0.5, -1.0)},
        {"layer": (0, -1), "pooling": "cls", "batch_size": 64},
        {"layer": (-1,), "pooling": "pooler", "pair_column": "first"},
    ],
)
def test_every_option_reaches_the_vectors(tiny_model, config, rows, monkeypatch, fields):
    given = []

    def fit(train, labels, others, *, folds, seed):
        given.extend((train, others))
        return Probe(np.zeros((len(others), 2)), 1.0, {1.0: 0.5})

    monkeypatch.setattr("bertjax.inference.probe.fit_probe", fit)
    told = probe(dataclasses.replace(config, **fields), tiny_model)
    with_pair = "pair_column" in fields
    named = {name: value for name, value in fields.items() if name != "pair_column"}
    for part, vectors in zip(rows, given, strict=True):
        texts = [(row["text"], row["first"]) if with_pair else row["text"] for row in part]
        np.testing.assert_array_equal(vectors, embed(tiny_model, texts, **named))
    assert told["layer"] == list(fields["layer"])
    assert told["layer_weights"] == (list(fields.get("layer_weights", ())) or None)
    assert told["pooling"] == fields.get("pooling", "mean")


def test_modules_are_followed_and_common_rows_are_counted(tiny_model, config, rows, monkeypatch):
    given, notes = [], []

    def fit(train, labels, others, *, folds, seed):
        given.append(others)
        return Probe(np.zeros((len(others), 2)), 1.0, {1.0: 0.5})

    monkeypatch.setattr("bertjax.inference.probe.fit_probe", fit)
    modules = SentenceModules({}, ("cls", "max"), 8, after=(Normalize(),))
    model = dataclasses.replace(tiny_model, sentence_modules=modules)
    whole = dataclasses.replace(config, layer=None, dev=config.train)
    told = probe(whole, model, note=notes.append)
    np.testing.assert_array_equal(given[0], embed(model, [row["text"] for row in rows[0]]))
    assert given[0].shape[1] == 2 * model.config.hidden_size
    assert told["modules"] == str(modules) and "pooling" not in told
    assert f"of 80 dev rows, 80 are among the training rows ({config.train} is both)" in notes[1]
    assert notes[0] == f"As the model's modules.json says: {modules}."
    # A pooling that is given replaces them.
    told = probe(dataclasses.replace(whole, pooling="mean"), model, note=notes.append)
    assert told["layer"] == [-1] and len(notes) == 3


def test_what_is_refused(tiny_model, config, tmp_path, monkeypatch):
    def refused(sentence, **fields):
        with pytest.raises(UserError, match=sentence):
            probe(dataclasses.replace(config, **fields), tiny_model)

    rare = write(tmp_path / "rare.jsonl", [{"text": "a", "label": y} for y in "xxy"])
    single = f"{rare}: has a single row of the label 'y', and cross-validation"
    refused(single, train=rare, dev=rare)
    one = write(tmp_path / "one.jsonl", [{"text": "a", "label": 1}])
    refused(f"{one}: has a single row, and", train=one, dev=one, regression=True)
    refused("has only the label '1'", train=one)
    refused(f"{one}:1: label '1' was not seen in training", dev=one)
    refused("in column 'label' is no finite number", regression=True)
    refused("no column 'body'", text_column="body")
    refused("the model has 1 layers", layer=(5,))
    refused("`layer_weights` has 1 numbers for 2 layers", layer=(0, 1), layer_weights=(1.0,))
    with pytest.raises(UserError, match="`seed` is -1"):
        dataclasses.replace(config, seed=-1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused("scikit-learn, which is not installed: pip install 'bertjax\\[demo\\]'")

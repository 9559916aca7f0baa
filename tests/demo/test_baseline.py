import json
import random

import pytest

from bertjax.demo.baseline import tfidf_accuracy

pytest.importorskip("sklearn", reason="TF-IDF needs scikit-learn: pip install 'bertjax[demo]'")


def write(path, rows):
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return path


def sample(generator, rows):
    """Half of the words tell the label."""
    made = []
    for _ in range(rows):
        label = generator.choice(["red", "blue"])
        own = [f"{label}{generator.randrange(30)}" for _ in range(3)]
        made.append((" ".join([*own, *generator.choices(["the", "of", "a"], k=4)]), label))
    return made


def test_words_that_tell_the_label_are_learned(tmp_path):
    generator = random.Random(0)
    paths = [write(tmp_path / f"{n}.jsonl", sample(generator, n)) for n in (200, 50, 101)]
    result = tfidf_accuracy(*paths)
    assert result["test"] > 0.95
    assert result["dev"] == max(result["tried"].values())
    assert f"{result['strength']:g}" in result["tried"]


def test_labels_without_any_sign_are_guessed(tmp_path):
    generator = random.Random(0)

    def rows(count):
        return [
            (" ".join(generator.choices(["one", "two", "six", "ten"], k=5)), generator.choice("xy"))
            for _ in range(count)
        ]

    paths = [write(tmp_path / f"{n}.jsonl", rows(n)) for n in (200, 50, 201)]
    assert 0.35 < tfidf_accuracy(*paths)["test"] < 0.65


def test_the_test_rows_choose_nothing(tmp_path):
    generator = random.Random(0)
    train, dev, test = (sample(generator, n) for n in (60, 40, 40))
    train = write(tmp_path / "train.jsonl", train)
    dev = write(tmp_path / "dev.jsonl", dev)
    other = {"red": "blue", "blue": "red"}
    right = tfidf_accuracy(train, dev, write(tmp_path / "test.jsonl", test))
    flipped = [(text, other[label]) for text, label in test]
    wrong = tfidf_accuracy(train, dev, write(tmp_path / "flipped.jsonl", flipped))
    assert right["strength"] == wrong["strength"] and right["tried"] == wrong["tried"]
    assert right["test"] == pytest.approx(1 - wrong["test"])

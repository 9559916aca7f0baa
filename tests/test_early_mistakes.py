"""Mistakes that need no weights are told before weights are read."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.interop.huggingface import from_pretrained, open_pretrained, save_pretrained

LABELS = "--train DIR/rows.tsv --dev DIR/rows.tsv"


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("mistakes")
    save_pretrained(root / "model", tiny_model)
    rows = [f"the film was good {n}\t{'pos' if n % 2 else 'neg'}" for n in range(8)]
    (root / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (root / "one.tsv").write_text("text\tlabel\nthe film\tpos\n")
    (root / "bad.tsv").write_text("text\tlabel\nthe film\tother\n")
    params = {name: tiny_model.params[name] for name in ("embeddings", "encoder")}
    plain = dataclasses.replace(tiny_model, params={**params}, task={"kind": "encoder"})
    save_pretrained(root / "plain", plain)
    params["pooler"] = tiny_model.params["pooler"]
    width = tiny_model.config.hidden_size
    params["classifier"] = {"kernel": np.zeros((width, 2)), "bias": np.zeros(2)}
    task = {"kind": "sequence_classification", "task": "classification", "labels": ["neg", "pos"]}
    save_pretrained(root / "tagged", dataclasses.replace(tiny_model, params=params, task=task))
    (root / "lines.txt").write_text("the film\n")
    return root


@pytest.fixture
def no_weights(monkeypatch):
    def read(path):
        pytest.fail(f"{path} was read")

    monkeypatch.setattr("bertjax.interop.huggingface.read_weights", read)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict MODEL DIR/none.txt", "none.txt: can't be read"),
        ("predict MODEL DIR/lines.txt --nothing 1", "predict has no --nothing"),
        ("predict MODEL DIR/lines.txt --top-k 0", "--top-k is 0: give at least 1"),
        ("evaluate MODEL DIR/none.tsv", "none.tsv: no such file"),
        ("evaluate MODEL DIR/rows.tsv", "which evaluate can't"),
        ("embed MODEL DIR/none.txt", "none.txt: can't be read"),
        ("embed MODEL DIR/lines.txt --layer 99", "--layer is 99: the model has"),
        ("embed MODEL DIR/lines.txt --layer 0 1 --layer-weights 1", "has 1 numbers for 2 layers"),
        ("embed MODEL DIR/lines.txt --output x.txt", "give a name that ends with .npy"),
        (f"probe MODEL {LABELS} --layer 99", "--layer is 99: the model has"),
        (f"probe MODEL {LABELS} --label-column no", "rows.tsv:1: no column 'no'"),
        ("predict TAGGED DIR/lines.txt --batch-size 0", "--batch-size is 0"),
        ("evaluate TAGGED DIR/bad.tsv", "bad.tsv:2: label 'other' was not seen in training"),
        ("embed PLAIN DIR/lines.txt --pooling pooler", "a model that has a pooler"),
        (f"finetune --model TAGGED {LABELS} --keep-head --head-labels pos no", "'no'"),
        (f"finetune --model MODEL {LABELS} --max-seq-length 4000", "longer than the model's"),
        (f"finetune --model MODEL {LABELS} --best-metric f3", "--best-metric is 'f3'"),
        (
            f"finetune --model MODEL {LABELS} --lora.rank 2 --lora.layers no",
            "--lora.layers has 'no'",
        ),
        (
            "finetune --model MODEL --train DIR/one.tsv --dev DIR/rows.tsv",
            "has only the label 'pos'",
        ),
        (f"finetune --model MODEL {LABELS} --average-last 500", "average-last is 500"),
    ],
)
def test_a_mistake_is_told_first(directory, no_weights, monkeypatch, capsys, words, said):
    monkeypatch.chdir(directory)
    given = re.sub("MODEL|TAGGED|PLAIN", lambda name: f"DIR/{name[0].lower()}", words)
    given = given.replace("DIR", str(directory)).split()
    assert cli.run(given) == 2
    assert said in capsys.readouterr().err


def test_weights_that_are_read_late_are_those_that_are_read_at_once(directory):
    late, now = open_pretrained(directory / "model"), from_pretrained(directory / "model")
    assert "params" not in vars(late)
    assert (late.config, late.kind, late.task) == (now.config, now.kind, now.task)
    jax.tree.map(np.testing.assert_array_equal, late.params, now.params)


def test_weights_that_are_refused_are_refused_at_once(directory, tmp_path, tiny_model):
    file = pathlib.Path(save_pretrained(tmp_path / "cut", tiny_model)) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut off at byte"):
        open_pretrained(file.parent)

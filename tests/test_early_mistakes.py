"""Mistakes that need no weights are told before weights are read."""

import pathlib

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.interop.huggingface import from_pretrained, open_pretrained, save_pretrained

MODEL, LABELS = "DIR/model", "--train DIR/rows.tsv --dev DIR/rows.tsv"


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tiny_model):
    root = tmp_path_factory.mktemp("mistakes")
    save_pretrained(root / "model", tiny_model)
    rows = [f"the film was good {n}\t{'pos' if n % 2 else 'neg'}" for n in range(8)]
    (root / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    (root / "one.tsv").write_text("text\tlabel\nthe film\tpos\n")
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
        ("predict MODEL DIR/lines.txt --nothing 1", "nothing"),
        ("predict MODEL DIR/lines.txt --top-k 0", "--top-k is 0: give at least 1"),
        ("evaluate MODEL DIR/none.tsv", "none.tsv: no such file"),
        ("evaluate MODEL DIR/rows.tsv", "which evaluate can't"),
        ("embed MODEL DIR/none.txt", "none.txt: can't be read"),
        ("embed MODEL DIR/lines.txt --layer 99", "--layer is 99: the model has"),
        ("embed MODEL DIR/lines.txt --layer 0 1 --layer-weights 1", "has 1 numbers for 2 layers"),
        ("embed MODEL DIR/lines.txt --output x.txt", "give a name that ends with .npy"),
        (f"probe MODEL {LABELS} --layer 99", "--layer is 99: the model has"),
        (f"probe MODEL {LABELS} --label-column no", "no"),
        (f"finetune --model MODEL {LABELS} --max-seq-length 4000", "longer than the model's"),
        (f"finetune --model MODEL {LABELS} --best-metric f3", "--best-metric is 'f3'"),
        (f"finetune --model MODEL {LABELS} --lora.rank 2 --lora.layers no", "no"),
        ("finetune --model MODEL --train DIR/one.tsv --dev DIR/rows.tsv", "label"),
        (f"finetune --model MODEL {LABELS} --average-last 500", "average-last is 500"),
    ],
)
def test_a_mistake_is_told_first(directory, no_weights, monkeypatch, capsys, words, said):
    monkeypatch.chdir(directory)
    given = words.replace("MODEL", MODEL).replace("DIR", str(directory)).split()
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

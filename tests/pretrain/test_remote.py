"""The main path in gs://: text, shards, run and export, without `open` or `os`."""

import builtins
import io
import json
import os

import numpy as np
import pytest

from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune
from bertjax.inference.fill_mask import fill_mask
from bertjax.inference.predict import predict
from bertjax.interop.huggingface import from_pretrained
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.pretrain.run import pretrain
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.checkpoint import manager
from bertjax.train.loop_config import LoopConfig

OS_FUNCTIONS = (
    "listdir",
    "makedirs",
    "mkdir",
    "open",
    "remove",
    "rename",
    "rmdir",
    "scandir",
    "stat",
)


class NumpyStorage:
    """In Orbax's place, whose own way to gs:// is TensorStore's: arrays as .npz, through epath."""

    def __init__(self, directory, *, read_only):
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def steps(self):
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdigit())

    def write(self, step, arrays, meta):
        folder = self._directory / str(step)
        folder.mkdir(parents=True)
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
        (folder / "arrays.npz").write_bytes(buffer.getvalue())
        (folder / "meta.json").write_text(json.dumps(meta))

    def writing(self):
        return False

    def wait(self):
        pass

    def delete(self, step):
        (self._directory / str(step)).rmtree()

    def close(self):
        pass


@pytest.fixture
def only_epath(monkeypatch):
    """`open` and the file functions of `os` refuse names in gs://."""

    def refusing(function):
        def guarded(name, *arguments, **named):
            if str(name).startswith("gs:"):
                raise AssertionError(f"{function.__name__}({name!r}): this is no local file")
            return function(name, *arguments, **named)

        return guarded

    monkeypatch.setattr(builtins, "open", refusing(builtins.open))
    monkeypatch.setattr(io, "open", refusing(io.open))
    for name in OS_FUNCTIONS:
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))


def test_everything_goes_through_epath(remote, only_epath, tmp_path, monkeypatch):
    bucket, folder = remote
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manager, "Storage", NumpyStorage)
    lines = []
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]
    documents = [
        "\n".join(" ".join(rng.choice(words, 6)) + "." for _ in range(8)) for _ in range(60)
    ]
    (bucket / "text.txt").write_text("\n\n".join(documents))
    rows = [f"{' '.join(rng.choice(words, 5))}\t{number % 2}" for number in range(24)]
    (bucket / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]))

    train_tokenizer(
        TokenizerConfig(("gs://bucket/text.txt",), "gs://bucket/tokenizer", vocab_size=120),
        lines.append,
    )
    prepare(
        PrepareConfig(
            ("gs://bucket/text.txt",),
            "gs://bucket/tokenizer",
            "gs://bucket/shards",
            max_seq_length=32,
            held_out=0.1,
            processes=1,
        ),
        lines.append,
    )
    shape = ModelConfig(
        "tiny",
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    recipe = PretrainConfig(
        "gs://bucket/shards",
        "gs://bucket/run",
        model=shape,
        batch_size=8,
        eval_examples=8,
        loop=LoopConfig(train_steps=4, eval_every=2, save_every=2, log_every=2),
    )
    result = pretrain(recipe, lines.append)
    assert sorted(path.name for path in bucket.iterdir()) == [
        "rows.tsv",
        "run",
        "shards",
        "text.txt",
        "tokenizer",
    ]
    finetune(
        FinetuneConfig(
            "gs://bucket/run",
            "gs://bucket/rows.tsv",
            "gs://bucket/rows.tsv",
            "gs://bucket/task",
            epochs=1,
            batch_size=8,
            max_seq_length=16,
        ),
        lines.append,
    )
    assert len(fill_mask(from_pretrained(result.export), ["bal [MASK]"], top_k=2)) == 1
    assert len(predict(from_pretrained("gs://bucket/task"), ["bal dem", "fir"])) == 2
    assert (folder / "run" / "export" / "model.safetensors").is_file()
    assert not (tmp_path / "gs:").exists()

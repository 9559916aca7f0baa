"""The command line as a user meets it: help, exit codes, and one sentence for each mistake."""

import io
import json
import sys

import numpy as np
import pytest

from bertjax import cli

SHAPE = [
    *("--model.size", "tiny", "--model.hidden-size", "16", "--model.num-attention-heads", "2"),
    *("--model.num-hidden-layers", "1", "--model.intermediate-size", "16"),
]
LOOP = ["--loop.train-steps", "2", "--loop.eval-every", "0", "--batch-size", "4"]
VERBS = [name.split() for name in cli.VERBS]


@pytest.fixture
def bertjax(capsys):
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*words):
        try:
            code = cli.run([str(word) for word in words])
        except SystemExit as stop:  # tyro's own, for --help and for flags it does not know
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def mistake(bertjax):
    """Runs a command that must fail by one sentence; returns the sentence."""

    def run(*words):
        code, _, err = bertjax(*words)
        assert code == 2, err
        assert err.startswith("bertjax: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Text, a tokenizer, shards and a pre-trained run, each by its command."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]
    documents = [
        "\n".join(" ".join(rng.choice(words, 6)) + "." for _ in range(8)) for _ in range(80)
    ]
    (root / "text.txt").write_text("\n\n".join(documents))
    commands = [
        [*TOKENIZER, "--input", root / "text.txt", "--output", root / "tok", "--vocab-size", 120],
        [
            *("prepare", "--input", root / "text.txt", "--tokenizer", root / "tok"),
            *("--output", root / "shards", "--max-seq-length", 32, "--held-out", 0.1),
        ],
        ["pretrain", "--data", root / "shards", "--workdir", root / "run", *SHAPE, *LOOP],
    ]
    for command in commands:
        assert cli.run([str(word) for word in command]) == 0
    return root


TOKENIZER = ["tokenizer", "train"]


def test_overview_names_every_verb(bertjax):
    for words in ([], ["--help"], ["help"]):
        code, out, _ = bertjax(*words)
        assert code == 0
        assert all(name in out for name in cli.VERBS)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(bertjax, verb):
    code, out, _ = bertjax(*verb, "--help")
    assert code == 0
    assert f"bertjax {' '.join(verb)}" in out
    assert "None" not in out.split("\n\n")[1]  # a description of its own


def test_version(bertjax):
    assert bertjax("--version")[1].startswith("bertjax ")


@pytest.mark.parametrize("words", [["fly"], ["tokenizer", "fly"]])
def test_unknown_verbs(mistake, words):
    assert "'fly'" in mistake(*words) or "fly" in mistake(*words)


def test_unknown_flags_exit_2(bertjax):
    assert bertjax("pretrain", "--data", "x", "--workdir", "y", "--speed", "9")[0] == 2


def test_each_step_prints_the_next(made, bertjax):
    code, out, _ = bertjax(
        *("prepare", "--input", made / "text.txt", "--tokenizer", made / "tok"),
        *("--output", made / "shards", "--max-seq-length", 32, "--held-out", 0.1),
    )
    assert code == 0
    assert out.splitlines()[-1].startswith(f"Next: bertjax pretrain --data {made / 'shards'}")
    code, out, _ = bertjax(
        "pretrain", "--data", made / "shards", "--workdir", made / "run", *SHAPE, *LOOP
    )
    assert code == 0
    assert f"Next: bertjax finetune --model {made / 'run'}" in out


def test_predict_and_embed_read_lines(made, bertjax, monkeypatch):
    def feed(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    feed(b"bal [MASK] dem\r\nfir [MASK]\n")
    code, out, _ = bertjax("predict", made / "run", "--k", 3)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["bal [MASK] dem", "fir [MASK]"]
    assert [len(mask) for row in rows for mask in row["masks"]] == [3, 3]
    feed(b"bal dem\nfir\n")
    _, out, _ = bertjax("embed", made / "run", "--layer", -1, 0, "--pooling", "cls")
    assert [len(json.loads(line)) for line in out.splitlines()] == [32, 32]
    feed(b"fine\n\xff\n")
    code, _, err = bertjax("embed", made / "run")
    assert code == 2
    assert "not UTF-8" in err


def test_a_recipe_is_a_file_with_a_config(made, bertjax, mistake, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from bertjax.runs.recipes import LoopConfig, ModelConfig, PretrainConfig\n"
        f"config = PretrainConfig(data={str(made / 'shards')!r}, workdir='unused', batch_size=4,\n"
        "    model=ModelConfig('tiny', hidden_size=16, num_attention_heads=2,\n"
        "        num_hidden_layers=1, intermediate_size=16),\n"
        "    loop=LoopConfig(train_steps=9, eval_every=0))\n"
    )
    workdir = tmp_path / "run"
    code, out, err = bertjax("pretrain", recipe, "--workdir", workdir, "--loop.train-steps", "2")
    assert code == 0, err
    assert "2 steps of 4" in out
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["loop"]["train_steps"] == 2
    assert saved["model"]["hidden_size"] == 16
    assert "no such file" in mistake("pretrain", tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "defines no `config" in mistake("pretrain", tmp_path / "empty.py")


def test_bad_text(made, mistake, tmp_path):
    def prepare(text, *more):
        (tmp_path / "bad.txt").write_bytes(text)
        return mistake(
            *("prepare", "--input", tmp_path / "bad.txt", "--tokenizer", made / "tok"),
            *("--output", tmp_path / "out", *more),
        )

    assert "absent" in mistake(
        *("prepare", "--input", tmp_path / "absent.txt", "--tokenizer", made / "tok"),
        *("--output", tmp_path / "out"),
    )
    assert "bad.txt" in prepare(b"")
    assert "bad.txt:2" in prepare(b"fine.\nb\xff.\n")
    assert "sentence" in prepare(b"only one sentence.\n")
    assert not (tmp_path / "out").exists()


def test_bad_pretraining(made, mistake, tmp_path):
    def pretrain(*words):
        return mistake(
            "pretrain", "--data", made / "shards", "--workdir", tmp_path / "run", *LOOP, *words
        )

    assert "absent" in mistake("pretrain", "--data", tmp_path / "absent", "--workdir", tmp_path)
    assert "max_predictions 2 is too small" in pretrain("--masking.max-predictions", 2)
    assert "has 16 positions" in pretrain("--model.max-position-embeddings", 16)
    assert "Size 'vast'" in pretrain("--model.size", "vast")
    assert "mesh" in pretrain("--mesh.data", 3)
    assert not (tmp_path / "run").exists()
    assert "model.hidden_size" in mistake(
        *("pretrain", "--data", made / "shards", "--workdir", made / "run", *LOOP, *SHAPE),
        *("--model.hidden-size", 32),
    )


def test_bad_fine_tuning(made, mistake, tmp_path):
    def rows(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    good = rows("good.tsv", "text\tlabel\nbal\ta\ndem\tb\n")

    def finetune(train, dev, *words):
        return mistake(
            *("finetune", "--model", made / "run", "--train", train, "--dev", dev),
            *("--workdir", tmp_path / "task", *words),
        )

    unseen = rows("unseen.tsv", "text\tlabel\nbal\ta\ndem\tc\n")
    sentence = finetune(good, unseen)
    assert "unseen.tsv:3" in sentence
    assert "'c'" in sentence
    assert "'sentence'" in finetune(good, good, "--text-column", "sentence")
    assert "positions" in finetune(good, good, "--max-seq-length", 1024)
    assert "absent" in mistake(
        *("finetune", "--model", tmp_path / "absent", "--train", good, "--dev", good),
        *("--workdir", tmp_path / "task"),
    )
    assert not (tmp_path / "task").exists()


def test_a_sentencepiece_model_where_wordpiece_was_said(made, mistake, tmp_path):
    pretending = tmp_path / "vocab.txt"
    pretending.write_bytes((made / "tok" / "spm.model").read_bytes())
    sentence = mistake(
        *("prepare", "--input", made / "text.txt", "--tokenizer", pretending),
        *("--output", tmp_path / "out"),
    )
    assert "SentencePiece" in sentence


def test_anything_else_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.VERBS, "demo", cli.Verb("broken", broken))
    with pytest.raises(ZeroDivisionError):
        cli.run(["demo"])


def test_interrupted_exits_75(monkeypatch, bertjax):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "demo", cli.Verb("interrupted", interrupted))
    code, _, err = bertjax("demo")
    assert code == 75
    assert "goes on" in err

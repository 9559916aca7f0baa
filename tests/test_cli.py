"""Tests the command line: help, exit codes, and one sentence for each mistake."""

import io
import json
import shlex
import shutil
import sys

import numpy as np
import pytest

from bertjax import cli, parsing
from bertjax.errors import Stopped
from bertjax.pretrain import run as pretrain

SHAPE = [
    *("--model.size", "tiny", "--model.hidden-size", "16", "--model.num-attention-heads", "2"),
    *("--model.num-hidden-layers", "1", "--model.intermediate-size", "16"),
    *("--model.hidden-dropout-prob", "0", "--model.attention-probs-dropout-prob", "0"),
]
LOOP = ["--loop.train-steps", "2", "--loop.eval-every", "0", "--batch-size", "4"]
VERBS = [name.split() for name in cli.VERBS]


@pytest.fixture
def bertjax(capsys):
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*words):
        try:
            code = cli.run([str(word) for word in words])
        except SystemExit as stop:  # tyro exits for --help and for unknown flags
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def mistake(bertjax):
    """Runs a command that must fail with one sentence; returns the sentence."""

    def run(*words):
        code, _, err = bertjax(*words)
        assert code == 2, err
        assert err.startswith("bertjax: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Text, a tokenizer, shards and a pre-trained run, each made by its command."""
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


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_unknown_optimizers_and_schedules_are_answered_with_those_known(
    bertjax, mistake, tmp_path, verb
):
    places = ("--data", "x", "--workdir", "y")
    if verb == "finetune":
        places = ("--model", "x", "--train", "y", "--dev", "z")
    for flag, known in (("name", "lamb"), ("schedule", "wsd")):
        code, _, err = bertjax(verb, *places, f"--optimizer.{flag}", "lam")
        assert code == 2
        assert "'lam'" in err and known in err and f"optimizer.{flag}" in err
    kind = "OptimizerConfig"
    for name in ("name", "schedule"):
        (tmp_path / "recipe.py").write_text(
            f"from bertjax.train.optimizer import {kind}\nconfig = {kind}({name}='lam')\n"
        )
        said = mistake(verb, tmp_path / "recipe.py")
        first = {"name": "adamw_google", "schedule": "linear_google"}[name]
        assert f"--optimizer.{name} 'lam' is unknown: give one of {first}, " in said


class Parsed(Exception):
    """The configuration of a command line; raised in place of running it."""


@pytest.fixture
def parse(monkeypatch):
    """Parses a printed command with the real parser; returns its configuration."""
    real = parsing.parse

    def only_parsed(kind, verb, arguments, **more):
        raise Parsed(real(kind, verb, arguments, **more))

    def run(line):
        words = shlex.split(line.rpartition("| ")[2].partition(" < ")[0])
        assert words[0] == "bertjax"
        with monkeypatch.context() as patch, pytest.raises(Parsed) as caught:
            patch.setattr(parsing, "parse", only_parsed)
            cli.run(words[1:])
        (meaning,) = caught.value.args
        return vars(meaning)

    return run


def printed(out):
    """Returns the commands at the end of an output."""
    lines = [line.partition(": ") for line in out.splitlines()]
    return [line for word, _, line in lines if word.strip() in ("Next", "then", "or", "To resume")]


def test_each_step_prints_the_next_which_the_parser_takes(made, bertjax, parse, tmp_path):
    place = tmp_path / "a place"
    place.mkdir()
    for number in range(5):
        (place / f"{number}.txt").write_bytes((made / "text.txt").read_bytes())
    inputs = [str(place / f"{number}.txt") for number in range(5)]
    _, out, _ = bertjax(
        *(*TOKENIZER, "--input", *inputs, "--output", place / "tok", "--vocab-size", 120)
    )
    (following,) = map(parse, printed(out))
    assert following["input"] == (*inputs[:3], "...")
    assert following["tokenizer"] == str(place / "tok")

    _, out, _ = bertjax(
        *("prepare", "--input", *inputs, "--tokenizer", place / "tok"),
        *("--output", place / "shards", "--max-seq-length", 32, "--held-out", 0.1),
    )
    (following,) = map(parse, printed(out))
    assert following["data"] == str(place / "shards")

    # The first phase uses the shorter length.
    _, out, _ = bertjax(
        *("prepare", "--input", *inputs, "--tokenizer", place / "tok", "--segments", "single"),
        *("--output", place / "both", "--max-seq-length", 32, 16, "--held-out", 0.1),
    )
    (following,) = map(parse, printed(out))
    assert following["data"] == str(place / "both" / "16")
    assert following["second"].data == (str(place / "both" / "32"),)

    _, out, _ = bertjax(
        "pretrain", "--data", place / "shards", "--workdir", place / "run", *SHAPE, *LOOP
    )
    following, other = map(parse, printed(out))
    assert (following["model"], following["workdir"]) == (str(place / "run"), "runs/finetune")
    assert other["model"] == str(place / "run")

    (place / "rows.tsv").write_text("".join(f"bal dem {n}\t{n % 2}\n" for n in range(8)))
    _, out, _ = bertjax(
        *("finetune", "--model", place / "run", "--train", place / "rows.tsv"),
        *("--dev", place / "rows.tsv", "--column-names", "text", "label", "--epochs", 1),
        *("--workdir", place / "task", "--max-seq-length", 16),
    )
    following, other = map(parse, printed(out))
    assert following["task"].column_names == ("text", "label")
    assert (following["model"], following["data"]) == (
        str(place / "task"),
        str(place / "rows.tsv"),
    )
    assert other["model"] == str(place / "task")


def test_convert_prints_what_comes_next(made, bertjax, mistake, parse, tmp_path):
    code, out, _ = bertjax("convert", made / "run", tmp_path / "hf")
    assert code == 0
    following, other = map(parse, printed(out))
    assert following["model"] == other["model"] == str(tmp_path / "hf")

    code, out, _ = bertjax("convert", made / "run", tmp_path / "run", "--to", "run")
    assert code == 0
    following, then = map(parse, printed(out))
    assert following["tokenizer"] == str(tmp_path / "run" / "tokenizer")
    assert then["workdir"] == str(tmp_path / "run")
    assert then["loop"].train_steps == 2 + 10_000
    # The command works with the real data.
    command = next(line for line in printed(out) if " pretrain " in line).replace("10002", "3")
    words = shlex.split(command)[1:]
    words[words.index("data/shards")] = str(made / "shards")
    code, out, _ = bertjax(*words, "--batch-size", 4, "--loop.eval-every", 0)
    assert code == 0 and "Resumed at step 2 of 3; taken from this command and held" in out
    assert "is not empty" in mistake("convert", made / "run", tmp_path / "run")


@pytest.mark.parametrize("given", [["--workdir", "run dir"], ["--workdir=run dir"]])
@pytest.mark.parametrize("fresh", ["flag", "recipe", "no"])
def test_a_stopped_run_prints_the_command_that_resumes_it(
    bertjax, parse, monkeypatch, tmp_path, given, fresh
):
    """A stub stops at once, because only the printed command matters here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(
        "from bertjax.pretrain.config import PretrainConfig\n"
        f"config = PretrainConfig(data='d', workdir='x', fresh={fresh == 'recipe'})\n"
    )

    def stopped(config, log):
        workdir = f"{config.workdir}-2" if config.fresh else config.workdir
        return pretrain.PretrainResult({}, [], workdir, None, True, None, "pretraining")

    monkeypatch.setattr(pretrain, "pretrain", stopped)
    flags = ["--fresh"] if fresh == "flag" else []
    code, out, _ = bertjax("pretrain", "recipe.py", *flags, *given, "--seed", 3)
    assert code == 75
    (line,) = printed(out)
    following = parse(line)
    assert following["workdir"] == ("run dir" if fresh == "no" else "run dir-2")
    assert (following["fresh"], following["seed"], following["data"]) == (False, 3, "d")
    assert line.count("--workdir") == 1


def test_predict_and_embed_read_lines(made, bertjax, monkeypatch):
    def feed(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    feed(b"bal [MASK] dem\r\nfir [MASK]\n")
    code, out, _ = bertjax("predict", made / "run", "--top-k", 3)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["bal [MASK] dem", "fir [MASK]"]
    assert [len(mask) for row in rows for mask in row["masks"]] == [3, 3]
    feed(b"bal [MASK]\n \n\xff\nfir [MASK]\n")
    code, out, err = bertjax("predict", made / "run")
    assert [next(iter(json.loads(line))) for line in out.splitlines()] == [
        *("text", "error", "error", "text")
    ]
    assert code == 2
    assert "2 of 4 lines have an error instead of an answer. Line 2 is blank" in err
    feed(b"bal dem\nfir\n")
    _, out, _ = bertjax("predict", made / "run", "--pseudo-log-likelihood")
    assert all(json.loads(line)["pseudo_perplexity"] > 1 for line in out.splitlines())
    assert out.count("\n") == 2
    feed(b"bal dem\nfir\n")
    _, out, _ = bertjax("embed", made / "run", "--layer", -1, 0, "--pooling", "cls")
    assert [len(json.loads(line)) for line in out.splitlines()] == [32, 32]
    feed(b"bal dem\nfir\n")
    summed = ("--layer", -1, 0, "--layer-weights", 0.5, -1)
    _, out, _ = bertjax("embed", made / "run", *summed, "--pooling", "cls")
    assert [len(json.loads(line)) for line in out.splitlines()] == [16, 16]
    lines = made / "lines.txt"
    lines.write_bytes(b"bal dem\nfir\n")
    _, out, _ = bertjax("embed", made / "run", lines, "--normalize", "--output", made / "v.npy")
    assert out == f"Wrote {made / 'v.npy'}: 2 vectors of 16 numbers.\n"
    np.testing.assert_allclose(np.linalg.norm(np.load(made / "v.npy"), axis=1), 1, rtol=1e-5)
    _, out, _ = bertjax("predict", made / "run", lines, "--pseudo-log-likelihood")
    assert out.count("\n") == 2
    for verb in ("embed", "predict"):
        code, _, err = bertjax(verb, made / "run", made / "absent.txt")
        assert (code, "absent.txt: can't be read" in err) == (2, True), err
    feed(b"fine\n\xff\n")
    code, _, err = bertjax("embed", made / "run")
    assert code == 2
    assert "not UTF-8" in err


def test_a_probe_is_told_as_json(made, bertjax, mistake, tmp_path):
    rows = tmp_path / "rows.tsv"
    rows.write_text("text\tlabel\n" + "bal\ta\ndem fir\tb\n" * 4)
    files = ("--train", rows, "--dev", rows)
    code, out, err = bertjax("probe", made / "run", *files, "--layer", 0, "--pooling", "mean")
    assert code == 0, err
    told = json.loads(out)
    assert (told["examples"], told["accuracy"], told["layer"]) == (8, 1.0, [0])
    assert "the model has 1 layers" in mistake("probe", made / "run", *files, "--layer", 7)


def test_a_recipe_is_a_file_with_a_config(made, bertjax, mistake, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from bertjax.pretrain.config import LoopConfig, ModelConfig, PretrainConfig\n"
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
    (tmp_path / "train.csv").write_text("text,label\n")
    for verb in ("pretrain", "finetune"):
        assert "train.csv: is no .py file" in mistake(verb, tmp_path / "train.csv")
        assert "is no .py file" in mistake(verb, made / "shards")
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "defines no `config" in mistake("pretrain", tmp_path / "empty.py")


def test_an_estimate_needs_no_output_and_a_run_does(made, bertjax, mistake, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("prepare", "--input", made / "text.txt", "--tokenizer", made / "tok")
    code, out, _ = bertjax(*words, "--max-seq-length", 16, 32, "--estimate")
    assert code == 0
    for word in ("tokens", "examples of 16", "examples of 32", "disk", "at the peak", "time"):
        assert word in out
    assert "output is missing" in mistake(*words)
    assert list(tmp_path.iterdir()) == []


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
    assert "--masking.max-predictions 2 is too small" in pretrain("--masking.max-predictions", 2)
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


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("evaluate task absent.tsv", "absent.tsv: no such file"),
        ("evaluate task r.tsv --num-beams 2", "--num-beams is an option of the task seq2seq"),
        ("evaluate task r.tsv --text-colum x", "evaluate has no --text-colum: did you mean --text"),
        ("predict task --top-k 3", "--top-k is an option of the tasks"),
        ("predict task --batch 3", "did you mean --batch-size?"),
        ("finetune --model task --train r.tsv --dev absent.tsv", "absent.tsv: no such file"),
        ("finetune --model task --train r.tsv --dev r.tsv --test no/x", "no/x: no such file"),
        ("finetune --model task --train r.tsv --dev s.csv", "s.csv:1: no column 'label'"),
        (
            "finetune --model task --task seq2seq --train r.tsv --dev s.csv --source-column text "
            "--target-column label",
            "name one of them with --target-column",
        ),
        ("convert task other --add-words absent.txt", "absent.txt: no such file"),
        ("convert task other --vocabulary absent", "absent: no such file"),
        ("convert task other --to run --optimizer adm", "--optimizer 'adm' is unknown"),
        ("convert task other --optimizer lamb", "--optimizer is for a run: set --to run"),
    ],
)
def test_mistakes_are_told_before_the_weights_are_read(
    made, mistake, monkeypatch, tmp_path, words, sentence
):
    monkeypatch.chdir(tmp_path)
    export = tmp_path / "task"
    shutil.copytree(made / "run" / "export", export)
    fields = json.loads((export / "config.json").read_text())
    task = {"kind": "sequence_classification", "task": "classification", "labels": ["a", "b"]}
    fields |= {"bertjax_task": task, "architectures": ["BertForSequenceClassification"]}
    (export / "config.json").write_text(json.dumps(fields))
    (export / "model.safetensors").write_bytes(b"nothing that can be read")
    (tmp_path / "r.tsv").write_text("text\tlabel\nbal\ta\ndem\tb\n")
    (tmp_path / "s.csv").write_text('"text",class\n"bal, dem",a\n')
    assert sentence in mistake(*words.split())


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


def test_strict_exits_1_over_warnings_and_the_shards_stay(made, bertjax, tmp_path):
    lines = [line for line in (made / "text.txt").read_text().splitlines() if line]
    (tmp_path / "blank.txt").write_text("\n\n".join(lines))
    flags = ("--input", tmp_path / "blank.txt", "--tokenizer", made / "tok")
    prepare = ("prepare", *flags, "--output", tmp_path / "out")
    for _ in range(2):  # a first time, and again when all is done
        code, out, err = bertjax(*prepare, "--strict")
        assert (code, err) == (1, "")
        assert "Warning: 100% of the documents have one sentence: is there a blank line" in out
        assert "Next:" not in out and (tmp_path / "out" / "manifest.json").exists()
    code, out, _ = bertjax(*prepare)
    assert code == 0 and "Next: bertjax pretrain" in out
    for command in (
        ("prepare", *flags, "--audit"),  # also accepts the command that would prepare the text
        ("prepare", "--audit", tmp_path / "out"),
        ("prepare", f"--audit={tmp_path / 'out'}"),
    ):
        code, out, _ = bertjax(*command)
        assert code == 0 and "Warning: 100% of the documents have one sentence" in out
        assert bertjax(*command, "--strict")[0] == 1
    clean = ("prepare", "--audit", made / "shards", "--strict")
    code, out, _ = bertjax(*clean)
    assert code == 0 and "found nothing wrong" in out


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("verb", cli.VERBS)
def test_interrupted_exits_75_where_there_is_something_to_resume(monkeypatch, bertjax, verb, kind):
    def interrupted(arguments):
        raise kind

    monkeypatch.setitem(cli.VERBS, verb, cli.Verb("interrupted", interrupted))
    code, _, err = bertjax(*verb.split(), "--fresh")
    assert ("without --fresh" in err) == ("resumes it" in err)
    code, _, err = bertjax(*verb.split())
    resumable = verb in ("demo", "prepare", "pretrain", "finetune", "glue")
    assert code == (75 if resumable else 1)
    assert ("the same command resumes it" in err) == resumable
    assert err.count("\n") == 1
    if verb == "prepare":  # an audit is not resumable
        assert bertjax("prepare", "--audit", "x")[::2] == (1, "bertjax: interrupted.\n")


def every_verb(name, path, made):
    """One command for every way to use a path."""
    flags = {
        "tokenizer train": {"input": made / "text.txt", "output": "out"},
        "prepare": {"input": made / "text.txt", "tokenizer": made / "tok", "output": "out"},
        "pretrain": {"data": made / "shards", "workdir": "run", "model.size": "tiny"},
        "finetune": {"model": made / "run", "train": made / "r.tsv", "dev": made / "r.tsv"},
        "demo": {},
    }
    verb, _, flag = name.partition(" --")
    if not flag:
        return [*verb.split(), path, *(["x.tsv"] if verb == "evaluate" else [])]
    pairs = {**flags[verb], flag: path}
    return [*verb.split(), *(word for pair in pairs.items() for word in (f"--{pair[0]}", pair[1]))]


@pytest.mark.parametrize(
    "name",
    [
        *(f"tokenizer train --{flag}" for flag in ("input", "output")),
        *(f"prepare --{flag}" for flag in ("input", "tokenizer", "output")),
        *(f"pretrain --{flag}" for flag in ("data", "workdir", "model.size")),
        *(f"finetune --{flag}" for flag in ("model", "train", "dev", "workdir")),
        *("evaluate", "predict", "embed", "report", "demo --workdir"),
    ],
)
def test_gs_without_gcsfs_names_the_extra(made, mistake, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    (made / "r.tsv").write_text("text\tlabel\nbal\ta\ndem\tb\n")
    path = "gs://bucket/file.json" if "size" in name else "gs://bucket/file.tsv"
    sentence = mistake(*every_verb(name, path, made))
    assert f"{path}: gs:// paths need gcsfs: pip install 'bertjax[gcs]'." in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["text.txt", "text.txt/x/y"])
@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer train --output", "prepare --output", "pretrain --workdir"),
        *("finetune --workdir", "demo --workdir"),
    ],
)
def test_a_file_in_the_way_of_results(made, mistake, monkeypatch, tmp_path, name, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("mine")
    (made / "r.tsv").write_text("text\tlabel\nbal\ta\ndem\tb\n")
    sentence = mistake(*every_verb(name, path, made))
    assert "is a file; name a directory." in sentence
    assert (tmp_path / "text.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_is_not_overwritten_by_one_of_another_kind(made, bertjax, mistake, tmp_path):
    run, task = tmp_path / "run", tmp_path / "task"
    shutil.copytree(made / "run", run)
    (tmp_path / "r.tsv").write_text("text\tlabel\nbal\ta\ndem\tb\n")
    rows = ("--train", tmp_path / "r.tsv", "--dev", tmp_path / "r.tsv", "--epochs", 1)
    finetune = ("finetune", "--model", run, *rows, "--max-seq-length", 16, "--workdir")
    assert bertjax(*finetune, task)[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "holds a pre-training run, and this is a fine-tuning run" in mistake(*finetune, run)
    pretrain = ("pretrain", "--data", made / "shards", *SHAPE, *LOOP, "--workdir")
    assert "holds a fine-tuning run, and this is a pre-training run" in mistake(*pretrain, task)
    assert "a config.json that is of no run" in mistake(*pretrain, task / "export")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_report_of_nothing(mistake):
    assert "report needs DIRECTORIES (Run directories" in mistake("report")

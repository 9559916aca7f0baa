"""The table of kinds, and a kind from outside the package."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

import bertjax
from bertjax import cli
from bertjax.errors import UserError
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.tasks import kinds

PACKAGE = pathlib.Path(bertjax.__file__).parent


TOY = pathlib.Path(__file__).parent / "toy_kind.py"


@pytest.fixture
def tagging(monkeypatch, load_helper):
    monkeypatch.setattr(kinds, "_TABLE", dict(kinds._TABLE))
    kind = load_helper("tasks/toy_kind.py").TAGGING
    kinds.register(kind)
    return kind


def write_tags(path, count, seed):
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        words = rng.choice(["good", "great", "film", "plot", "bad", "the"], rng.integers(1, 13))
        tags = "".join("P" if word in ("good", "great") else "O" for word in words)
        rows.append(json.dumps({"text": " ".join(words), "letters": tags}) + "\n")
    path.write_text("".join(rows))
    return str(path)


def test_a_kind_from_outside_trains_evaluates_predicts_and_exports(
    tagging, tiny_model, tmp_path, capsys, give_stdin
):
    save_pretrained(tmp_path / "model", tiny_model)
    files = [write_tags(tmp_path / f"{name}.jsonl", 64, seed) for seed, name in enumerate("ab")]
    words = ["finetune", "--model", str(tmp_path / "model"), "--train", files[0], "--dev"]
    words += [files[1], "--workdir", str(tmp_path / "run"), "--task", "tagging"]
    words += ["--tag-column", "letters", "--epochs", "8", "--batch-size", "16"]
    words += ["--hidden-dropout-prob", "0", "--attention-probs-dropout-prob", "0"]
    assert cli.run([*words, "--optimizer.learning-rate", "1e-2"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metric"] == "accuracy" and result["mean"] > 0.95

    model = from_pretrained(tmp_path / "run")
    recorded = {"kind": "token_classification", "task": "tagging", "max_seq_length": 16}
    assert recorded.items() <= model.task.items() and model.task["dev"] == result["mean"]
    capsys.readouterr()
    assert cli.run(["evaluate", str(tmp_path / "run"), files[1]]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["mean"]
    give_stdin(["the good film", "great"])
    assert cli.run(["predict", str(tmp_path / "run")]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers[0] == {"text": "the good film", "tags": "OPO"}
    assert answers[1]["tags"] == "P"


def test_a_kind_takes_less_than_a_hundred_lines():
    lines = [line for line in TOY.read_text().splitlines() if line.strip()]
    assert len(lines) < 100


def test_a_name_is_registered_once(tagging):
    kinds.register(tagging)
    with pytest.raises(ValueError, match="'tagging' is registered already"):
        kinds.register(dataclasses.replace(tagging, max_seq_length=8))
    assert kinds.names().count("tagging") == 1


def test_the_table_has_the_kinds_that_it_names():
    for name in kinds.names():
        assert kinds.get(name).name == name
    assert kinds.default_options().kind == kinds.DEFAULT
    with pytest.raises(UserError, match="`task` 'x' is unknown: give one of classification, "):
        kinds.get("x")


def test_a_model_is_of_the_kind_that_it_names_or_of_its_heads(tiny_model):
    def of(head, **task):
        found = kinds.of_model(dataclasses.replace(tiny_model, task={"kind": head, **task}))
        return found and found.name

    assert of("regression") == "classification"
    assert of("question_answering") == "question_answering"
    assert of("regression", task="question_answering") == "question_answering"
    assert of("regression", task="tagging") is None and of("pretraining") is None


# Files that may hold the name of a kind, and why.
NAMING = {
    "__init__.py": "exports the options of each kind",
    "convert/verify.py": "its inputs have an axis of choices",
    "demo/hyperparameters.py": "the demo trains vectors of pairs before it fine-tunes",
    "glue/run.py": "GLUE's tasks are of this kind",
    "interop/classes.py": "the table of heads: Hugging Face's class names",
    "interop/encoder_decoder.py": "the tokens that an encoder-decoder may write",
    "model/bert.py": "the table of heads: their modules",
    "model/heads.py": "the table of heads: their parts",
}


def test_nothing_outside_tasks_names_a_kind():
    # The word embedding is also the leaf of each table of vectors: only its package is the kind.
    words = {*kinds.names()} - {"embedding"} | {r"tasks\.embedding"}
    names = re.compile(rf"\b({'|'.join(words)})\b")
    found = {
        str(path.relative_to(PACKAGE)): names.findall(path.read_text())
        for path in PACKAGE.rglob("*.py")
        if PACKAGE / "tasks" not in path.parents
    }
    assert len(found) > 100
    assert {path for path, kinds_in_it in found.items() if kinds_in_it} <= NAMING.keys()

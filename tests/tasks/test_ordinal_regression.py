"""experiments/ordinal_regression.py: the kind of task that docs/kinds.md explains."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from bertjax import cli
from bertjax.errors import UserError
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.tasks import kinds

KIND = Path(__file__).parents[2] / "experiments" / "ordinal_regression.py"
WORDS = ("bad", "film", "good")


@pytest.fixture(scope="module")
def module():
    return runpy.run_path(str(KIND))


def write_stars(path, count, seed):
    """Writes texts with one to three stars; a text has its stars' word among others."""
    rng, rows = np.random.default_rng(seed), ["text\tstars"]
    for _ in range(count):
        stars = int(rng.integers(3))
        words = ["the", "plot", "was", *[WORDS[stars]] * int(rng.integers(1, 5))]
        rows.append(f"{' '.join(words)}\t{stars + 1}")
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_it_trains_evaluates_and_predicts(
    module, monkeypatch, tiny_model, tmp_path, capsys, give_stdin
):
    monkeypatch.setattr(kinds, "_TABLE", dict(kinds._TABLE))
    kinds.register(module["ORDINAL"])
    save_pretrained(tmp_path / "model", tiny_model)
    files = [write_stars(tmp_path / f"{name}.tsv", 64, seed) for seed, name in enumerate("ab")]
    words = ["finetune", "--task", "ordinal", "--model", str(tmp_path / "model"), "--train"]
    words += [files[0], "--dev", files[1], "--workdir", str(tmp_path / "run"), "--label-column"]
    words += ["stars", "--order", "1", "2", "3", "--epochs", "12", "--batch-size", "16"]
    assert cli.run([*words, "--max-seq-length", "16", "--optimizer.learning-rate", "5e-3"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metric"] == "mae" and result["mean"] < 0.1
    assert result["baseline"]["scores"]["mae"] > 0.5
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert from_pretrained(tmp_path / "run").task["labels"] == ["above 1", "above 2"]
    capsys.readouterr()
    assert cli.run(["evaluate", str(tmp_path / "run"), files[1]]) == 0
    assert json.loads(capsys.readouterr().out)["mae"] == result["mean"]
    give_stdin(["the plot was good", "the plot was bad"])
    assert cli.run(["predict", str(tmp_path / "run")]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == ["3", "1"]
    assert len(answers[0]["above"]) == 2


def test_metrics_by_hand(module):
    levels = np.array([[0, 0], [1, 0], [1, 1], [1, 1]])  # ranks 0, 1, 2, 2
    found = module["metrics"](np.array([0, 2, 0, 2]), levels)
    assert found == {"mae": 0.75, "accuracy": 0.5}


def test_an_order_has_labels(module):
    for order in ((), ("1",), ("1", "2", "1")):
        with pytest.raises(UserError, match=r"`order` is .*: give at least two labels, each once"):
            module["read"](module["OrdinalConfig"](order=order), files=None)


def test_the_kind_takes_less_than_a_hundred_lines():
    code = KIND.read_text().split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) < 100

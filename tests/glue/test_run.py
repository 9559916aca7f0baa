"""GLUE as one run: tasks, table and submission of a tiny model on small made files."""

import dataclasses
import io
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import bertjax as bj
from bertjax import cli
from bertjax.errors import UserError
from bertjax.glue.benchmark import TASKS
from bertjax.glue.config import GlueConfig
from bertjax.glue.run import glue
from bertjax.interop.huggingface import save_pretrained
from bertjax.train.optimizer import OptimizerConfig

FOUND = ("SST-2", "STS-B", "MNLI", "RTE")


@pytest.fixture(scope="module")
def config(tmp_path_factory, write_glue, tiny_model):
    directory = write_glue(tmp_path_factory.mktemp("glue"), FOUND)
    save_pretrained(directory / "model", tiny_model)
    return GlueConfig(
        str(directory),
        str(directory / "model"),
        workdir=str(directory / "run"),
        seeds=(0, 1),
        epochs=10,
        batch_size=16,
        max_seq_length=16,
        mnli_start=True,
        optimizer=OptimizerConfig(learning_rate=3e-3),
    )


@pytest.fixture(scope="module")
def run(config):
    """(result, lines)."""
    lines = []
    return glue(config, lines.append, progress=False), lines


def scores(result):
    return {(score.task, score.metric): score for score in result.scores}


def test_each_task_is_a_run_and_others_are_named(run, config):
    result, lines = run
    assert list(scores(result)) == [
        ("SST-2", "accuracy"),
        ("STS-B", "spearman"),
        ("STS-B", "pearson"),
        ("MNLI", "accuracy"),
        ("MNLI-mm", "accuracy"),
        ("RTE", "accuracy"),
        ("RTE, from MNLI", "accuracy"),
        ("STS-B, from MNLI", "spearman"),
        ("STS-B, from MNLI", "pearson"),
    ]
    assert set(result.missing) == TASKS.keys() - set(FOUND)
    assert f"Skipping CoLA: {config.directory}/CoLA/train.tsv is missing." in lines
    for (task, metric), score in scores(result).items():
        directory = task.removesuffix("-mm").replace(", from ", "-from-")
        saved = json.loads((pathlib.Path(config.workdir) / directory / "result.json").read_text())
        name = "test_metrics" if task == "MNLI-mm" else "metrics"
        values = [seed[name][metric] for seed in saved["seeds"]]
        assert list(score.seeds) == values
        assert score.median == np.median(values)
        assert score.deviation == pytest.approx(np.std(values, ddof=1))
    assert max(scores(result)["SST-2", "accuracy"].seeds) > 0.9
    assert max(scores(result)["STS-B", "pearson"].seeds) > 0.5


def test_the_table_has_published_rows_beside_ours(run, config):
    result, lines = run
    table = (pathlib.Path(config.workdir) / "table.md").read_text().splitlines()
    assert table == result.table() and table[0] in lines
    (row,) = (line for line in table if line.startswith("| RTE  "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["RTE", "accuracy"] and cells[4] == "2" and cells[-2:] == ["66.4", "65.7"]
    assert cells[6] == "0.003, 16, 10"
    (started,) = (line for line in table if line.startswith("| RTE, from MNLI"))
    assert [cell.strip() for cell in started.strip("|").split("|")][-2:] == ["", ""]
    mean = np.mean(
        [
            scores(result)["SST-2", "accuracy"].median,
            np.mean([scores(result)["STS-B", name].median for name in ("spearman", "pearson")]),
            np.mean([scores(result)[name, "accuracy"].median for name in ("MNLI", "MNLI-mm")]),
            scores(result)["RTE", "accuracy"].median,
        ]
    )
    assert result.mean() == (pytest.approx(mean), 4)
    assert lines[-1].startswith(f"Mean of 4 tasks on the dev rows: {100 * mean:.1f}; skipped: CoLA")


def read_zip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name).decode().splitlines() for name in archive.namelist()}


def test_the_submission_has_every_file_of_the_leaderboard(run, config):
    result, _ = run
    files = read_zip(pathlib.Path(result.submission).read_bytes())
    tests = {test.name: (task, test) for task in TASKS.values() for test in task.tests}
    assert files.keys() == {f"{name}.tsv" for name in tests}
    assert set(result.filled) == {"CoLA", "MRPC", "QQP", "QNLI", "WNLI"}
    for name, (task, test) in tests.items():
        head, *rows = files[f"{name}.tsv"]
        assert head == "index\tprediction"
        fields = [row.split("\t") for row in rows]
        assert [index for index, _ in fields] == [str(number) for number in range(len(fields))]
        if name in result.filled:
            assert len(rows) == test.rows and {value for _, value in fields} == {task.default}
        else:
            assert len(rows) == (11 if name == "AX" else 16)
        for _, value in fields:
            assert value in task.labels if task.labels else 0 <= float(value) <= 5
    model = bj.from_pretrained(f"{config.workdir}/RTE")
    lines = (pathlib.Path(config.directory) / "RTE" / "test.tsv").read_text().splitlines()[1:]
    pairs = [tuple(line.split("\t")[1:]) for line in lines]
    answers = [answer["label"] for answer in bj.predict(model, pairs)]
    assert answers == [row.split("\t")[1] for row in files["RTE.tsv"][1:]]


def test_the_same_command_again_trains_and_answers_nothing(run, config):
    result, lines = run
    before = pathlib.Path(result.submission).read_bytes()
    again = []
    assert glue(config, again.append, progress=False) == result
    assert pathlib.Path(result.submission).read_bytes() == before
    assert not any(line.startswith(("step ", "Answering")) for line in again)
    assert sum(line.startswith("Answering") for line in lines) == 6


def test_killed_and_run_again_it_is_the_same(run, config, tmp_path):
    """The process is killed while it trains the third of the tasks."""
    result, _ = run
    words = ["glue", config.directory, "--model", config.model, "--workdir", str(tmp_path / "run")]
    words += ["--tasks", *FOUND, "--seeds", "0", "1", "--epochs", "10", "--batch-size", "16"]
    words += ["--max-seq-length", "16", "--mnli-start", "--learning-rate", "3e-3"]
    script = (
        "import os, signal, sys\n"
        "from bertjax import cli, parsing\n"
        "def say(line):\n"
        "    if line == '--- MNLI':\n"
        "        seen.append(line)\n"
        "    if seen and line.startswith('step  2/30'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "seen = []\n"
        "parsing.say_line = say\n"
        "cli.main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -9, done.stderr[-2000:]
    assert not (tmp_path / "run" / "submission.zip").exists()
    assert (tmp_path / "run" / "STS-B" / "result.json").exists()
    assert not (tmp_path / "run" / "MNLI" / "result.json").exists()
    assert cli.run(words) == 0
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert found["scores"] == json.loads(json.dumps([each._asdict() for each in result.scores]))
    zips = [
        read_zip(pathlib.Path(path).read_bytes())
        for path in (result.submission, found["submission"])
    ]
    assert zips[0] == zips[1]


def test_a_changed_setting_is_refused_by_its_task(config, run, tmp_path):
    shutil.copytree(config.workdir, tmp_path / "run")
    changed = dataclasses.replace(config, workdir=str(tmp_path / "run"), batch_size=8)
    with pytest.raises(UserError, match="batch_size"):
        glue(changed, lambda line: None, progress=False)


def test_a_run_without_tasks_is_refused(config, tmp_path):
    empty = dataclasses.replace(config, directory=str(tmp_path), workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="no task can be trained"):
        glue(empty, lambda line: None)
    one = dataclasses.replace(empty, directory=config.directory, tasks=("CoLA", "MNLI"))
    shutil.copytree(f"{config.directory}/RTE", tmp_path / "d" / "RTE")
    with pytest.raises(UserError, match=r"`mnli_start` needs MNLI: .*MNLI/train.tsv is missing"):
        glue(
            dataclasses.replace(one, directory=str(tmp_path / "d"), tasks=()),
            lambda line: None,
        )


def test_the_grid_is_the_papers(config, tmp_path):
    from bertjax.glue.files import GlueData
    from bertjax.glue.run import finetune_config

    files = GlueData(config.directory, tmp_path, 0.0).find(TASKS["RTE"])
    made = finetune_config(dataclasses.replace(config, grid=True), files, "m", str(tmp_path))
    assert len(made.settings()) == 18
    assert {(each.learning_rate, each.batch_size, each.epochs) for each in made.settings()} == {
        (rate, size, epochs)
        for rate in (5e-5, 3e-5, 2e-5)
        for size in (16, 32)
        for epochs in (2, 3, 4)
    }

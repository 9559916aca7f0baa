"""The files of GLUE's tasks: found, held out, and refused."""

import dataclasses

import pytest

from bertjax.errors import UserError
from bertjax.glue.benchmark import TASKS, chosen
from bertjax.glue.config import GlueConfig
from bertjax.glue.files import GlueData
from bertjax.glue.run import finetune_config
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.labels import read_labeled


@pytest.fixture(scope="module")
def directory(tmp_path_factory, write_glue):
    return write_glue(tmp_path_factory.mktemp("glue"), TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_finetuning_and_the_leaderboard_read_the_official_files(name, directory, tmp_path):
    task, data = TASKS[name], GlueData(str(directory), tmp_path, 0.0)
    files = data.find(task)
    config = finetune_config(GlueConfig(str(directory), "m"), files, "m", str(tmp_path / "run"))
    for path in filter(None, (config.train, config.dev, config.test)):
        table = read_labeled(path, config.task)
        assert len(table) == (48 if path == config.train else 16)
        assert all(text.startswith(('the "film', "a ")) for text in table.columns[task.text])
        labels = set(table.columns[task.label])
        assert labels <= set(task.labels) if task.labels else all(map(float, labels))
    for test in task.tests:
        rows = data.test_rows(task, test)
        assert len(rows) == (11 if test.name == "AX" else 16)
        assert all(first.startswith('the "film') for first, _ in rows)
        assert all(bool(second) == (task.pair is not None) for _, second in rows)
    assert (config.test is not None) == (name == "MNLI")


def test_what_is_missing_is_said(directory, tmp_path, write_glue):
    write_glue(tmp_path, ["CoLA"], files=["train.tsv"])
    data = GlueData(str(tmp_path), tmp_path / "run", 0.0)
    assert data.find(TASKS["RTE"]) == f"{tmp_path}/RTE/train.tsv is missing"
    assert "dev.tsv is missing (set `hold_out`" in data.find(TASKS["CoLA"])
    assert data.test_rows(TASKS["CoLA"], TASKS["CoLA"].tests[0]) is None
    with pytest.raises(UserError, match="no such directory; give that of GLUE"):
        GlueData(str(tmp_path / "none"), tmp_path, 0.0)


@pytest.mark.parametrize("name", ["CoLA", "RTE"])
def test_held_out_rows_are_not_trained_on(name, tmp_path, write_glue):
    write_glue(tmp_path, [name], files=["train.tsv"])
    task, data = TASKS[name], GlueData(str(tmp_path), tmp_path / "run", 0.25)
    files = data.find(task)
    lines = [path.read_text().splitlines() for path in (files.train, files.dev)]
    whole = (tmp_path / name / "train.tsv").read_text().splitlines()
    if name == "RTE":
        assert lines[0].pop(0) == lines[1].pop(0) == whole.pop(0)
    assert len(lines[1]) == 12 and sorted(lines[0] + lines[1]) == sorted(whole)
    before = files.dev.stat().st_mtime_ns
    assert data.find(task) == files and files.dev.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"`hold_out` 0.01 of its 48 rows leaves no rows"):
        GlueData(str(tmp_path), tmp_path / "run", 0.01).find(task)


@pytest.mark.parametrize(
    ("name", "line", "replacement", "message"),
    [
        ("RTE", 1, "index\tpremise\tsentence2\tlabel", "1: no column 'sentence1'; the columns are"),
        ("CoLA", 1, "sentence\tlabel", "1: fields in this row: 2, and CoLA has 4 without a header"),
        ("RTE", 3, "1\ta\tb\tneutral", "3: column 'label' has 'neutral', and RTE has one of ent"),
        ("STS-B", 4, "1\tnews\ta\tb\t5.5", "4: column 'score' has '5.5', and STS-B has a number f"),
        ("SST-2", 2, "a", "2: column 'label' has '', and SST-2 has one of 0, 1; correct"),
    ],
)
def test_other_files_are_refused_by_line(name, line, replacement, message, tmp_path, write_glue):
    write_glue(tmp_path, [name])
    path = tmp_path / name / "train.tsv"
    lines = path.read_text().splitlines()
    lines[line - 1] = replacement
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"{name}/train.tsv:{message}"):
        GlueData(str(tmp_path), tmp_path, 0.0).find(TASKS[name])


def test_tasks_have_names():
    assert [task.name for task in chosen(("RTE", "CoLA"))] == ["CoLA", "RTE"]
    with pytest.raises(UserError, match="`tasks` has 'XNLI': give some of CoLA, SST-2"):
        GlueConfig("d", "m", tasks=("XNLI",))
    with pytest.raises(UserError, match="`mnli_start` needs MNLI: add it"):
        GlueConfig("d", "m", tasks=("RTE",), mnli_start=True)
    with pytest.raises(UserError, match=r"`hold_out` is 1: give"):
        GlueConfig("d", "m", hold_out=1)


def test_the_submission_has_eleven_files():
    names = [test.name for task in TASKS.values() for test in task.tests]
    assert sorted(names) == sorted(
        ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"]
    )


@pytest.mark.data
def test_real_files(data_dir, tmp_path):
    data = GlueData(str(data_dir / "glue"), tmp_path, 0.1)
    rows = {}
    for name, task in TASKS.items():
        files = data.find(task)
        if isinstance(files, str):
            continue
        options = ClassificationConfig(
            text_column=task.text, pair_column=task.pair, label_column=task.label
        )
        options = dataclasses.replace(options, column_names=files.columns)
        rows[name] = tuple(len(read_labeled(path, options)) for path in (files.train, files.dev))
    assert rows == {
        "CoLA": (7696, 855),
        "SST-2": (67349, 872),
        "MRPC": (3668, 408),
        "STS-B": (5174, 575),
        "RTE": (2490, 277),
        "WNLI": (635, 71),
    }

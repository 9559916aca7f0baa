import json
import re

import pytest

from bertjax.errors import UserError
from bertjax.report import run as report


def test_report_of_a_run(tmp_path, pages):
    run = tmp_path / "run"
    run.mkdir()
    records = [
        {"step": s, "kind": "train", "loss": 5.0 - s / 10, "grad_norm": None} for s in (1, 2)
    ]
    lines = [json.dumps(record) for record in records]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "ki']))
    (run / "config.json").write_text('{"batch_size": 8}')
    said = []
    (target,) = report.report([run], said.append)
    _, text, reader = pages.read(target)
    assert "batch_size" in text and reader.tags.count("svg") == 1
    assert said == [f"Wrote {target}."]


def test_the_headline_is_the_result_and_before_it_the_last_evaluation(tmp_path, pages):
    metrics = [
        {"name": "accuracy", "words": "accuracy", "better": "max", "reference": ["majority", 0.5]}
    ]
    pages.write_run(tmp_path / "run" / "seed-0", [0.5, 0.75], metric="accuracy")
    pages.write_run(tmp_path / "run" / "seed-1", [0.5, 0.625], metric="accuracy")
    (tmp_path / "run/config.json").write_text(json.dumps({"metrics": metrics}))

    def headline():
        (target,) = report.report([tmp_path / "run"], lambda line: None)
        return re.findall("<h1>(.*?)</h1>", target.read_text())

    assert headline() == ["Held-out accuracy after 20 steps: 0.75, 0.625 (majority 0.5)"]
    result = {"sentence": "accuracy 0.69 ± 0.09 over 2 seeds.", "steps": 20}
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    assert headline() == [result["sentence"]]
    # The run went on since.
    (tmp_path / "run/result.json").write_text(json.dumps({**result, "steps": 19}))
    assert headline() == ["Held-out accuracy after 20 steps: 0.75, 0.625 (majority 0.5)"]


def test_a_report_draws_where_the_time_of_all_seeds_went(tmp_path, pages):
    for seed, steps in enumerate((10.0, 20.0)):
        pages.write_run(tmp_path / f"run/seed-{seed}", [0.5, 0.25])
        early = {"step": 0, "kind": "time", "time": 1.0, "processes": 1, "start": 3.0}
        late = {**early, "step": 20, "steps": steps, "start": 5.0, "repeated": 5.0}
        with (tmp_path / f"run/seed-{seed}/metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in (early, late))
    (target,) = report.report([tmp_path / "run"], lambda line: None)
    page, text, _ = pages.read(target)
    assert "Goodput 60.0% of 50s in 2 processes: start 20.0%, repeated steps 20.0%." in text
    assert page.count("20.0%</text>") == 2 and page.count("60.0%</text>") == 1


@pytest.fixture
def finished(tmp_path, pages):
    """A fine-tuning of two seeds, whose result is not its last evaluation."""
    directory = tmp_path / "run"
    metrics = [
        {"name": "f1", "words": "F1", "better": "max", "reference": ["the most common", 0.5]},
        {"name": "loss", "words": "loss", "better": "min"},
    ]
    for seed in (0, 1):
        pages.write_run(directory / f"seed-{seed}", [0.5, 0.25], metric="f1")
    settings = {"kind": "fine-tuning", "task": {"kind": "classification", "pair_column": None}}
    settings |= {"seeds": [0, 1], "patience": 0, "optimizer": {"learning_rate": 5e-05}}
    settings |= {"immutable": {"weights": "abc123"}, "metrics": metrics}
    (directory / "config.json").write_text(json.dumps(settings))
    seeds = [
        {"metrics": {"loss": 1.0, "f1": 0.75}, "test_metrics": {"loss": 2.0, "f1": 0.5}},
        {"metrics": {"loss": 3.0, "f1": 0.25}, "test_metrics": {"loss": 2.0, "f1": 0.5}},
    ]
    rule = {"name": "majority", "description": "the most common", "scores": {"f1": 0.4}}
    result = {"sentence": "F1 0.5.", "steps": 20, "seeds": seeds}
    result |= {"baseline": rule, "test_baseline": {**rule, "scores": {"f1": 0.3, "loss": 4.0}}}
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def test_final_numbers_stand_beside_their_baselines(finished, pages):
    (target,) = report.report([finished], lambda line: None)
    source = target.read_text()
    header = re.findall("<th(?: [^>]*)?>(.*?)</th>", source)[:5]
    assert header == [
        *("metric", "dev rows", "the most common, dev rows"),
        *("test rows", "the most common, test rows"),
    ]
    rows = pages.rows_of(source)
    assert rows[:2] == [
        ["F1", "0.5 ± 0.3536", "0.4", "0.5 ± 0", "0.3"],
        ["loss", "2 ± 1.414", "", "2 ± 0", "4"],
    ]
    assert source.index("Final numbers") < source.index("<svg") < source.index("Settings")


def test_before_the_end_the_numbers_are_those_of_the_last_evaluation(finished, pages):
    (finished / "result.json").unlink()
    (target,) = report.report([finished], lambda line: None)
    assert pages.rows_of(target.read_text())[0] == ["F1", "0.25 ± 0", "0.5"]


@pytest.mark.parametrize(
    "result",
    ['{"sentence": "x", "steps": 20, "seeds": [3, {"metrics": [1]}], "baseline": {}}', "[]"],
)
def test_a_damaged_result_leaves_no_numbers(finished, result):
    (finished / "result.json").write_text(result)
    assert report.report([finished], lambda line: None)


def test_settings_are_a_table(finished, pages):
    (target,) = report.report([finished], lambda line: None)
    source, text, _ = pages.read(target)
    rows = pages.rows_of(source)
    for row in (["seeds", "0, 1"], ["patience", "0"], ["optimizer.learning_rate", "5e-05"]):
        assert row in rows
    assert "Not set: task.pair_column." in text
    settings = source[source.index("<h2>Settings") :]
    assert "abc123" not in settings and "{" not in settings


def test_names_of_metrics_are_no_paths(tmp_path, pages):
    """A run from elsewhere may have any."""
    names = ["../../outside", str(tmp_path / "absolute"), "f1/micro", "<script>", "a\\b"]
    run = tmp_path / "a" / "run"
    run.mkdir(parents=True)
    rows = [{"step": step, "kind": "eval", **dict.fromkeys(names, 1.0)} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(tmp_path.rglob("*"))
    (target,) = report.report([run], lambda line: None)
    assert set(tmp_path.rglob("*")) - before == {run / "report", target}
    _, text, reader = pages.read(target)
    assert "f1/micro" in text and "script" not in reader.tags


def test_report_of_several_seeds(tmp_path, pages):
    for seed in (0, 1):
        workdir = tmp_path / f"seed-{seed}"
        workdir.mkdir()
        lines = [json.dumps({"step": s, "kind": "eval", "accuracy": s / 10}) for s in (1, 2)]
        (workdir / "metrics.jsonl").write_text("\n".join(lines))
    (target,) = report.report([tmp_path], lambda line: None)
    _, text, reader = pages.read(target)
    assert "seed-0" in text and "seed-1" in text and reader.tags.count("svg") == 2


def test_report_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        report.report([tmp_path / "nothing"], lambda line: None)
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl"):
        report.report([tmp_path], lambda line: None)


def test_a_report_leaves_out_what_is_damaged(tmp_path, pages):
    pages.write_run(tmp_path / "run", [6.0, 5.0], {})
    with (tmp_path / "run/metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    (tmp_path / "run/config.json").write_bytes(b"\xff{}")
    (page_,) = report.report([tmp_path / "run"], lambda line: None)
    assert page_.read_text().count("<circle") == 2

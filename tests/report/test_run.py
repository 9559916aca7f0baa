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

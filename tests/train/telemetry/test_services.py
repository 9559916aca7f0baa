"""Weights & Biases and trackio, each as a module that takes down what it is told."""

import sys
import types

import pytest

from bertjax.errors import UserError
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.phases import PhaseInfo
from bertjax.train.telemetry.trackers import TelemetryConfig, make_trackers


class Run:
    def __init__(self, calls):
        self.calls, self.summary = calls, {}

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append(("finish", dict(self.summary)))


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    """(name, arguments of `init`, calls of its runs)"""
    inits, calls = [], []

    def init(**options):
        inits.append(options)
        return Run(calls)

    monkeypatch.setitem(sys.modules, request.param, types.SimpleNamespace(init=init))
    return request.param, inits, calls


def train(name, workdir, start, last, settings=None):
    config = TelemetryConfig(**{name: "project"})
    telemetry = Telemetry(
        workdir / "metrics.jsonl",
        log=lambda line: None,
        progress=False,
        trackers=make_trackers(config, workdir, settings or {}),
    )
    telemetry.begin(start, [PhaseInfo(8)], log_every=2)
    for step in range(start + 1, last + 1):
        telemetry.step(step, {"loss": 1 / step})
    return telemetry


def test_records_configuration_and_last_values_are_logged(service, tmp_path):
    name, inits, calls = service
    workdir = tmp_path / "runs" / "one"
    workdir.mkdir(parents=True)
    telemetry = train(name, workdir, 0, 2, {"seed": 3, "optimizer": {"learning_rate": 0.1}})
    telemetry.evaluated(2, {"mlm_loss": 6.5}, seconds=1.0)
    telemetry.end()
    telemetry.end()
    (options,) = inits
    assert options["project"] == "project" and options["resume"] == "allow"
    assert options["config"] == {"seed": 3, "optimizer": {"learning_rate": 0.1}}
    assert options["name"].startswith("runs-one")
    assert ("id" in options) == (options.get("dir") == str(workdir)) == (name == "wandb")
    last = {"train/loss": 0.75, "eval/mlm_loss": 6.5, "eval/seconds": 1.0}
    (_, trained), *others, (_, summary) = calls
    assert calls[0][0] == 2 and trained["train/loss"] == 0.75
    assert others == [(2, {"eval/mlm_loss": 6.5, "eval/seconds": 1.0})]
    assert summary == ({**trained, **last} if name == "wandb" else {})


def test_a_resumed_run_continues_there_and_repeats_nothing(service, tmp_path):
    name, inits, calls = service
    train(name, tmp_path, 0, 6)  # killed before its end
    train(name, tmp_path, 3, 8).end()  # from the checkpoint of step 3
    first, second = inits
    assert first == second and first[{"wandb": "id", "trackio": "name"}[name]]
    assert [step for step, _ in calls] == [2, 4, 6, 8, "finish"]


def test_a_run_that_began_without_a_service_logs_its_history(service, tmp_path):
    name, _, calls = service
    plain = Telemetry(tmp_path / "metrics.jsonl", log=lambda line: None, progress=False)
    plain.begin(0, [PhaseInfo(8)], log_every=2)
    for step in range(1, 5):
        plain.step(step, {"loss": 1.0})
    train(name, tmp_path, 4, 6).end()
    assert [step for step, _ in calls] == [2, 4, 6, "finish"]


def test_other_processes_and_runs_without_the_setting_start_nothing(service, tmp_path):
    name, inits, calls = service
    config = TelemetryConfig(**{name: "project"})
    trackers = make_trackers(config, tmp_path, {})
    telemetry = Telemetry(tmp_path / "m.jsonl", log=print, progress=False, trackers=trackers)
    telemetry.begin(0, [PhaseInfo(2)], log_every=1, quiet=True)
    telemetry.step(1, {"loss": 1.0})
    telemetry.end()
    assert inits == calls == list(tmp_path.iterdir()) == []
    assert make_trackers(TelemetryConfig(), tmp_path, {}) == ()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UserError, match=rf"needs the package {name}.*'bertjax\[{name}\]'"):
        make_trackers(TelemetryConfig(**{name: "project"}), tmp_path, {})
    with pytest.raises(UserError, match="is empty"):
        TelemetryConfig(**{name: ""})


def test_a_damaged_file_is_named(service, tmp_path):
    name, _, _ = service
    (tmp_path / f"{name}.json").write_text("{")
    with pytest.raises(UserError, match=rf"{name}\.json: names no run of {name}"):
        train(name, tmp_path, 0, 1)

"""Where the time of a run goes, over processes that end in every way."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from bertjax.train.telemetry import goodput
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.metrics_file import TIME, read_records
from bertjax.train.telemetry.phases import PhaseInfo


class Clock:
    """Seconds that the test advances."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def process(tmp_path):
    """(step, wall time) -> (telemetry of a process that starts then, its clock)"""

    def start(step, wall):
        clock = Clock()
        began = clock.now
        telemetry = Telemetry(
            *(tmp_path / "metrics.jsonl",),
            **{"log": lambda line: None, "progress": False, "clock": clock},
            now=lambda: wall + clock.now - began,
        )
        clock.now += 5  # until the run begins
        telemetry.begin(step, [PhaseInfo(100)], log_every=1)
        telemetry.count_time()
        return telemetry, clock

    return start


def parts(tmp_path):
    record = read_records(tmp_path / "metrics.jsonl", (TIME,))[-1]
    return {name: record[name] for name in ("processes", *goodput.PARTS) if record.get(name)}


def work(telemetry, clock, steps):
    for step in steps:
        with telemetry.waiting():
            clock.now += 1
        clock.now += 2
        telemetry.step(step, {"loss": 1.0})


def test_every_second_of_a_run_belongs_to_one_part(process, tmp_path):
    telemetry, clock = process(0, 1000.0)
    work(telemetry, clock, [1, 2])
    with telemetry.goodput.spending("evaluation"):
        clock.now += 4
        with telemetry.goodput.spending("checkpoints"):
            clock.now += 3
        clock.now += 1
    telemetry.end()
    expected = {"start": 5, "steps": 4, "data": 2, "evaluation": 5, "checkpoints": 3}
    assert parts(tmp_path) == {"processes": 1, **expected}
    assert sum(expected.values()) == clock.now - 100
    assert telemetry.time() == (
        "Goodput 21.1% of 19s: evaluation 26.3%, start 26.3%, checkpoints 15.8%, "
        "waiting for data 10.5%."
    )


def test_steps_after_the_last_save_of_a_killed_process_are_repeated(process, tmp_path):
    telemetry, clock = process(0, 1000.0)
    work(telemetry, clock, [1, 2])
    telemetry.flush()  # a save of step 2, at 1011
    work(telemetry, clock, [3, 4, 5])  # until 1020
    telemetry, clock = process(2, 1060.0)
    work(telemetry, clock, [3])
    telemetry.end()
    expected = {"start": 10, "steps": 6, "data": 3, "repeated": 9, "stopped": 40}
    assert parts(tmp_path) == {"processes": 2, **expected}
    # From the first command to the last record there are 68 seconds.
    assert sum(expected.values()) == 1060 + 5 + 3 - 1000
    assert telemetry.time().startswith("Goodput 21.4% of 28s in 2 processes: start 35.7%, repeated")
    assert telemetry.time().endswith("and 40s between processes.")


def test_a_process_that_saved_nothing_counts(process, tmp_path):
    telemetry, clock = process(0, 1000.0)
    work(telemetry, clock, [1])
    telemetry, clock = process(0, 1008.0)
    telemetry.end()
    assert parts(tmp_path) == {"processes": 2, "start": 10, "repeated": 3}


def test_a_host_with_a_slow_clock_loses_no_time(process, tmp_path):
    telemetry, clock = process(0, 1000.0)
    work(telemetry, clock, [1])
    telemetry.end()
    process(1, 990.0)[0].end()
    assert parts(tmp_path) == {"processes": 2, "start": 10, "steps": 2, "data": 1}


def test_a_finished_run_counts_nothing_more(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 100, "kind": "train", "loss": 1.0, "time": 1.0}) + "\n")
    before = path.read_bytes()
    telemetry = Telemetry(path, log=lambda line: None, progress=False)
    telemetry.begin(100, [PhaseInfo(100)], log_every=1)
    telemetry.end()
    assert telemetry.time() == "" and path.read_bytes() == before


@pytest.mark.parametrize("damage", [{"steps": "many"}, {"steps": 1e30}, {"time": None}])
def test_a_damaged_record_counts_nothing(process, tmp_path, damage):
    record = {"step": 0, "kind": "time", "time": 900.0, "processes": 7, "steps": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**record, **damage}) + "\n")
    process(0, 1000.0)[0].end()
    assert parts(tmp_path) == {"processes": 1, "start": 5}


def test_compiling_counts_as_such_once_in_every_part():
    def slow_to_trace(x):
        time.sleep(0.2)
        return jax.jit(lambda y: y + 1)(x)

    counted = goodput.Goodput()
    began = time.monotonic()
    with counted.spending("evaluation"):
        jax.jit(slow_to_trace)(jnp.ones(3)).block_until_ready()
    took = time.monotonic() - began
    spent = counted.record()
    # The inner function is traced within the outer one.
    assert 0.2 <= spent["compile"] <= took and spent.get("evaluation", 0.0) <= took - 0.2


def test_what_compiled_before_a_run_is_not_its_time():
    goodput.Goodput()
    jax.jit(lambda x: x + 2)(jnp.ones(5)).block_until_ready()
    counted = goodput.Goodput()
    assert counted.record().get("compile", 0.0) == 0
    with goodput.command():
        jax.jit(lambda x: x + 3)(jnp.ones(5)).block_until_ready()
        assert goodput.Goodput().record()["compile"] > 0


def test_the_first_run_of_a_command_counts_its_imports():
    with goodput.command():
        time.sleep(0.05)
        with goodput.command():
            first, second = goodput.Goodput(), goodput.Goodput()
    later = second.record().get("start", 0.0)
    assert first.record()["start"] >= later + 0.049  # records round to milliseconds
    with goodput.command():
        pass  # it failed before its run began
    time.sleep(0.05)
    began = time.monotonic()
    started = goodput.Goodput().record().get("start", 0.0)
    assert started <= time.monotonic() - began + 0.001

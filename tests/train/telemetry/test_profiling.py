import jax
import pytest

from bertjax.errors import UserError
from bertjax.train.loop_config import LoopConfig
from bertjax.train.telemetry.profiling import Profiler
from bertjax.train.telemetry.trackers import TelemetryConfig, make_profiler


@pytest.fixture
def traces(monkeypatch):
    """The profiler's calls and the dispatched steps."""
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    return events


@pytest.fixture
def traced(toy, traces, tmp_path):
    """Runs steps of the toy, traces steps 3 to 5, and returns the lines."""

    def run(steps):
        def step(state, batch):
            traces.append(int(state.step) + 1)
            return toy.train_step(state, batch)

        lines = []
        config = LoopConfig(train_steps=steps, log_every=100, save_every=100)
        profiler = make_profiler(TelemetryConfig(profile_steps=(3, 5)), tmp_path)
        toy.run(tmp_path, config, step=step, log=lines.append, profiler=profiler)
        return lines

    return run


def test_the_steps_are_traced(traces, traced, tmp_path):
    lines = traced(8)
    assert traces == [1, 2, "start", 3, 4, 5, 6, "stop", 7, 8]
    said = f"Traced steps 3 to 5 into {tmp_path}/profile: pip install xprof, then xprof --logdir"
    assert [line for line in lines if line.startswith(said)]


def test_a_resumed_run_traces_the_remaining_steps(traces, traced):
    traced(4)
    assert traces == [1, 2, "start", 3, 4, "stop"]
    traces.clear()
    traced(7)
    assert traces == ["start", 5, 6, "stop", 7]
    traces.clear()
    traced(8)
    assert traces == [8]


def test_in_an_object_store_the_trace_arrives_there(remote):
    place, there = remote
    profiler = Profiler(1, 1, place / "profile")
    profiler.before(1)
    jax.jit(lambda x: x + 1)(1.0).block_until_ready()
    assert "gs://bucket/profile" in profiler.after(1)
    (trace,) = there.rglob("*.xplane.pb")
    assert trace.stat().st_size


@pytest.mark.parametrize("steps", [(0, 5), (5, 4), (-3, -1)])
def test_invalid_steps_are_refused(steps):
    with pytest.raises(UserError, match="profile_steps` is"):
        TelemetryConfig(profile_steps=steps)


def test_steps_beyond_the_run_are_refused():
    with pytest.raises(UserError, match="9 11, and the run has 10 steps"):
        TelemetryConfig(profile_steps=(9, 11)).check(10)
    TelemetryConfig(profile_steps=(9, 10)).check(10)
    assert make_profiler(TelemetryConfig(), None) is None

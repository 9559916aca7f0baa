"""The training loop: interruptions, damage, bad steps, other runs, hooks, patience."""

import dataclasses
import os
import pathlib
import signal
import sys
import threading

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.loop import Hooks
from bertjax.train.loop_config import LoopConfig
from bertjax.train.telemetry.phases import PhaseInfo

SCRIPT = str(pathlib.Path(__file__).with_name("toy_run.py"))


@pytest.fixture(scope="module")
def straight(toy, killing, tmp_path_factory):
    """(result, records) of a run without interruptions."""
    workdir = tmp_path_factory.mktemp("straight")
    result = toy.run(workdir)
    return result, killing.records_in_hex(workdir / "metrics.jsonl")


def same(toy, killing, workdir, result, straight):
    expected, records = straight
    assert toy.digest(result.state) == toy.digest(expected.state)
    assert killing.records_in_hex(workdir / "metrics.jsonl") == records
    assert result.best == expected.best
    return True


def acting_at(toy, action, *steps):
    """The toy's step, which first calls `action` at some steps (counted from 1)."""

    def step(state, batch):
        now = int(state.step) + 1
        if now in steps:
            action(now)
        return toy.train_step(state, batch)

    return step


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def crash(*_):
    raise RuntimeError("the power went")


def test_a_run_without_interruptions(toy, straight):
    result, records = straight
    assert not result.stopped
    assert result.resumed_from is None
    assert int(result.state.step) == 12
    kinds = [tuple(record.split()[:2]) for record in records]
    train = [(f"step={step}", "kind=train") for step in (3, 6, 9, 12)]
    evals = [(f"step={step}", "kind=eval") for step in (5, 10, 12)]
    assert sorted(kinds) == sorted(train + evals)
    assert [r["step"] for r in result.history] == [3, 5, 6, 9, 10, 12, 12]


# R1, R2 and R3 of the promises: interruptions change nothing


@pytest.mark.parametrize("stops", [(1,), (4,), (5, 7), (11, 12), (12,)], ids=str)
def test_sigterm_saves_and_the_resumed_run_has_the_same_bits(
    toy, killing, straight, tmp_path, stops
):
    lines = []
    for stop in stops:
        result = toy.run(tmp_path, step=acting_at(toy, terminate, stop), log=lines.append)
        assert result.stopped
        assert int(result.state.step) == stop
        assert f"Stopped at step {stop} of 12" in lines[-1]
    result = toy.run(tmp_path)
    assert result.resumed_from == stops[-1]
    assert same(toy, killing, tmp_path, result, straight)


@pytest.mark.parametrize(
    ("kept", "held"), [(0, "0 of the 3"), (2, "2 of the 3"), (3, None)], ids=str
)
def test_lost_records_are_said_and_change_no_training(toy, straight, tmp_path, kept, held):
    toy.run(tmp_path, step=acting_at(toy, terminate, 7))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines = [line for line in lines if '"kind": "time"' not in line]
    path.write_text("".join(lines[:kept]))
    if not kept:
        path.unlink()
    said = []
    result = toy.run(tmp_path, log=said.append)
    assert [line.split("holds ")[1].split(" records")[0] for line in said if "holds" in line] == (
        [held] if held else []
    )
    assert toy.digest(result.state) == toy.digest(straight[0].state)


@pytest.mark.parametrize("crashes", [(1, 6), (9, 11)], ids=str)
def test_a_crash_costs_at_most_an_interval_and_changes_nothing(
    toy, killing, straight, tmp_path, crashes
):
    for at in crashes:
        with pytest.raises(RuntimeError, match="power"):
            toy.run(tmp_path, step=acting_at(toy, crash, at))
    result = toy.run(tmp_path)
    assert (result.resumed_from or 0) >= crashes[-1] - 1 - toy.CONFIG.save_every
    assert same(toy, killing, tmp_path, result, straight)


@pytest.mark.parametrize("evaluation", [1, 3])
def test_an_evaluation_interrupted_by_sigterm_is_repeated(
    toy, killing, straight, tmp_path, evaluation
):
    asked = 0

    def evaluator(state, should_stop):
        nonlocal asked
        asked += 1
        if asked == evaluation:
            assert not should_stop()
            terminate()
            assert should_stop()
        return toy.evaluate(state, should_stop)

    result = toy.run(tmp_path, evaluator=evaluator)
    assert result.stopped
    assert int(result.state.step) == {1: 5, 3: 12}[evaluation]
    assert same(toy, killing, tmp_path, toy.run(tmp_path), straight)
    again = toy.run(tmp_path, evaluator=lambda *_: pytest.fail("evaluated twice"))
    assert again.already_complete


def test_a_crash_after_a_repeated_evaluation_leaves_one_record_of_it(
    toy, killing, straight, tmp_path, monkeypatch
):
    def cut_short(state, should_stop):
        terminate()
        return toy.evaluate(state, should_stop)

    assert toy.run(tmp_path, evaluator=cut_short).stopped
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power"):
        patch.setattr(Checkpoints, "amend", lambda *_, **__: crash())
        toy.run(tmp_path)
    assert same(toy, killing, tmp_path, toy.run(tmp_path), straight)


def test_sigterm_during_a_save(toy, killing, straight, tmp_path, monkeypatch):
    original = Checkpoints.save

    def save(self, *arguments, **options):
        saved = original(self, *arguments, **options)
        terminate()  # its files are being written now
        return saved

    monkeypatch.setattr(Checkpoints, "save", save)
    result = toy.run(tmp_path)
    assert result.stopped
    assert int(result.state.step) == 5, "the step after the save"
    monkeypatch.undo()
    assert same(toy, killing, tmp_path, toy.run(tmp_path), straight)


def command(workdir, *options):
    return [sys.executable, SCRIPT, str(workdir), *options]


def test_sigkill_in_training_and_in_saves(killing, tmp_path):
    """R1 and R6 with the real signal; the slow test below does the same more often."""
    options = ("--steps", "24", "--size", "20000")
    survives(killing, tmp_path, options, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_sigkills_in_training_and_in_saves(killing, tmp_path):
    # The pace keeps a fast machine from reaching the end before the last kill.
    options = ("--steps", "300", "--size", "60000", "--pace", "0.03")
    assert survives(killing, tmp_path, options, kills=24, seed=2) >= 3


def survives(killing, tmp_path, options, *, kills, seed):
    """Compares the bits of a killed and a clean run; returns the number of kills in a save."""
    clean = killing.start(command(tmp_path / "clean", *options)).communicate()[0]
    killed = tmp_path / "killed"
    outputs, in_saves = killing.run_killed(
        command(killed, *options), killed / "checkpoints", kills=kills, save_every=5, seed=seed
    )
    assert sum("final" not in output for output in outputs) >= kills - 1
    assert outputs[-1].splitlines()[-1] == clean.splitlines()[-1]
    assert clean.splitlines()[-1].startswith("final ")
    records = [killing.records_in_hex(tmp_path / n / "metrics.jsonl") for n in ("clean", "killed")]
    assert records[0] == records[1]
    return in_saves


def test_a_resumed_run_never_makes_a_first_state(toy, tmp_path):
    """It would be a second copy of the state on the device."""
    toy.run(tmp_path, LoopConfig(2))
    copies = []

    def count(_):
        copies.append(sum(array.shape == (64, 8) for array in jax.live_arrays()))

    def init(size):
        pytest.fail("a checkpoint was there")

    before = sum(array.shape == (64, 8) for array in jax.live_arrays())
    toy.run(tmp_path, LoopConfig(3), init=init, step=acting_at(toy, count, 3))
    assert copies == [before + 3]  # the weights and their two moments


# R8 and R9 of the promises: damage


def test_a_damaged_checkpoint_costs_an_interval_and_changes_nothing(
    toy, killing, straight, tmp_path
):
    toy.run(tmp_path, step=acting_at(toy, terminate, 11))
    data = (tmp_path / "checkpoints" / "11" / "state").rglob("d/*")
    largest = max(data, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    lines = []
    result = toy.run(tmp_path, log=lines.append)
    assert "Warning: " in lines[0]
    assert result.resumed_from == 10
    assert same(toy, killing, tmp_path, result, straight)


# R13 of the promises: steps that are not finite


def test_a_bad_step_is_skipped_counted_and_not_saved_at(toy, tmp_path):
    lines = []
    config = dataclasses.replace(toy.CONFIG, eval_every=0)
    toy.run(tmp_path, config, poison=frozenset({2, 3, 4}), log=lines.append)
    assert "step 3: loss or gradient is not finite; skipped." in lines
    assert "step 6 is finite again after 3 skipped." in lines
    assert any("skipped 2" in line for line in lines if line.startswith("step  6/12"))
    # Step 4 was bad, so its save came with the first good step.
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert steps == [6, 8, 12]


def test_too_many_bad_steps_stop_the_run_and_evict_nothing(toy, killing, tmp_path):
    config = LoopConfig(12, log_every=3, eval_every=0, save_every=1, max_bad_steps=4)
    with pytest.raises(UserError, match=r"4 steps in a row, up to step 10.*step 6 is intact"):
        toy.run(tmp_path, config, poison=frozenset(range(6, 12)))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4, 5, 6]
    result = toy.run(tmp_path, config)  # the cause is gone: the same command resumes
    assert result.resumed_from == 6
    expected = toy.run(tmp_path / "clean", config)
    assert toy.digest(result.state) == toy.digest(expected.state)


def test_bad_steps_in_a_row_are_counted_across_a_restart(toy, tmp_path):
    config = LoopConfig(12, eval_every=0, save_every=4, max_bad_steps=5)
    poison = frozenset(range(3, 12))

    def forget_to_wait(now):
        terminate()

    result = toy.run(tmp_path, config, poison=poison, step=acting_at(toy, forget_to_wait, 6))
    assert result.stopped
    with pytest.raises(UserError, match="5 steps in a row"):
        toy.run(tmp_path, config, poison=poison)


def test_a_step_that_does_not_guard_itself_never_gets_saved(toy, tmp_path):
    def unguarded(state, batch):
        state, metrics = toy.train_step(state, batch)
        params = (
            jax.tree.map(lambda x: x * np.nan, state.params) if state.step == 6 else state.params
        )
        return state.replace(params=params), {"loss": metrics["loss"]}

    config = dataclasses.replace(toy.CONFIG, eval_every=0, save_every=3)
    with pytest.raises(UserError, match=r"not finite|NaN"):
        toy.run(tmp_path, config, step=unguarded)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [3]


# R16 of the promises: another run


@pytest.mark.parametrize(
    ("immutable", "message"),
    [
        ({"model": {"size": 65}, "data": "abc", "seed": 1}, r"model\.size \(64 there, 65 here\)"),
        ({"model": {"size": 64}, "data": "abd", "seed": 2}, r"data \(abc .* seed \(1 there, 2"),
        ({"model": {"size": 64}, "data": "abc"}, r"seed \(1 there, absent here\)"),
    ],
)
def test_another_run_is_refused_by_name(toy, tmp_path, immutable, message):
    toy.run(tmp_path, LoopConfig(1))
    with pytest.raises(UserError, match=message) as error:
        toy.run(tmp_path, LoopConfig(2), immutable=immutable)
    assert "`fresh`" in str(error.value)


def test_another_shape_is_refused_by_name(toy, tmp_path):
    toy.run(tmp_path, LoopConfig(1))
    with pytest.raises(UserError, match=r"params/w is float32\[64, 8\] there and float32\[32, 8\]"):
        toy.run(tmp_path, LoopConfig(2), size=32)


def test_changed_mutable_settings_are_logged_in_one_line(toy, tmp_path):
    toy.run(tmp_path, LoopConfig(2), mutable={"mesh": [1, 1], "dtype": "float32"})
    lines = []
    toy.run(
        tmp_path,
        LoopConfig(4),
        mutable={"mesh": (8, 1), "dtype": "float32"},
        effects={"train_steps": "the learning rate jumps"},
        log=lines.append,
    )
    assert lines[0] == (
        "Resumed at step 2 of 4; changed: mesh [1, 1] -> [8, 1]; "
        "train_steps 2 -> 4 (the learning rate jumps)."
    )


# Ends, best, data


def test_fewer_steps_than_the_run_has_are_refused(toy, tmp_path):
    toy.run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"run at step 12, beyond the 9 steps of this command"):
        toy.run(tmp_path, LoopConfig(9))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_complete_run_does_nothing_and_says_so(toy, killing, straight, tmp_path):
    toy.run(tmp_path)
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    lines = []
    result = toy.run(tmp_path, log=lines.append)
    assert lines == ["The run is complete: step 12 of 12."]
    assert result.already_complete
    assert not result.stopped
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before
    assert same(toy, killing, tmp_path, result, straight)


def test_the_best_checkpoint_is_kept_and_exported(toy, tmp_path):
    values = iter([5.0, 1.0, 4.0, 3.0, 2.0, 6.0])

    def evaluator(state, _):
        return {"loss": next(values)}

    config = LoopConfig(6, eval_every=1, save_every=1)
    result = toy.run(tmp_path, config, evaluator=evaluator)
    assert (result.best["step"], result.best["value"]) == (2, 1.0)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5, 6]
        assert checkpoints.restore_params(which="best").meta["step"] == 2


def test_the_best_is_saved_even_between_two_saves(toy, tmp_path):
    config = LoopConfig(6, eval_every=2, save_every=100)
    toy.run(tmp_path, config, evaluator=lambda state, _: {"loss": 1.0}, best_mode="max")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6"]


def test_the_best_of_a_phase_does_not_compete_with_earlier_phases(toy, tmp_path):
    losses = {1: 0.1, 2: 0.2, 3: 0.3, 4: 5.0, 5: 1.0, 6: 4.0, 7: 3.0, 8: 2.0, 9: 2.0}
    config = LoopConfig(9, eval_every=1, save_every=1)
    result = toy.run(
        tmp_path,
        config,
        evaluator=lambda state, _: {"loss": losses[int(state.step)]},
        phases=(PhaseInfo(3, 512, "1"), PhaseInfo(9, 512, "2")),
    )
    assert (result.best["step"], result.best["value"]) == (5, 1.0)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [5, 7, 8, 9]


@pytest.mark.parametrize(
    ("bad", "best", "saved"),
    [({2, 3}, 4, [1, 4, 5]), ({2, 3, 4, 5}, 5, [1, 5])],
    ids=["between good steps", "to the last step"],
)
def test_an_evaluation_in_a_row_of_bad_steps_is_the_best_only_at_the_end(
    toy, tmp_path, bad, best, saved
):
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0}
    lines = []
    result = toy.run(
        tmp_path,
        LoopConfig(5, eval_every=1, save_every=100),
        evaluator=lambda state, _: {"loss": losses[int(state.step)]},
        poison=frozenset(step - 1 for step in bad),
        log=lines.append,
    )
    assert (result.best["step"], result.best["value"]) == (best, losses[best])
    ends = [line for line in lines if line.startswith("eval at ") and line.endswith("  best")]
    assert [line.split()[2] for line in ends] == ["1", str(best)]
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == saved
        assert checkpoints.best_step() == best


# Hooks


def test_hooks_are_called_between_steps_and_change_nothing(toy, killing, straight, tmp_path):
    calls, threads = [], set()

    def seen(*call):
        calls.append(call)
        threads.add(threading.current_thread())

    def on_step(step, metrics):
        seen("step", step, sorted(metrics))
        metrics.clear()  # a copy

    hooks = Hooks(
        on_init=lambda state: seen("init", int(state.step)),
        on_step=on_step,
        on_eval=lambda step, metrics, state: seen("eval", step, int(state.step), sorted(metrics)),
    )
    stopped = toy.run(tmp_path, step=acting_at(toy, terminate, 7), hooks=hooks)
    assert stopped.stopped
    result = toy.run(tmp_path, hooks=hooks)
    names = ["grad_norm", "loss", "skipped"]
    assert [call for call in calls if call[0] == "step"] == [
        ("step", n, names) for n in range(1, 13)
    ]
    evals = [call for call in calls if call[0] == "eval"]
    assert evals == [("eval", step, step, ["loss"]) for step in (5, 10, 12)]
    assert calls[0] == ("init", 0) and sum(call[0] == "init" for call in calls) == 1
    assert threads == {threading.main_thread()}
    assert same(toy, killing, tmp_path, result, straight)


def test_an_exception_of_a_hook_ends_the_run_which_resumes(toy, killing, straight, tmp_path):
    def fail(step, metrics, state):
        raise RuntimeError("the hook failed")

    with pytest.raises(RuntimeError, match="the hook failed"):
        toy.run(tmp_path, hooks=Hooks(on_eval=fail))
    result = toy.run(tmp_path)
    assert result.resumed_from == 4
    assert same(toy, killing, tmp_path, result, straight)


# Patience


VALUES = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 0.5, 6: 6.0, 7: 0.7, 8: 0.6, 9: 0.1}
PATIENT = LoopConfig(9, eval_every=1, save_every=100, patience=3)


def by_step(state, _):
    return {"loss": VALUES[int(state.step)]}


@pytest.mark.parametrize(("patience", "end"), [(1, 3), (3, 8), (4, 9)])
def test_patience_ends_a_run_after_so_many_evaluations_without_a_better_one(
    toy, tmp_path, patience, end
):
    lines = []
    config = dataclasses.replace(PATIENT, patience=patience)
    result = toy.run(tmp_path, config, evaluator=by_step, log=lines.append)
    assert int(result.state.step) == end
    assert result.out_of_patience == (end < 9) and not result.stopped
    early = f"Ended early at step {end} of 9: {patience} evaluations in a row without a better "
    assert any(line.startswith(early) for line in lines) == (end < 9)
    # Nothing is left to do, and the last state is saved.
    again = toy.run(tmp_path, config, evaluator=lambda *_: pytest.fail("evaluated twice"))
    assert again.already_complete and again.out_of_patience == (end < 9)
    assert toy.digest(again.state) == toy.digest(result.state)
    assert again.best == result.best


def test_evaluations_in_a_row_of_bad_steps_cost_no_patience(toy, tmp_path):
    config = dataclasses.replace(PATIENT, patience=2)
    poison = frozenset({1, 2})  # the batches of steps 2 and 3
    result = toy.run(tmp_path, config, evaluator=lambda *_: {"loss": 1.0}, poison=poison)
    assert int(result.state.step) == 5 and result.out_of_patience


@pytest.mark.parametrize("stops", [(2,), (6, 7, 8)], ids=str)
def test_patience_is_counted_across_a_restart(toy, tmp_path, stops):
    straight = toy.run(tmp_path / "straight", PATIENT, evaluator=by_step)

    def signalled(state, should_stop):
        if int(state.step) == stops[-1] and not signalled.done:
            signalled.done = True
            terminate()
            should_stop()
            return None  # the evaluation is interrupted, then repeated
        return by_step(state, should_stop)

    signalled.done = False
    for stop in stops[:-1]:
        result = toy.run(tmp_path, PATIENT, step=acting_at(toy, terminate, stop), evaluator=by_step)
        assert result.stopped
    assert toy.run(tmp_path, PATIENT, evaluator=signalled).stopped
    result = toy.run(tmp_path, PATIENT, evaluator=by_step)
    assert int(result.state.step) == 8 and result.out_of_patience
    assert toy.digest(result.state) == toy.digest(straight.state)
    assert result.best == straight.best


def test_more_patience_continues_a_run_that_ended_early(toy, tmp_path):
    lines = []
    toy.run(tmp_path, dataclasses.replace(PATIENT, patience=1), evaluator=by_step)
    more = toy.run(tmp_path, PATIENT, evaluator=by_step, log=lines.append)
    assert lines[0] == "Resumed at step 3 of 9; changed: patience 1 -> 3."
    straight = toy.run(tmp_path / "straight", PATIENT, evaluator=by_step)
    assert toy.digest(more.state) == toy.digest(straight.state)


def test_an_error_in_the_data_is_raised_and_the_run_resumes(toy, killing, straight, tmp_path):
    original = toy.batch_at

    def broken(step, *arguments, **options):
        if step == 7:
            raise UserError("shard 3: record 12 is damaged")
        return original(step, *arguments, **options)

    toy.batch_at = broken
    try:
        with pytest.raises(UserError, match="record 12"):
            toy.run(tmp_path)
    finally:
        toy.batch_at = original
    assert same(toy, killing, tmp_path, toy.run(tmp_path), straight)


def test_metrics_are_fetched_one_step_late(toy, tmp_path):
    events = []

    class Watched:
        def __init__(self, step):
            self.step = step

        def __array__(self, *_, **__):
            events.append(f"fetch {self.step}")
            return np.float32(1.0)

    def step(state, batch):
        number = len([event for event in events if event.startswith("step")]) + 1
        events.append(f"step {number}")
        state, _ = toy.train_step(state, batch)
        return state, {"loss": Watched(number)}

    toy.run(tmp_path, LoopConfig(4, eval_every=0), step=step)
    assert events == [
        "step 1", "step 2", "fetch 1", "step 3", "fetch 2", "step 4", "fetch 3", "fetch 4"
    ]  # fmt: skip

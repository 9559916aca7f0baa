"""The training loop: resume, step, log, evaluate, save, stop.

Pre-training and every fine-tuning task call `fit` with their own program, batches and evaluation.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bertjax import signals
from bertjax.data.stream import read_ahead
from bertjax.errors import UserError
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import Restored
from bertjax.train.checkpoint.settings import UNSET, RunSettings, describe_changes, refuse_changed
from bertjax.train.loop_config import LoopConfig
from bertjax.train.progress import Progress
from bertjax.train.stopping import stop_requests
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.phases import PhaseInfo, phase_start

Stop = Callable[[], bool]
"""Tells whether the run should stop; cheap."""


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """The state of a run and the function that advances it."""

    init: Callable[[], Any]
    """Makes the first state, a pytree with `step`, `bad_steps` and `params`. `fit` does not call it
    if there is a checkpoint: the devices may not hold two states."""
    abstract_state: Any
    """The state as `jax.ShapeDtypeStruct`s with shardings."""
    step: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
    """(state, batch) -> (state, metrics), jitted; it may donate the state. Metrics are device
    scalars: `loss` and, if the step itself skips non-finite updates, `skipped` (0 or 1)."""
    is_compiled: bool = False
    """Whether an earlier run of this process has compiled the step."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of a state during training."""

    run: Callable[[Any, Stop], Mapping[str, float] | None]
    """(state, should_stop) -> metrics. It asks should_stop between its batches, and returns None
    if it stopped early for that."""
    best_metric: str | None = None
    """The metric that ranks checkpoints and that patience watches."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Functions that `fit` calls between steps, in its own thread, on every process.

    A hook may log, write files and read arrays. It must not change or donate a state, nor keep it:
    the next step donates its arrays, so copy what is needed later. Collective operations must be
    the same on every process. An exception ends the run; its checkpoints stay.
    """

    on_init: Callable[[Any], None] = lambda state: None
    """(state): called with the first state of a new run; not called in a resumed run."""
    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    """(step, metrics): called after each step, once its metrics have arrived on the host. By then
    the next step may be under way."""
    on_eval: Callable[[int, Mapping[str, float], Any], None] = lambda step, metrics, state: None
    """(step, metrics, state): called after each evaluation, with the evaluated state."""


@dataclasses.dataclass
class FitResult:
    """The outcome of `fit`."""

    state: Any
    """The state after the last step."""
    history: list[dict[str, Any]]
    """The records of metrics.jsonl."""
    best: dict[str, Any] | None
    """`step`, `value` and all `metrics` of the best evaluation; None if there was none."""
    stopped: bool
    """A signal ended the run early. It can be resumed from its last checkpoint (exit code 75)."""
    resumed_from: int | None
    """The step of the checkpoint that it resumed from; None for a new run."""
    already_complete: bool = False
    """No step was left to do."""
    out_of_patience: bool = False
    """The run ended before its last step because evaluations stopped improving; it counts as
    complete."""


def fit(
    config: LoopConfig,
    program: TrainProgram,
    batch_at: Callable[[int], Any],
    *,
    checkpoints: Checkpoints,
    telemetry: Telemetry,
    evaluation: Evaluation | None = None,
    settings: RunSettings | None = None,
    hooks: Hooks | None = None,
    phases: Sequence[PhaseInfo] = (),
) -> FitResult:
    """Trains to `config.train_steps`, from the newest intact checkpoint if there is one.

    A run that is killed at any point and started again has the same bits as one that wasn't. On
    SIGTERM or SIGINT, `fit` finishes the step, saves and returns; see `signals.listening`.

    Args:
        config: steps and intervals.
        program: the state and the step.
        batch_at: returns the device batch of a step, counted from 0. Threads call it ahead of time.
        checkpoints: the run's checkpoints.
        telemetry: the run's telemetry.
        evaluation: how to evaluate; None evaluates nothing.
        settings: saved in checkpoints with the fields of `config`, which are mutable settings.
        hooks: called between steps.
        phases: the run's phases in order; by default one phase. The last step of each is evaluated
            and saved, and the best evaluation is the best of its phase.

    Raises:
        UserError: the checkpoints belong to another run, all of them are damaged, there is no space
            for one, or `config.max_bad_steps` steps in a row were not finite.
        Stopped: a signal came before the first step.
        ValueError: there is patience, but no evaluation or no best_metric.
    """
    if config.patience and (evaluation is None or evaluation.best_metric is None):
        raise ValueError("patience needs an evaluation with a best_metric.")
    phases = tuple(phases) or (PhaseInfo(config.train_steps),)
    settings, hooks = settings or RunSettings(), hooks or Hooks()
    with stop_requests() as stop, contextlib.ExitStack() as stack:
        stack.callback(telemetry.end)
        stack.callback(signals.must_finish, False)
        run = (config, program, batch_at, checkpoints, telemetry, evaluation)
        return _Run(*run, settings, hooks, phases, stop).run()


@dataclasses.dataclass
class _Run:
    """The arguments of one call of `fit`, and what it remembers from step to step."""

    config: LoopConfig
    program: TrainProgram
    batch_at: Callable[[int], Any]
    checkpoints: Checkpoints
    telemetry: Telemetry
    evaluation: Evaluation | None
    settings: RunSettings
    hooks: Hooks
    phases: tuple[PhaseInfo, ...]
    stop: Stop
    resumed_from: int | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    bad_steps: int = 0  # in a row
    save_due: bool = False  # a save waits for the next finite step
    pending: tuple[int, Mapping[str, Any]] | None = None  # metrics that are still on the device

    def run(self) -> FitResult:
        state = self._resume()
        step, total = int(state.step), self.config.train_steps
        signals.check()  # nothing is lost yet
        if not self._catch_up(step, state):
            return self._result(state, stopped=True)
        if step >= total or self._out_of_patience():
            early = ", where it ended early" if step < total else ""
            self.telemetry.say(f"The run is complete: step {step:,} of {total:,}{early}.")
            return dataclasses.replace(self._result(state), already_complete=True)
        self.telemetry.count_time()
        if not self.program.is_compiled:
            self.telemetry.say("Compiling the step ...")
        with contextlib.closing(read_ahead(self.batch_at, range(step, total))) as batches:
            while step < total and not self._out_of_patience():
                with self.telemetry.waiting():
                    _, batch = next(batches)
                self.telemetry.starting(step + 1)
                state, metrics = self.program.step(state, batch)
                signals.must_finish(True)
                # Fetch the previous step's metrics only now that the device is busy with this one.
                self._settle()
                step += 1
                self.pending = (step, metrics)
                self.checkpoints.poll()
                if self._end_step(step, state):
                    self._finish_save()
                    saved = "" if step in self.checkpoints.steps() else "; this step is not saved"
                    line = f"Stopped at step {step:,} of {total:,}, to be resumed{saved}."
                    self.telemetry.say(line)
                    return self._result(state, stopped=True)
        if self._out_of_patience():
            metric = self.evaluation and self.evaluation.best_metric
            self.telemetry.say(
                f"Ended early at step {step:,} of {total:,}: {self.progress.no_better} "
                f"evaluations in a row without a better {metric}."
            )
        self._finish_save()
        return self._result(state)

    def _result(self, state: Any, *, stopped: bool = False) -> FitResult:
        history, best = self.telemetry.history, self.progress.best
        impatient = not stopped and self._out_of_patience()
        return FitResult(
            state, history, best, stopped, self.resumed_from, out_of_patience=impatient
        )

    # The end of a step

    def _end_step(self, step: int, state: Any) -> bool:
        """Evaluates and saves if due; returns whether to stop here."""
        last = step == self.config.train_steps
        evaluation_due = self._evaluation_due(step)
        save_due = self.save_due or step % self.config.save_every == 0 or self._ends_phase(step)
        stopping = self.stop()
        if not (evaluation_due or save_due or last or stopping):
            return False
        self._settle()
        value, is_best = None, False
        if evaluation_due and not stopping:
            done, value, is_best = self._evaluate(step, state)
            stopping = not done
            last = last or self._out_of_patience()
        if save_due or last or is_best or stopping:
            self._save(step, state, value, last=last)
        # A signal in the last step leaves nothing to resume if its evaluation is done.
        complete = last and (self.evaluation is None or self.progress.evaluated == step)
        return stopping and not complete

    def _ends_phase(self, step: int) -> bool:
        return any(step == phase.end for phase in self.phases)

    def _evaluation_due(self, step: int) -> bool:
        every = self.config.eval_every
        due = every > 0 and step % every == 0
        due = due or step == self.config.train_steps or self._ends_phase(step)
        return due and self.evaluation is not None

    def _settle(self) -> None:
        """Fetches the pending metrics, reports them and counts bad steps."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self.hooks.on_step(step, dict(values))
        skipped = values.pop("skipped", None)
        bad = skipped > 0.5 if skipped is not None else not math.isfinite(values["loss"])
        self.telemetry.step(step, values, skipped=bad)
        if self.bad_steps and not bad:
            self.telemetry.say(f"step {step:,} is finite again after {self.bad_steps} skipped.")
        if bad and not self.bad_steps:
            self.telemetry.say(f"step {step:,}: loss or gradient is not finite; skipped.")
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps >= self.config.max_bad_steps:
            self._finish_save()
            raise UserError(
                f"{self.bad_steps} steps in a row, up to step {step:,}, had a loss or gradient "
                f"that is not finite; {self.checkpoints.newest_in_words()}. Run the command "
                "again with a lower learning rate or a longer warm-up; it continues from this "
                "checkpoint, if there is one."
            )

    # Evaluating and saving

    def _evaluate(self, step: int, state: Any) -> tuple[bool, float | None, bool]:
        """Returns whether it finished, the value of best_metric, and whether that is the best."""
        assert self.evaluation is not None
        started = time.monotonic()
        with self.telemetry.goodput.spending("evaluation"):
            metrics = self.evaluation.run(state, self.stop)
        if metrics is None:
            return False, None, False
        metrics = {name: float(value) for name, value in metrics.items()}
        self.hooks.on_eval(step, dict(metrics), state)
        value = metrics.get(self.evaluation.best_metric or "")
        is_best = self.progress.add(
            *(step, metrics, value),
            mode=self.checkpoints.best_mode,
            first=phase_start(self.phases, step),
            # `_save` saves nothing in a row of bad steps, and a best state has to be saved.
            eligible=self.bad_steps == 0 or step == self.config.train_steps,
        )
        seconds = time.monotonic() - started
        self.telemetry.evaluated(step, metrics, seconds=seconds, best="best" if is_best else "")
        return True, value, is_best

    def _out_of_patience(self) -> bool:
        return self.progress.is_out_of_patience(self.config.patience)

    def _save(self, step: int, state: Any, value: float | None, *, last: bool) -> None:
        # Save nothing in a row of bad steps, or bad states would push out good checkpoints. The
        # last step is saved anyway.
        self.save_due = self.bad_steps > 0 and not last
        if self.save_due:
            return
        self.telemetry.flush()
        with self.telemetry.goodput.spending("checkpoints"):
            self.checkpoints.ranked_after = phase_start(self.phases, step)
            immutable = self.settings.immutable_at(step)
            meta = {"immutable": immutable, "mutable": self._mutable(), "loop": self._memory()}
            self.checkpoints.save(state, meta, value)

    def _finish_save(self) -> None:
        with self.telemetry.goodput.spending("checkpoints"):
            self.checkpoints.wait()

    def _mutable(self) -> dict[str, Any]:
        return {**self.settings.mutable, **dataclasses.asdict(self.config)}

    def _memory(self) -> dict[str, Any]:  # what the next process needs besides the state
        window, records = self.telemetry.window(), len(self.telemetry.history)
        return {**dataclasses.asdict(self.progress), "window": window, "records": records}

    # Resuming

    def _resume(self) -> Any:
        """Returns the state to continue from."""
        with self.telemetry.goodput.spending("checkpoints"):
            restored = self.checkpoints.restore(self.program.abstract_state, accept=self._accept)
        window, records = None, 0
        if restored is None:
            state = self.program.init()
        else:
            state, memory = restored.state, dict(restored.meta["loop"])
            window, records = memory.pop("window"), memory.pop("records")
            self.progress = Progress(**memory)
            self.bad_steps = int(state.bad_steps)
        step = int(state.step)
        self.telemetry.begin(
            step,
            self.phases,
            log_every=self.config.log_every,
            evaluated=self.progress.evaluated,
            window=window,
            quiet=jax.process_index() != 0,
        )
        if restored is None:
            self.hooks.on_init(state)
            return state
        self.resumed_from = step
        if line := self._describe_resumption(step, restored):
            self.telemetry.say(line)
        if (found := len(self.telemetry.history)) < records:
            self.telemetry.say(
                f"Warning: {self.telemetry.path} holds {found:,} of the {records:,} records that "
                "the run wrote up to this step; reports show no others. Training is not affected."
            )
        return state

    def _accept(self, saved: Mapping[str, Any]) -> None:
        here, where = self.settings.immutable_at(saved["step"]), self.checkpoints.directory
        refuse_changed(saved["immutable"], here, where, unset=saved.get(UNSET, ()))

    def _describe_resumption(self, step: int, restored: Restored) -> str:
        """Returns a line for the log; empty if there is nothing to do and nothing has changed."""
        total, where = self.config.train_steps, self.checkpoints.directory
        line = f"Resumed at step {step:,} of {total:,}"
        if unset := restored.meta.get(UNSET):  # the first step of a converted run
            if step >= total:
                raise UserError(
                    f"{where}: holds a run at step {step:,}, and `loop.train_steps` is {total:,}: "
                    f"give `loop.train_steps` above {step:,}."
                )
            names = ", ".join(name for name in unset if name in self.settings.immutable_at(step))
            return f"{line}; taken from this command and held from now on: {names}."
        if step > total:  # a longer run is not the result of fewer steps
            raise UserError(
                f"{where}: holds a run at step {step:,}, beyond the {total:,} steps of this "
                "command: ask for more steps or epochs, or set `fresh` to start a new run beside "
                "it."
            )
        saved = restored.meta["mutable"]
        changed = describe_changes(saved, self._mutable(), self.settings.effects)
        if changed:
            return f"{line}; changed: {'; '.join(changed)}."
        return "" if step >= total or self._out_of_patience() else f"{line}."

    def _catch_up(self, step: int, state: Any) -> bool:
        """Repeats an evaluation that a signal cut short; returns False if cut short again."""
        evaluated = self.progress.evaluated >= step or not self._evaluation_due(step)
        if evaluated or self.resumed_from is None:
            return True
        done, value, _ = self._evaluate(step, state)
        if done:
            self.telemetry.flush()
            self.checkpoints.amend(step, metric=value, loop=self._memory())
        return done

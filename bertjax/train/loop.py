"""The one training loop, and the only place in training with side effects.

Resume, log, evaluate, save, stop. Pre-training and every fine-tuning task call `fit` with their own
step, batches and evaluation. Importing this module loads no jax.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from bertjax.errors import UserError
from bertjax.train.checkpoint.settings import (
    UNSET,
    RunSettings,
    describe_changes,
    refuse_changed,
    refuse_fewer_steps,
)
from bertjax.train.phases import Phase, phase_start
from bertjax.train.stopping import stop_requests
from bertjax.train.telemetry.logger import Telemetry

if TYPE_CHECKING:
    from bertjax.train.checkpoint.manager import Checkpoints


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to look and to save; all may change when a run resumes."""

    train_steps: int = 1000
    """Steps in all; more than before continues a finished run."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    eval_every: int = 500
    """Steps between two evaluations; the last step is evaluated in any case. 0: only the last."""
    save_every: int = 500
    """Steps between two checkpoints: what a sudden end can cost. The last step is always saved."""
    keep_last: int = 3
    """Newest checkpoints to keep, at least 3."""
    keep_best: int = 1
    """Best checkpoints to keep besides, by the evaluation."""
    max_bad_steps: int = 20
    """Stop after so many steps in a row whose loss or gradient is not finite; each is skipped."""
    patience: int = 0
    """End early after so many evaluations in a row that were not the best so far; 0: never."""

    def __post_init__(self) -> None:
        at_least = {
            "train_steps": 1,
            "log_every": 1,
            "eval_every": 0,
            "save_every": 1,
            "keep_last": 3,
            "keep_best": 0,
            "max_bad_steps": 1,
            "patience": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: give at least {least}.")


@dataclasses.dataclass
class FitResult:
    """What a run came to."""

    state: Any
    """The state after the last step done."""
    history: list[dict[str, Any]]
    """The records of metrics.jsonl."""
    best: dict[str, Any] | None
    """step, value and all metrics of the best evaluation; None if there was none."""
    stopped: bool
    """Ended early by a signal, saved, and to be resumed (exit code 75)."""
    resumed_from: int | None
    """The step it was taken up at; None for a new run."""
    already_complete: bool = False
    """There was nothing left to do."""
    out_of_patience: bool = False
    """Complete before its last step, because evaluations had stopped getting better."""


def fit(
    config: LoopConfig,
    *,
    workdir: epath.PathLike,
    init: Callable[[], Any],
    abstract_state: Any,
    train_step: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]],
    batch_at: Callable[[int], Any],
    evaluate: Callable[[Any, Callable[[], bool]], Mapping[str, float] | None] | None,
    checkpoints: "Checkpoints",
    settings: RunSettings,
    telemetry: Telemetry,
    best_metric: str | None = None,
    tokens_per_step: int = 0,
    phases: Sequence[Phase] = (),
) -> FitResult:
    """Trains to `config.train_steps`, or until `config.patience` is used up, from the newest whole
    checkpoint if there is one.

    A run that is killed at any point and started again gives the bits of one that wasn't. On
    SIGTERM or SIGINT it finishes the step, saves and returns; a later second one ends the process.

    Args:
        config: steps and intervals.
        workdir: named in messages.
        init: makes the first state, a pytree with `step`, `bad_steps` and `params`, to be donated;
            not called where there is a checkpoint: two states may be more than the devices hold.
        abstract_state: the `jax.ShapeDtypeStruct`s of a state, with their shardings.
        train_step: (state, batch) -> (state, metrics): jitted, metrics are device scalars with
            `loss` and, where the step skips what is not finite by itself, `skipped`.
        batch_at: the device batch of a step; called ahead, from threads.
        evaluate: (state, should_stop) -> metrics; asks should_stop between its batches, and
            returns None if it stopped early for that.
        checkpoints: of this run.
        settings: saved in checkpoints, beside the fields of `config`, which are mutable.
        telemetry: of this run.
        best_metric: the metric of `evaluate` to keep the best checkpoint by, and patience.
        tokens_per_step: for tokens/s.
        phases: of a run that has several, in their order; they have their own tokens. The last step
            of each is evaluated and saved, and the best evaluation is the best of its phase.

    Returns:
        The state and what is known about the run.

    Raises:
        UserError: the run in workdir is another one, every checkpoint is damaged, there is no space
            for one, or training met too many steps in a row that are not finite.
        ValueError: there is patience, and nothing is evaluated or no metric is the one that counts.
    """
    if config.patience and (evaluate is None or best_metric is None):
        raise ValueError("patience needs evaluations and a best_metric.")
    run = _Run(
        config,
        epath.Path(workdir),
        train_step,
        batch_at,
        evaluate,
        checkpoints,
        settings,
        telemetry,
        best_metric,
        tuple(phases) or (Phase(config.train_steps, tokens_per_step),),
    )
    with stop_requests() as stop:
        try:
            return run.go(init, abstract_state, stop)
        finally:
            telemetry.end()


class _Run:
    """One call of `fit`: what it was given, and what it has to remember from step to step."""

    def __init__(
        self,
        config: LoopConfig,
        workdir: epath.Path,
        train_step: Callable[[Any, Any], tuple[Any, Mapping[str, Any]]],
        batch_at: Callable[[int], Any],
        evaluate: Callable[[Any, Callable[[], bool]], Mapping[str, float] | None] | None,
        checkpoints: "Checkpoints",
        settings: RunSettings,
        telemetry: Telemetry,
        best_metric: str | None,
        phases: tuple[Phase, ...],
    ) -> None:
        self.config, self.workdir, self.settings = config, workdir, settings
        self.train_step, self.batch_at, self.evaluate = train_step, batch_at, evaluate
        self.checkpoints, self.telemetry = checkpoints, telemetry
        self.best_metric, self.phases = best_metric, phases
        self.ends = {phase.end for phase in phases}
        self.best: dict[str, Any] | None = None
        self.evaluated = 0  # the last step that was
        self.no_better = 0  # evaluations in a row
        self.bad_steps = 0  # in a row
        self.owed = False  # a save that fell due in a row of bad steps
        self.pending: tuple[int, Mapping[str, Any]] | None = None  # metrics still on the device

    def go(
        self, init: Callable[[], Any], abstract_state: Any, stop: Callable[[], bool]
    ) -> FitResult:
        state, resumed_from = self._resume(init, abstract_state)
        step, total = int(state.step), self.config.train_steps
        result = functools.partial(self._result, resumed_from=resumed_from)
        if resumed_from is not None and not self._catch_up(state, step, stop):
            return result(state, stopped=True)
        if step >= total or self._out_of_patience():
            early = ", where it ended early" if step < total else ""
            self.telemetry.say(f"The run is complete: step {step:,} of {total:,}{early}.")
            return result(state, stopped=False, already_complete=True)
        with contextlib.closing(self._batches(step, total)) as batches:
            for batch in batches:
                self.telemetry.starting(step + 1)
                state, metrics = self.train_step(state, batch)
                # The metrics of the step before: by now the device is busy with this one.
                self._settle()
                step += 1
                self.pending = (step, metrics)
                self.checkpoints.poll()
                if self._after(step, state, stop):
                    self.checkpoints.wait()
                    saved = "" if step in self.checkpoints.steps() else "; this step is not saved"
                    self.telemetry.say(
                        f"Stopped at step {step:,} of {total:,}, to be resumed{saved}."
                    )
                    return result(state, stopped=True)
                if self._out_of_patience():
                    self.telemetry.say(
                        f"Ended early at step {step:,} of {total:,}: {self.no_better} evaluations "
                        f"in a row without a better {self.best_metric}."
                    )
                    break
        self.checkpoints.wait()
        return result(state, stopped=False)

    # One step's end

    def _after(self, step: int, state: Any, stop: Callable[[], bool]) -> bool:
        """Evaluates and saves where due; whether to stop here."""
        config = self.config
        last = step == config.train_steps
        evaluation = self._evaluation_due(step)
        save = self.owed or step % config.save_every == 0 or step in self.ends
        stopping = stop()
        if not (evaluation or save or last or stopping):
            return False
        self._settle()
        value, is_best = None, False
        if evaluation and not stopping:
            done, value, is_best = self._evaluate(step, state, stop)
            stopping = not done
            last = last or self._out_of_patience()
        if save or last or is_best or stopping:
            self._save(step, state, value, last=last)
        # A signal in the last step may leave nothing to resume.
        return stopping and not (last and (self.evaluate is None or self.evaluated == step))

    def _evaluation_due(self, step: int) -> bool:
        if self.evaluate is None:
            return False
        every, ends = self.config.eval_every, {self.config.train_steps, *self.ends}
        return step in ends or (every > 0 and step % every == 0)

    def _settle(self) -> None:
        """Fetches the metrics that are pending: counts, tells, and gives up on a run gone bad."""
        if self.pending is None:
            return
        import jax

        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        skipped = values.pop("skipped", None)
        bad = skipped > 0.5 if skipped is not None else not math.isfinite(values["loss"])
        self.telemetry.step(step, values, skipped=bad)
        if not bad:
            if self.bad_steps:
                self.telemetry.say(f"step {step:,} is finite again after {self.bad_steps} skipped.")
            self.bad_steps = 0
            return
        self.bad_steps += 1
        if self.bad_steps == 1:
            self.telemetry.say(f"step {step:,}: loss or gradient is not finite; skipped.")
        if self.bad_steps >= self.config.max_bad_steps:
            self._give_up(step)

    def _give_up(self, step: int) -> None:
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        safe = (
            f"the checkpoint of step {steps[-1]:,} is whole" if steps else "nothing was saved yet"
        )
        raise UserError(
            f"{self.bad_steps} steps in a row, up to step {step:,}, had a loss or gradient that is "
            f"not finite; {safe}. Lower the learning rate or warm up longer, and run the same "
            f"command again."
        )

    # Evaluating and saving

    def _evaluate(
        self, step: int, state: Any, stop: Callable[[], bool]
    ) -> tuple[bool, float | None, bool]:
        """(whether it was finished, the value of best_metric, whether that is the best so far)."""
        assert self.evaluate is not None
        started = time.monotonic()
        metrics = self.evaluate(state, stop)
        if metrics is None:
            return False, None, False
        metrics = {name: float(value) for name, value in metrics.items()}
        self.evaluated = step
        value = metrics.get(self.best_metric) if self.best_metric else None
        # In a row of bad steps nothing is saved (`_save`), and what is not saved is not the best.
        judged = self.bad_steps == 0 or step == self.config.train_steps
        is_best = judged and value is not None and self._better(step, value)
        if is_best:
            self.best = {"step": step, "value": value, "metrics": metrics}
        self.no_better = 0 if is_best else self.no_better + judged
        seconds = time.monotonic() - started
        self.telemetry.evaluated(step, metrics, seconds=seconds, best="best" if is_best else "")
        return True, value, is_best

    def _better(self, step: int, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None or self.best["step"] <= phase_start(self.phases, step):
            return True
        best = self.best["value"]
        return value < best if self.checkpoints.best_mode == "min" else value > best

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.no_better

    def _save(self, step: int, state: Any, value: float | None, *, last: bool) -> None:
        # In a row of bad steps nothing is saved, so that the checkpoints from before the trouble
        # stay; only the end of the run can't wait for a better step.
        self.owed = self.bad_steps > 0 and not last
        if self.owed:
            return
        self.telemetry.flush()
        self.checkpoints.ranked_after = phase_start(self.phases, step)
        meta = {"immutable": self.settings.immutable_at(step), "mutable": self._mutable()}
        self.checkpoints.save(state, {**meta, "loop": self._memory()}, value)

    def _mutable(self) -> dict[str, Any]:
        return {**self.settings.mutable, **dataclasses.asdict(self.config)}

    def _memory(self) -> dict[str, Any]:
        """What the next process needs to know besides the state."""
        return {
            "best": self.best,
            "evaluated": self.evaluated,
            "no_better": self.no_better,
            "window": self.telemetry.window(),
        }

    # Resuming

    def _resume(self, init: Callable[[], Any], abstract_state: Any) -> tuple[Any, int | None]:
        """The state to go on from, and its step if it came from a checkpoint."""
        import jax

        def accept(saved: Mapping[str, Any]) -> None:
            refuse_changed(
                saved["immutable"],
                self.settings.immutable_at(saved["step"]),
                self.workdir,
                unset=saved.get(UNSET, ()),
            )

        restored = self.checkpoints.restore(abstract_state, accept=accept)
        memory: dict[str, Any] = {}
        if restored is None:
            state = init()
        else:
            state, memory = restored.state, restored.meta["loop"]
            self.best, self.evaluated = memory["best"], memory["evaluated"]
            self.no_better = memory["no_better"]
            self.bad_steps = int(state.bad_steps)
        step = int(state.step)
        self.telemetry.begin(
            step,
            self.config.train_steps,
            log_every=self.config.log_every,
            phases=self.phases,
            evaluated=self.evaluated,
            window=memory.get("window"),
            quiet=jax.process_index() != 0,
        )
        if restored is None:
            return state, None
        line = f"Resumed at step {step:,} of {self.config.train_steps:,}"
        if unset := restored.meta.get(UNSET):  # the first step of a converted run
            if step >= self.config.train_steps:
                raise UserError(
                    f"{self.workdir}: holds a run at step {step:,}, and `loop.train_steps` is "
                    f"{self.config.train_steps:,}: give `loop.train_steps` above {step:,}."
                )
            names = ", ".join(name for name in unset if name in self.settings.immutable_at(step))
            self.telemetry.say(f"{line}; taken from this command and held from now on: {names}.")
            return state, step
        refuse_fewer_steps(step, self.config.train_steps, self.workdir)
        changed = describe_changes(restored.meta["mutable"], self._mutable(), self.settings.effects)
        complete = step >= self.config.train_steps or self._out_of_patience()
        if complete and not changed:
            return state, step
        self.telemetry.say(f"{line}; changed: {'; '.join(changed)}." if changed else f"{line}.")
        return state, step

    def _catch_up(self, state: Any, step: int, stop: Callable[[], bool]) -> bool:
        """Does the evaluation that a signal cut short; False if it was cut short again."""
        if self.evaluated >= step or step == 0 or not self._evaluation_due(step):
            return True
        done, value, _ = self._evaluate(step, state, stop)
        if done:
            self.telemetry.flush()
            self.checkpoints.amend(step, metric=value, loop=self._memory())
        return done

    def _batches(self, start: int, total: int) -> Generator[Any, None, None]:
        """The batches of the steps to come; the time without one is reported as waiting."""
        from bertjax.data.stream import read_ahead

        ahead = read_ahead(self.batch_at, range(start, total))
        with contextlib.closing(ahead):
            while True:
                started = time.monotonic()
                item = next(ahead, None)
                if item is None:
                    return
                self.telemetry.waited(time.monotonic() - started)
                yield item[1]

    def _result(
        self, state: Any, *, stopped: bool, resumed_from: int | None, already_complete: bool = False
    ) -> FitResult:
        return FitResult(
            state,
            self.telemetry.history,
            self.best,
            stopped,
            resumed_from,
            already_complete,
            out_of_patience=not stopped and self._out_of_patience(),
        )

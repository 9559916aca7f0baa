"""What a run tells about itself: metrics.jsonl, trackers, and a progress bar or plain lines.

Knows no metric by name: a `Field` says how a metric is called, rounded and compared in a line.
Every metric is written to metrics.jsonl, also those without a field.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax.files import is_local, write_atomically, writing
from bertjax.train.phases import Phase, phase_of, tokens_between
from bertjax.train.telemetry.mfu import Work
from bertjax.train.telemetry.profiling import Profiler
from bertjax.train.telemetry.trackers import Tracker


class Field(NamedTuple):
    """How one metric appears in a line; the order of fields is the order in the line."""

    name: str
    """The metric's name in the dict that the step or the evaluation returns."""
    label: str = ""
    """What the line calls it; by default its name."""
    format: str = ".3f"
    """A format specification for the value and its reference."""
    reference: tuple[str, float] | None = None
    """A value to compare with, printed beside it, e.g. ("unigram", 6.71)."""
    last: bool = False
    """The line and the record show the newest value instead of the mean since the line before."""

    def show(self, value: float) -> str:
        """E.g. `mlm 6.23 (unigram 6.71)`."""
        text = f"{self.label or self.name} {value:{self.format}}"
        if self.reference is not None:
            name, reference = self.reference
            text += f" ({name} {reference:{self.format}})"
        return text


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8s, 4m10s, 3h05m, 2d04h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


class Telemetry:
    """Written to by the training loop: `begin`, then `step` and `evaluated`, at last `end`."""

    def __init__(
        self,
        path: epath.PathLike,
        fields: Sequence[Field] = (),
        *,
        log: Callable[[str], None],
        eval_fields: Sequence[Field] | None = None,
        progress: bool | None = None,
        trackers: Sequence[Tracker] = (),
        work: Work | None = None,
        profiler: Profiler | None = None,
        watch: Callable[[Mapping[str, Any]], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read or written before `begin`.

        Args:
            path: of metrics.jsonl; one JSON object a line, each with `step`, `kind` and `time`.
            fields: the metrics of a training line.
            log: writes one line for people.
            eval_fields: the metrics of an evaluation's line; by default those of `fields`.
            progress: a bar instead of the training lines; by default where there's a terminal or
                a notebook to show it.
            trackers: are given every record too.
            work: what a step takes, for MFU.
            profiler: traces some steps.
            watch: is given every record, those of `history` at the beginning too, and may have a
                sentence to say about a new one.
            clock: seconds.
            now: seconds since 1970.
        """
        self.path = epath.Path(path)
        self.history: list[dict[str, Any]] = []
        self._fields = tuple(fields)
        self._eval_fields = self._fields if eval_fields is None else tuple(eval_fields)
        self._log, self._clock, self._now = log, clock, now
        self._watch, self._profiler = watch or _say_nothing, profiler
        self._trackers, self._work = tuple(trackers), work or Work()
        self._progress = _can_show_a_bar() if progress is None else progress
        self._bar: Any = None
        self._quiet = False
        self._window = _Window()
        self._done, self._timed = 0, (0, 0.0)

    def begin(
        self,
        step: int,
        total: int,
        *,
        log_every: int,
        tokens_per_step: int = 0,
        phases: Sequence[Phase] = (),
        evaluated: int | None = None,
        window: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> None:
        """Starts at a step, and forgets what an earlier run wrote after it.

        Args:
            step: steps done.
            total: steps to do in all.
            log_every: steps between two lines and records.
            tokens_per_step: for the tokens/s.
            phases: of a run that has several, in their order; they have their own tokens. The last
                step of each has a line and a record, so that none is of two phases.
            evaluated: the last step whose evaluation is known, which may be an earlier one than
                `step`; None: all that are written down.
            window: what `window` returned when this step was saved.
            quiet: writes nothing: for all processes but the first.
        """
        self._total, self._log_every = total, log_every
        self._phases = tuple(phases) or (Phase(total, tokens_per_step),)
        self._quiet = quiet
        self._window = _Window(**(window or {}))
        self._started: float | None = None  # the first step compiles: time runs from its end
        self._first = self._done = step
        self._read(step, step if evaluated is None else evaluated)
        for record in self.history:
            self._watch(record)  # what it has to say was said then
        for tracker in () if quiet else self._trackers:
            tracker.begin(self.history)
        if self._progress and not quiet and step < total:
            self._bar = _open_bar(step, total)

    # What the loop reports

    def waited(self, seconds: float) -> None:
        """Time for which the loop had nothing to do because no batch was there."""
        if self._started is not None:
            self._waited += seconds

    def starting(self, step: int) -> None:
        """A step is about to be dispatched; the metrics of the one before may not be there yet."""
        if self._profiler is not None and not self._quiet:
            self._profiler.before(step)

    def step(self, step: int, metrics: Mapping[str, float], *, skipped: bool = False) -> None:
        """A step is done; writes a line and a record where one is due.

        Args:
            step: steps done, this one included.
            metrics: its values.
            skipped: it was not finite and changed nothing; its values count in no mean.
        """
        self._window.add(metrics, skipped)
        self._done = step
        ends = {phase.end for phase in self._phases}
        if step - 1 in ends and self._started is not None:  # the first one of a phase compiles too
            self._window_started, self._window_first = self._clock(), step
            self._waited = self._paused = 0.0
            self._timed = (0, 0.0)
        if step % self._log_every == 0 or step == self._total or step in ends:
            self._report(step)
        if self._started is None:
            self._started = self._window_started = self._clock()
            self._first = self._window_first = step
            self._waited = self._paused = 0.0
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if self._profiler is not None and (sentence := self._profiler.after(step)):
            self.say(sentence)

    def evaluated(
        self, step: int, metrics: Mapping[str, float], *, seconds: float, best: str = ""
    ) -> None:
        """An evaluation is done; its time does not count in tokens/s.

        Args:
            step: steps done.
            metrics: its values.
            seconds: how long it took.
            best: a word on whether it is the best so far.
        """
        if self._started is not None:
            self._paused += seconds
        record = self._record("eval", step, metrics, seconds=round(seconds, 3))
        phase = phase_of(self._phases, step)
        shown = self._shown(phase.fields or self._eval_fields, metrics)
        parts = [f"eval at {step:,}", *_named(phase), *shown]
        parts += [f"in {duration(seconds)}"] if seconds >= 1 else []
        self.say("  ".join([*parts, best] if best else parts))
        self._say_what_shows(record)

    def say(self, text: str) -> None:
        """One line for people, above the bar if there is one."""
        if self._quiet:
            return
        if self._bar is None:
            self._log(text)
            return
        with self._bar.external_write_mode():
            self._log(text)

    def speed(self) -> str:
        """How fast this process trained, in a sentence; empty where there was too little to time.

        Of several phases it is of the newest. Compiling, evaluations and the last steps, for which
        no line was due, are not in it.
        """
        steps, seconds = self._timed
        if not steps:
            return ""
        pace, phase = steps / seconds, phase_of(self._phases, self._done)
        work = self._work_of(phase)
        parts = [_tokens(pace * phase.tokens_per_step), *work.show(pace)]
        where = f" in phase {phase.name}" if phase.name else ""
        return f"Trained{where} at {', '.join(parts)}, over {steps:,} steps on {work.devices}."

    def _work_of(self, phase: Phase) -> Work:
        return self._work if phase.work is None else phase.work

    def window(self) -> dict[str, Any]:
        """The means since the last line, as JSON values, for the checkpoint's meta."""
        return dict(vars(self._window))

    def flush(self) -> None:
        """Brings files up to date that can't be appended to; call before a save."""
        if self._quiet:
            return
        if not self._appendable and self.history:
            self._rewrite()
        for tracker in self._trackers:
            tracker.flush()

    def end(self) -> None:
        """Closes bar and trackers; may be called twice."""
        if self._profiler is not None and (sentence := self._profiler.close(self._done)):
            self.say(sentence)
        self.flush()
        for tracker in () if self._quiet else self._trackers:
            tracker.end()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    # Lines

    def _report(self, step: int) -> None:
        phase = phase_of(self._phases, step)
        fields = phase.fields or self._fields
        lasting = {field.name for field in fields if field.last}
        metrics = self._window.values(lasting)
        skipped = self._window.skipped
        pace, waiting = self._pace(step)
        speed, work = None if pace is None else pace * phase.tokens_per_step, self._work_of(phase)
        extra: dict[str, Any] = {"skipped": skipped} if skipped else {}
        extra |= work.record(pace)
        record = self._record(
            "train", step, metrics, tokens_per_second=speed, data_wait=waiting, **extra
        )
        parts = [*_named(phase), *self._shown(fields, metrics)]
        if skipped:
            parts.append(f"skipped {skipped}")
        if speed is not None and waiting is not None:
            parts += [_tokens(speed), *work.show(pace), f"data wait {waiting:.0%}"]
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join(parts), refresh=False)
        else:
            width = len(f"{self._total:,}")
            remaining = self._remaining(step)
            eta = [f"ETA {duration(remaining)}"] if remaining is not None else []
            self.say("  ".join([f"step {step:>{width},}/{self._total:,}", *parts, *eta]))
        self._say_what_shows(record)
        self._window = _Window()

    def _say_what_shows(self, record: Mapping[str, Any]) -> None:
        if sentence := self._watch(record):
            self.say(sentence)

    def _shown(self, fields: Iterable[Field], metrics: Mapping[str, float]) -> list[str]:
        return [field.show(metrics[field.name]) for field in fields if field.name in metrics]

    def _pace(self, step: int) -> tuple[float | None, float | None]:
        """(steps a second, share of the time waited for data) since the line before."""
        if self._started is None:
            return None, None
        now = self._clock()
        elapsed = now - self._window_started - self._paused
        steps = step - self._window_first
        waited = self._waited
        self._window_started, self._window_first = now, step
        self._waited = self._paused = 0.0
        if elapsed <= 0 or steps <= 0:
            return None, None
        self._timed = (self._timed[0] + steps, self._timed[1] + elapsed)
        return steps / elapsed, min(1.0, waited / elapsed)

    def _remaining(self, step: int) -> float | None:
        """Seconds to the last step at the tokens/s so far, evaluations and saves included."""
        if self._started is None or step == self._first or step >= self._total:
            return None
        done = tokens_between(self._phases, self._first, step)
        left = tokens_between(self._phases, step, self._total)
        return (self._clock() - self._started) / done * left

    # metrics.jsonl

    def _record(
        self, kind: str, step: int, metrics: Mapping[str, float], **more: Any
    ) -> dict[str, Any]:
        values = {**metrics, **{key: value for key, value in more.items() if value is not None}}
        record: dict[str, Any] = {"step": step, "kind": kind}
        if name := phase_of(self._phases, step).name:
            record["phase"] = name
        record["time"] = round(self._now(), 3)
        record |= {key: _number(value) for key, value in values.items()}
        self.history.append(record)
        if self._quiet:
            return record
        if self._appendable:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        for tracker in self._trackers:
            tracker.record(record)
        return record

    @property
    def _appendable(self) -> bool:
        # An object of an object store is written whole, so only at saves and at the end.
        return is_local(self.path)

    def _read(self, step: int, evaluated: int) -> None:
        """Takes up the records up to a step, of evaluations up to another; a last line cut short by
        a kill is dropped."""
        self.history = []
        if not self._quiet:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        lines = self.path.read_bytes().decode(errors="replace").splitlines()
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if not isinstance(record, dict):
                continue
            known = evaluated if record.get("kind") == "eval" else step
            if record.get("step", math.inf) <= known:
                self.history.append(record)
        if len(self.history) < len(lines) and not self._quiet:
            self._rewrite()

    def _rewrite(self) -> None:
        text = "".join(json.dumps(record) + "\n" for record in self.history)
        write_atomically(self.path, text.encode())


class _Window:
    """Sums of the metrics since the last line; the steps that were skipped are only counted."""

    def __init__(
        self,
        sums: Mapping[str, float] | None = None,
        newest: Mapping[str, float] | None = None,
        count: int = 0,
        skipped: int = 0,
    ) -> None:
        self.sums, self.newest = dict(sums or {}), dict(newest or {})
        self.count, self.skipped = count, skipped

    def add(self, metrics: Mapping[str, float], skipped: bool) -> None:
        if skipped:
            self.skipped += 1
            return
        self.count += 1
        self.newest = dict(metrics)
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def values(self, lasting: Iterable[str]) -> dict[str, float]:
        means = {name: total / self.count for name, total in self.sums.items()}
        return means | {name: self.newest[name] for name in lasting if name in self.newest}


def _named(phase: Phase) -> list[str]:
    return [f"phase {phase.name}"] if phase.name else []


def _number(value: Any) -> Any:
    """JSON has no NaN and no infinity: None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say_nothing(record: Mapping[str, Any]) -> None:
    del record


def _tokens(speed: float) -> str:
    return f"{round(speed, -2 if speed >= 1000 else 0):,.0f} tok/s"


def _can_show_a_bar() -> bool:
    return "ipykernel" in sys.modules or (sys.stderr.isatty() and sys.stdout.isatty())


def _open_bar(step: int, total: int) -> Any:
    from tqdm import auto

    form = "{percentage:3.0f}% |{bar:16}| {n_fmt}/{total_fmt}  ETA {remaining}  {postfix}"
    return auto.tqdm(initial=step, total=total, bar_format=form, dynamic_ncols=True, unit="step")

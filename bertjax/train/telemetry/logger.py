"""Reports of a run: metrics.jsonl, trackers, and lines or a progress bar.

Telemetry knows no metric by name. A `Field` says how a line shows a metric; metrics.jsonl holds
every metric, with or without a field.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.train.telemetry import goodput
from bertjax.train.telemetry.fields import Field, duration, show_fields, show_tokens
from bertjax.train.telemetry.metrics_file import TIME, MetricsFile, Record
from bertjax.train.telemetry.phases import PhaseInfo, phase_of, tokens_between
from bertjax.train.telemetry.profiling import Profiler
from bertjax.train.telemetry.trackers import Tracker
from bertjax.train.telemetry.window import MetricWindow, StepTimer


class Telemetry:
    """The training loop calls `begin`, then `step` and `evaluated`, and finally `end`."""

    def __init__(
        self,
        path: epath.PathLike,
        fields: Sequence[Field] = (),
        *,
        log: Callable[[str], None],
        eval_fields: Sequence[Field] | None = None,
        progress: bool | None = None,
        trackers: Sequence[Tracker] = (),
        profiler: Profiler | None = None,
        watch: Callable[[Mapping[str, Any]], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read or written before `begin`.

        Args:
            path: metrics.jsonl, one JSON object a line, each with `step`, `kind` and `time`.
            fields: metrics of a training line.
            log: writes one line for people.
            eval_fields: metrics of an evaluation's line; by default `fields`.
            progress: show a bar instead of training lines; by default in a terminal or notebook.
            trackers: receive every record as well.
            profiler: traces some steps.
            watch: receives every record, first those of an earlier process; it may return a
                sentence to log about a new record.
            clock: returns seconds; `now`, seconds since 1970.
        """
        self._file = MetricsFile(path)
        self._fields = tuple(fields)
        self._eval_fields = self._fields if eval_fields is None else tuple(eval_fields)
        self._log, self._clock, self._now = log, clock, now
        self._watch, self._profiler = watch, profiler
        self._trackers = tuple(trackers)
        if progress is None:
            progress = "ipykernel" in sys.modules or (sys.stderr.isatty() and sys.stdout.isatty())
        self._progress = progress
        self._bar: Any = None
        self._window = MetricWindow()
        self._timer = StepTimer(clock)
        self.goodput = goodput.Goodput(clock, now)
        """Where the time of the run goes."""
        self._done = 0
        self._counts_time = False

    @property
    def path(self) -> epath.Path:
        """metrics.jsonl."""
        return self._file.path

    @property
    def history(self) -> list[Record]:
        """The records of metrics.jsonl that hold metrics."""
        return self._file.records

    def begin(
        self,
        step: int,
        phases: Sequence[PhaseInfo],
        *,
        log_every: int,
        evaluated: int | None = None,
        window: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> None:
        """Starts after a step, and drops the records that an earlier process wrote of later ones.

        Args:
            step: number of steps done.
            phases: phases of the run, in order. The last step of each has a line and a record, so
                that none spans two phases.
            log_every: steps between two lines and records.
            evaluated: last step with a known evaluation, at most `step`; None: all that were
                written.
            window: what `window` returned when this step was saved.
            quiet: write nothing; set on all processes but the first.
        """
        self._phases, self._log_every = tuple(phases), log_every
        self._ends = {phase.end for phase in phases}
        self._total = self._phases[-1].end
        self._window = MetricWindow(**(window or {}))
        self._done = step
        self._file.begin(step, step if evaluated is None else evaluated, read_only=quiet)
        if self._watch:
            for record in self.history:
                self._watch(record)  # the earlier process logged what it returns
        if quiet:
            self._trackers, self._profiler, self._log = (), None, lambda line: None
        for tracker in self._trackers:
            tracker.begin(self.history)
        if self._progress and not quiet and step < self._total:
            self._bar = _open_bar(step, self._total)

    # Called by the loop

    def count_time(self) -> None:
        """Reports that steps are left; from here on, records tell where the time goes."""
        self.goodput.begin(self._file.time_record, self._file.last_time or 0.0)
        self._counts_time = True
        self._record_time()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Reports the time inside as spent waiting for a batch."""
        started = self._clock()
        with self.goodput.spending("data"):
            yield
        self._timer.waited += self._clock() - started

    def starting(self, step: int) -> None:
        """Reports that a step is about to be dispatched, maybe before the previous one is done."""
        if self._profiler is not None:
            self._profiler.before(step)

    def step(self, step: int, metrics: Mapping[str, float], *, skipped: bool = False) -> None:
        """Reports a step that is done; writes a line and a record if one is due.

        A skipped step was not finite and changed nothing; no mean includes its values.
        """
        self._window.add(metrics, skipped=skipped)
        self._done = step
        if step - 1 in self._ends and self._timer.started:  # a new phase compiles its program
            self._timer.start(step)
        if step % self._log_every == 0 or step == self._total or step in self._ends:
            self._report(step)
        elif not self._timer.started and self._bar is None:  # the first one, which took long
            phase = phase_of(self._phases, step)
            fields = phase.fields or self._fields
            values = self._window.values(field.name for field in fields if field.last)
            values |= phase.scheduled
            words = [self._place(step), *_named(phase), *show_fields(fields, values)]
            self.say("  ".join(words))
        if not self._timer.started:
            self._timer.start(step)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        if self._profiler is not None and (sentence := self._profiler.after(step)):
            self.say(sentence)

    def evaluated(
        self, step: int, metrics: Mapping[str, float], *, seconds: float, best: str = ""
    ) -> None:
        """Reports an evaluation of `seconds`, which don't count in tokens/s.

        `best` is a word for the line if it is the best so far.
        """
        self._timer.paused += seconds
        record = self._record("eval", step, metrics, seconds=round(seconds, 3))
        phase = phase_of(self._phases, step)
        words = [f"eval at {step:,}", *_named(phase)]
        words += show_fields(phase.fields or self._eval_fields, metrics)
        words += [f"in {duration(seconds)}"] if seconds >= 1 else []
        self.say("  ".join([*words, best] if best else words))
        self._say_what_shows(record)

    def say(self, text: str) -> None:
        """Logs one line for people, above the bar if there is one."""
        with contextlib.nullcontext() if self._bar is None else self._bar.external_write_mode():
            self._log(text)

    def speed(self) -> str:
        """Returns a sentence on this process's training speed; empty if too little was timed.

        It covers the newest phase, without compilation, evaluations, and steps after the last line.
        """
        steps, seconds = self._timer.measured
        if not steps:
            return ""
        pace, phase = steps / seconds, phase_of(self._phases, self._done)
        speed = show_tokens(pace * phase.tokens_per_step, phase.real_share)
        speeds = [speed, *phase.work.show(pace)]
        where = f" in phase {phase.name}" if phase.name else ""
        devices = phase.work.devices
        return f"Trained{where} at {', '.join(speeds)}, over {steps:,} steps on {devices}."

    def time(self) -> str:
        """Returns a sentence on where the time of the run went; empty if no step was left to do."""
        return goodput.sentence(self.goodput.record()) if self._counts_time else ""

    def window(self) -> dict[str, Any]:
        """Returns the sums since the previous line as JSON values, for the checkpoint's meta."""
        return dataclasses.asdict(self._window)

    def flush(self) -> None:
        """Writes what could not be appended, and where the time went; call it before a save."""
        self._record_time()
        self._file.flush()
        for tracker in self._trackers:
            tracker.flush()

    def end(self) -> None:
        """Closes bar and trackers; may be called twice."""
        if self._profiler is not None and (sentence := self._profiler.close(self._done)):
            self.say(sentence)
        self.flush()
        for tracker in self._trackers:
            tracker.end()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    # Lines and records

    def _report(self, step: int) -> None:
        phase = phase_of(self._phases, step)
        fields = phase.fields or self._fields
        metrics = self._window.values(field.name for field in fields if field.last)
        metrics |= phase.scheduled
        skipped = self._window.skipped
        pace, waiting = self._timer.lap(step)
        speed = None if pace is None else pace * phase.tokens_per_step
        real = speed and phase.real_share and speed * phase.real_share
        measured = {"tokens_per_second": speed, "real_tokens_per_second": real}
        measured |= {"data_wait": waiting, "skipped": skipped or None}
        record = self._record("train", step, metrics, **measured, **phase.work.record(pace))
        words = [*_named(phase), *show_fields(fields, metrics)]
        words += [f"skipped {skipped}"] if skipped else []
        if speed is not None and waiting is not None:
            words += [show_tokens(speed, phase.real_share), *phase.work.show(pace)]
            words += [f"data wait {waiting:.0%}"]
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join(words), refresh=False)
        else:
            self.say("  ".join([self._place(step), *words, *self._remaining(step)]))
        self._say_what_shows(record)
        self._window = MetricWindow()

    def _record_time(self) -> None:
        if self._counts_time:
            spent = self.goodput.record()
            place = {"step": self._done, "kind": TIME, "time": round(self._now(), 3)}
            self._file.append({**place, **spent})

    def _place(self, step: int) -> str:
        total = f"{self._total:,}"
        return f"step {step:>{len(total)},}/{total}"

    def _say_what_shows(self, record: Record) -> None:
        if self._watch and (sentence := self._watch(record)):
            self.say(sentence)

    def _remaining(self, step: int) -> list[str]:
        """Estimates the time to the last step, at the tokens/s so far, evaluations included."""
        timed = self._timer.since_start()
        if timed is None or step == timed[0] or step >= self._total:
            return []
        first, seconds = timed
        done = tokens_between(self._phases, first, step)
        return [f"ETA {duration(seconds / done * tokens_between(self._phases, step, self._total))}"]

    def _record(self, kind: str, step: int, metrics: Mapping[str, float], **more: Any) -> Record:
        record: Record = {"step": step, "kind": kind}
        if name := phase_of(self._phases, step).name:
            record["phase"] = name
        record["time"] = round(self._now(), 3)
        # JSON has neither NaN nor infinity.
        record |= {name: x if math.isfinite(x) else None for name, x in metrics.items()}
        record |= {name: value for name, value in more.items() if value is not None}
        self._file.append(record)
        for tracker in self._trackers:
            tracker.record(record)
        return record


def _named(phase: PhaseInfo) -> list[str]:
    return [f"phase {phase.name}"] if phase.name else []


def _open_bar(step: int, total: int) -> Any:
    from tqdm import auto

    form = "{percentage:3.0f}% |{bar:16}| {n_fmt}/{total_fmt}  ETA {remaining}  {postfix}"
    return auto.tqdm(initial=step, total=total, bar_format=form, dynamic_ncols=True, unit="step")

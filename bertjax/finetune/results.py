"""Results of a fine-tuning run."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bertjax.finetune import grid
from bertjax.finetune.grid import Setting
from bertjax.tasks.task import Baseline, Task


class SeedResult(NamedTuple):
    """The result of one seed."""

    seed: int
    learning_rate: float
    batch_size: int
    epochs: int
    metrics: dict[str, float]
    """Metrics on the dev rows."""
    test_metrics: dict[str, float] | None
    """Metrics on the test rows, if there are any."""
    workdir: str


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """The result of a fine-tuning run."""

    metric: str
    """Name of the main metric."""
    mean: float
    """Mean of the main metric on the dev rows over the seeds."""
    median: float
    """Median of the same."""
    deviation: float
    """Standard deviation of the same (n - 1); 0 for one seed."""
    learning_rate: float
    """Learning rate of all seeds."""
    batch_size: int
    """Rows per step of all seeds."""
    epochs: int
    """Epochs of all seeds."""
    tried: dict[Setting, float]
    """Main metric on the dev rows of each setting that the first seed tried."""
    seeds: tuple[SeedResult, ...]
    """Finished seeds, in the order of the configuration."""
    labels: tuple[str, ...]
    """Names of the outputs; empty if they have none."""
    baseline: Baseline | None
    """Rule that the metrics on the dev rows are compared with."""
    test_baseline: Baseline | None
    """The same for the test rows."""
    default_metric: str
    """The metric that is the main one by default. The sentence has it beside another main one."""
    notes: Mapping[str, str]
    """Metrics -> how they are computed, where the name alone does not tell."""
    workdir: str
    """The run directory; with `fresh` it may differ from the configured one."""
    export: str | None
    """Directory of the best seed's model; None if a signal stopped the run."""
    stopped: bool
    """Whether a signal stopped the run. The same command resumes it."""

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as JSON values."""
        seeds = [seed._asdict() for seed in self.seeds]
        tried = [{**each._asdict(), self.metric: score} for each, score in self.tried.items()]
        return {**dataclasses.asdict(self), "seeds": seeds, "tried": tried}

    def sentence(self) -> str:
        """Returns the result in one sentence."""
        if self.stopped:
            return f"Stopped after {len(self.seeds)} finished seeds; the same command resumes."
        spread = ""
        if len(self.seeds) > 1:
            spread = (
                f" ± {self.deviation:.4f} over {len(self.seeds)} seeds (median {self.median:.4f})"
            )
        setting = grid.description(self._setting, tuple(self.tried))
        baseline = _compared(self.baseline, self.metric)
        text = f"{self.metric} {self.mean:.4f}{spread} on the dev rows ({setting}{baseline})"
        name = self.default_metric
        if name != self.metric:
            mean = statistics.fmean(seed.metrics[name] for seed in self.seeds)
            text += f", {name} {mean:.4f}{_compared(self.baseline, name, ' ({})')}"
        tests = [seed.test_metrics for seed in self.seeds if seed.test_metrics is not None]
        names = [name for name in dict.fromkeys((self.metric, name)) if tests and name in tests[0]]
        scores = [
            f"{name} {statistics.fmean(test[name] for test in tests):.4f}"
            f"{_compared(self.test_baseline, name, ' ({})')}"
            for name in names
        ]
        return f"{text}; on the test rows {', '.join(scores)}." if scores else f"{text}."

    def lines(self) -> list[str]:
        """Returns the table of the grid and the notes, if there are any, and the sentence."""
        table = []
        if len(self.tried) > 1 and not self.stopped:
            table = grid.table(self.tried, self.metric, self._setting)
        notes: dict[str, list[str]] = {}
        for name, note in self.notes.items():
            notes.setdefault(note, []).append(name)
        explained = [f"{', '.join(names)}: {note}." for note, names in notes.items()]
        return [*table, *explained, self.sentence()]

    @property
    def _setting(self) -> Setting:
        return Setting(self.learning_rate, self.batch_size, self.epochs)


def _compared(baseline: Baseline | None, metric: str, form: str = "; {}") -> str:
    """Returns words for a metric of a baseline, if it has the metric."""
    if baseline is None or metric not in baseline.scores:
        return ""
    return form.format(f"{baseline.description}: {baseline.scores[metric]:.4f}")


def summarize(
    task: Task,
    setting: Setting,
    tried: Mapping[Setting, SeedResult],
    seeds: Sequence[SeedResult],
    workdir: str,
    export: str | None,
) -> FinetuneResult:
    """Combines the results of the seeds."""
    scores = [seed.metrics[task.metric] for seed in seeds]
    return FinetuneResult(
        metric=task.metric,
        mean=statistics.fmean(scores) if scores else float("nan"),
        median=statistics.median(scores) if scores else float("nan"),
        deviation=statistics.stdev(scores) if len(scores) > 1 else 0.0,
        **setting._asdict(),
        tried={each: done.metrics[task.metric] for each, done in tried.items()},
        seeds=tuple(seeds),
        labels=task.labels,
        baseline=task.baseline,
        test_baseline=task.test_baseline,
        default_metric=task.metrics[0],
        notes=task.notes,
        workdir=workdir,
        export=export,
        stopped=export is None,
    )

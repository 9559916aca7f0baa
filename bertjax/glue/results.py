"""Results of GLUE: medians over seeds, beside published ones."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from bertjax.finetune.results import FinetuneResult
from bertjax.glue.benchmark import GlueTask
from bertjax.glue.published import HUGGING_FACE, PAPER

MNLI_START = ", from MNLI"
"""End of the name of a task that started from the model of MNLI."""


class Score(NamedTuple):
    """A metric of a task over the seeds, as a share of 1."""

    task: str
    metric: str
    median: float
    deviation: float
    """Standard deviation (n - 1); 0 for one seed."""
    seeds: tuple[float, ...]
    baseline: float | None
    """The same metric of a rule that learns nothing."""
    setting: str
    """Learning rate, batch size and epochs."""


@dataclasses.dataclass(frozen=True)
class GlueResult:
    """The result of a run of GLUE."""

    scores: tuple[Score, ...]
    """Metrics of the finished tasks on the dev rows."""
    missing: dict[str, str]
    """Tasks that were skipped, and what is missing."""
    workdir: str
    """The run directory."""
    submission: str | None
    """The zip for the leaderboard; None if a signal stopped the run."""
    filled: tuple[str, ...]
    """Files of the zip that no model answered."""
    stopped: bool
    """Whether a signal stopped the run. The same command resumes it."""

    def mean(self) -> tuple[float, int] | None:
        """Returns the mean over tasks of the mean of their metrics, and the number of tasks.

        As the leaderboard, it takes both sets of MNLI as one task; as the paper, it leaves out
        WNLI. Tasks that started from MNLI do not count.
        """
        by_task: dict[str, list[float]] = {}
        for score in self.scores:
            if score.task != "WNLI" and not score.task.endswith(MNLI_START):
                by_task.setdefault(score.task.removesuffix("-mm"), []).append(score.median)
        if not by_task:
            return None
        return statistics.fmean(map(statistics.fmean, by_task.values())), len(by_task)

    def sentence(self) -> str:
        """Returns the result in one sentence."""
        if self.stopped:
            return "Stopped; the same command resumes."
        mean = self.mean()
        text = f"Mean of {mean[1]} tasks on the dev rows: {100 * mean[0]:.1f}" if mean else "Done"
        skipped = f"; skipped: {', '.join(self.missing)}" if self.missing else ""
        return f"{text}{skipped}."

    def table(self) -> list[str]:
        """Returns lines of text: each metric beside published ones, in percent."""
        head = ("task", "metric", "median", "±", "seeds", "baseline", "setting", *_PUBLISHED)
        rows: list[tuple[str, ...]] = [head]
        for score in self.scores:
            numbers = (score.median, score.deviation, len(score.seeds), score.baseline)
            median, deviation, seeds, baseline = numbers
            rows.append(
                (
                    *(score.task, score.metric, f"{100 * median:.2f}"),
                    f"{100 * deviation:.2f}" if seeds > 1 else "",
                    str(seeds),
                    "" if baseline is None else f"{100 * baseline:.2f}",
                    score.setting,
                    *(_shown(each, score) for each in (PAPER, HUGGING_FACE)),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))
        return [
            f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
            for row in rows
        ]

    def lines(self) -> list[str]:
        """Returns the table, what was filled, and the sentence."""
        if self.stopped:
            return [self.sentence()]
        filled = f"No model answered {', '.join(self.filled)} of the submission: all their rows "
        told = [f"{filled}have one answer."] if self.filled else []
        return [*self.table(), *told, self.sentence()]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as JSON values."""
        scores = [score._asdict() for score in self.scores]
        return {**dataclasses.asdict(self), "scores": scores}


_PUBLISHED = ("BERT-base, paper (test)", "bert-base-cased, Hugging Face (dev)")


def _shown(published: dict[tuple[str, str], float], score: Score) -> str:
    value = published.get((score.task, score.metric))
    return "" if value is None else f"{value}"


def scores_of(task: GlueTask, result: FinetuneResult, suffix: str = "") -> list[Score]:
    """Returns the metrics of a finished task, and those of its second dev file."""
    setting = f"{result.learning_rate:g}, {result.batch_size}, {result.epochs}"
    sets = [("", [seed.metrics for seed in result.seeds], result.baseline)]
    tests = [seed.test_metrics for seed in result.seeds if seed.test_metrics is not None]
    if tests:
        sets.append(("-mm", tests, result.test_baseline))
    found = []
    for end, metrics, baseline in sets:
        for name in task.metrics:
            values: Sequence[float] = [each[name] for each in metrics]
            found.append(
                Score(
                    f"{task.name}{end}{suffix}",
                    name,
                    statistics.median(values),
                    statistics.stdev(values) if len(values) > 1 else 0.0,
                    tuple(values),
                    baseline.scores.get(name) if baseline else None,
                    setting,
                )
            )
    return found

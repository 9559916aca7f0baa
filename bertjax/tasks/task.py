"""What fine-tuning needs to know of a kind of task."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertjax.errors import UserError

LESS_IS_BETTER = ("loss",)
"""Metrics of which the least is the best; of all others it is the most."""


class Examples(Protocol):
    """The rows of one file, as the model reads them."""

    def __len__(self) -> int:
        """Rows N."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row, by which batches get their width."""
        ...

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """The rows `indices` [B] padded to `width` tokens: what the model and the loss read, and
        example_weight float32 [B]; -1 stands for a row of weight 0.
        """
        ...


class Head(NamedTuple):
    """What of a task is compiled: hashable, and equal for equal tasks, so that the programs of one
    run are those of the next."""

    kind: str
    """One of `bertjax.model.heads.TASK_PARTS`: the parts on top of the encoder, how the model is
    called, and what the export says it does."""
    outputs: int
    """Columns of the last layer."""
    loss: Callable
    """A loss of `bertjax.objectives.losses`: (params, batch, config, *, weights, execution,
    dropout_key) -> (loss, metrics as (sum, weight)); a metric `accuracy` is shown in training."""
    normalizers_fn: Callable
    """Its normalisers: batch -> weights."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What comes without a model: beside it the main metric is judged."""

    name: str
    """In a line of metrics."""
    said: str
    """In a sentence."""
    score: float
    """Its main metric on the dev rows."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of task with its rows read: all that fine-tuning has to know of it."""

    head: Head
    """What is compiled."""
    train: Examples
    """The rows to train on."""
    dev: Examples
    """The rows to evaluate on."""
    test: Examples | None
    """The rows to evaluate at the end."""
    data_hash: str
    """SHA-256 of what is trained on."""
    dev_hash: str
    """SHA-256 of what is evaluated on."""
    max_seq_length: int
    """Most tokens of a row."""
    metric: str
    """The main metric: it chooses between evaluations, settings and seeds."""
    metrics: tuple[str, ...]
    """Names of what `scores` gives and may choose, the task's own main metric first."""
    scores: Callable[[Any, Iterable[tuple[np.ndarray, np.ndarray]]], dict[str, float]]
    """(the examples; row numbers [n] and the model's outputs for them [n, ...], batch by batch,
    every row once) -> metrics, the main one among them."""
    immutable: Mapping[str, Any]
    """Settings that a resumed run can't change: `objective`, and all that affect training."""
    fields: Callable[[Mapping[str, float]], Mapping[str, Any]]
    """Metrics of a seed on the dev rows -> what its export says of the task beside the kind: what
    predicting has to know."""
    labels: tuple[str, ...] = ()
    """Names of the outputs, where they have names."""
    test_scores: (
        Callable[
            [Mapping[str, float], Any, Iterable[tuple[np.ndarray, np.ndarray]]], dict[str, float]
        ]
        | None
    ) = None
    """As `scores`, for the test rows, of which nothing may be chosen: after a seed's metrics on the
    dev rows, which may decide something. None: `scores`."""
    baseline: Baseline | None = None
    """What to compare the main metric with."""
    shown: tuple[str, ...] = ("loss",)
    """Metrics that the line of an evaluation shows beside the main one, if they are there."""

    @property
    def less_is_better(self) -> bool:
        """Of the main metric."""
        return self.metric in LESS_IS_BETTER

    def judged_by(self, metric: str) -> "Task":
        """The same task with another main metric, which nothing is known to compare with.

        Raises:
            UserError: `scores` gives no such metric.
        """
        if metric == self.metric:
            return self
        if metric not in self.metrics:
            raise UserError(
                f"best_metric is {metric!r}, which this task has not: give one of "
                f"{', '.join(self.metrics)}."
            )
        return dataclasses.replace(self, metric=metric, baseline=None)

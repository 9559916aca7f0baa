"""The protocol of a kind of task: all that fine-tuning, evaluation and prediction know of it.

A kind is a `TaskKind`. Its `read` turns labeled files into a `Task`, which is trained. Its
`predictor` turns a trained model into a `Predictor`, which answers inputs and scores files.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.model.flops import task_flops
from bertjax.tasks.batches import Width
from bertjax.tasks.report_tables import ReportTable

if TYPE_CHECKING:
    from bertjax.objectives.distillation import SoftLoss
    from bertjax.text.tokenizer import Tokenizer

MINIMIZED = ("loss", "nll_loss", "mae")
"""Metrics whose lowest value is the best. The highest value of every other metric is the best."""

Outputs = Iterable[tuple[np.ndarray, Any]]
"""Row numbers [n] and the model's outputs for these rows, a tree of arrays [n, ...], batch by
batch, each row once."""

Scores = dict[str, float]
"""Metrics by name."""


class Features(Protocol):
    """The N tokenized rows of one file or of one call of `predict`."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row. int64 [N, W]: tokens of each of the W sequences of a row,
        which are padded to widths of their own. A row of several sequences of one width gives its
        longest one."""
        ...

    def batch(self, indices: np.ndarray, width: Width) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens.

        Args:
            indices: int [B], the rows to take. -1 is a padding row: any tokens, weight 0.
            width: tokens T per sequence, at least the longest of these rows; a tuple of W such
                numbers if `lengths` is [N, W].

        Returns:
            All inputs of the model and the loss, with B rows each; example_weight is float32 [B].
        """
        ...


Run = Callable[[Features], Outputs]
"""Runs a trained model over rows."""


class Head(NamedTuple):
    """The part of a task that is compiled. Equal tasks have equal heads and share programs."""

    name: str
    """A key of `bertjax.model.heads.TASK_PARTS`, which lists the parts on top of the encoder;
    exports store it as "kind"."""
    outputs: int
    """Columns of the last layer."""
    loss: Callable
    """A `bertjax.objectives.losses.ModelLoss`; with `outputs_fn` a function of outputs."""
    normalizers_fn: Callable
    """Its normalizers: batch -> {name: float32 []}."""
    forward: Callable[..., Any] = bert.task_logits
    """(params, inputs, config, name, *, execution) -> outputs in evaluation and prediction, a tree
    of arrays [B, ...]. Its inputs are all arrays of `Features.batch`. A kind that writes text
    generates here. It is hashable, because it is compiled."""
    init_params: Callable[..., dict] = bert.init_task_params
    """(config, key, name, outputs, *, whole) -> random parameters, of the whole model or at least
    those that `Task.start_params` does not replace."""
    flops: Callable[..., int] = task_flops
    """(config, name, outputs, *lengths) -> floating-point operations of the forward pass of one
    row, whose sequences have these lengths."""
    outputs_fn: Callable[..., Any] | None = None
    """For a loss of several rows at once: (params, batch, config, *, execution, dropout_key,
    sample_key) -> outputs [B, ...] of each row alone; `loss` is then a function of these outputs,
    as `bertjax.train.step.Loss.outputs_fn` describes."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The metrics of a rule that learns nothing."""

    name: str
    """Its name in a line of metrics."""
    description: str
    """Its name in a sentence."""
    scores: Scores
    """Its metrics."""


def encoder_params(params: dict, model: "TrainedModel") -> dict:
    """Replaces the encoder, and what both have before a classifier, by the model's."""
    theirs = model.params
    found = {name: theirs[name] for name in ("embeddings", "encoder")}
    for part in {"pooler", "token_head"} & params.keys():
        if part in theirs:
            found[part] = theirs[part]
        elif "transform" in params[part] and "mlm" in theirs:
            # The masked LM and a ModernBERT's classifiers read the same head, as in transformers.
            found[part] = {name: theirs["mlm"][name] for name in params[part]}
    return {**params, **found}


@dataclasses.dataclass(frozen=True)
class Task:
    """The files of a fine-tuning run, read and tokenized, and what depends on their labels."""

    head: Head
    """The compiled part."""
    train: Features
    """Training rows."""
    dev: Features
    """Rows that are evaluated during training and at the end of a seed."""
    test: Features | None
    """Rows that are evaluated once, at the end of a seed."""
    data_hash: str
    """SHA-256 of the training examples."""
    dev_hash: str
    """SHA-256 of the dev examples."""
    metric: str
    """The main metric. It chooses between evaluations, settings and seeds."""
    metrics: tuple[str, ...]
    """Metrics of `scores` that may be the main one; the default comes first."""
    scores: Callable[[Any, Outputs], Scores]
    """(features, outputs) -> metrics."""
    immutable: Mapping[str, Any]
    """Settings that a resumed run can't change, beside `TaskKind.immutable`: all that decides what
    is learned."""
    export: Callable[[Scores], Mapping[str, Any]]
    """Metrics of a seed on the dev rows -> what its export records for the predictor. There are no
    metrics for the checkpoints of a run that has not ended."""
    config: Any = None
    """Shape of the trained model, if it is not that of the model that fine-tuning starts from."""
    start_params: Callable[[dict, "TrainedModel"], dict] = encoder_params
    """(random parameters, the model) -> parameters before the first step."""
    decoder_tokenizer: "Tokenizer | None" = None
    """Tokenizer of what the model writes, if it is not that of what it reads."""
    sequence_lengths: np.ndarray | None = None
    """int64 [M]: tokens of each sequence of the training rows, if a row has several of one width.
    None: `train.lengths` has them all."""
    dev_sample: Features | None = None
    """Rows that are evaluated during training instead of all `dev` rows."""
    labels: tuple[str, ...] = ()
    """Names of the outputs, if they have names."""
    test_scores: Callable[[Scores, Any, Outputs], Scores] | None = None
    """(metrics on the dev rows, features, outputs) -> metrics on the test rows, for kinds that
    tune a threshold on the dev rows. None: `scores`."""
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Metrics -> how they are computed, such as sacreBLEU's signature, where the name alone does
    not tell."""
    report_tables: Callable[[Outputs], Sequence[ReportTable]] | None = None
    """Outputs for the dev rows -> what reports show of them beside the metrics."""
    baseline: Baseline | None = None
    """Rule that the metrics on the dev rows are compared with."""
    test_baseline: Baseline | None = None
    """The same for the test rows."""
    train_metrics: tuple[str, ...] = ("accuracy",)
    """Metrics of the loss that training lines show."""
    dev_metrics: tuple[str, ...] = ("loss",)
    """Metrics that evaluation lines show beside the main one."""
    min_batch_rows: int = 1
    """Minimum rows of a step."""
    vectors: Mapping[str, Any] | None = None
    """For a model that is trained to give vectors of texts, how it makes them: "pooling", its name;
    "normalize", whether vectors are scaled to length 1; "lowercase", whether texts are lower-cased
    first. Its export has the files of sentence-transformers that say so."""
    figures: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Metrics that share figures of a report: name -> (title of the figure, words for its curve).
    """

    @property
    def best_mode(self) -> Literal["min", "max"]:
        """Whether "min" or "max" of the main metric is the best."""
        return best_mode(self.metric)

    def judged_by(self, metric: str) -> "Task":
        """Returns the task with `metric` as its main metric.

        Raises:
            UserError: `scores` gives no such metric.
        """
        if metric not in self.metrics:
            raise UserError(
                f"`best_metric` is {metric!r}, which this task does not have: give one of "
                f"{', '.join(self.metrics)}."
            )
        return dataclasses.replace(self, metric=metric)


class TaskFiles(NamedTuple):
    """The files of a run, and how a kind reads them."""

    train: str
    """Path of the training file."""
    dev: str
    """Path of the dev file."""
    test: str | None
    """Path of the test file."""
    model: "TrainedModel"
    """The model that fine-tuning starts from."""
    max_seq_length: int
    """Maximum tokens of a sequence."""
    log: Callable[[str], None]
    """Takes one line at a time."""
    load: Callable[[str], "TrainedModel"]
    """Loads another model: a directory, or a name on the hub."""

    @property
    def tokenizer(self) -> "Tokenizer":
        """Tokenizer of the model."""
        return self.model.tokenizer

    @property
    def paths(self) -> list[str]:
        """The files in order: train, dev and, if there is one, test."""
        return [path for path in (self.train, self.dev, self.test) if path]


class TrainedModel(Protocol):
    """A trained model, such as `bertjax.interop.huggingface.Pretrained`."""

    config: Any
    """A `BertConfig`, or an `EncoderDecoderConfig`."""
    params: dict
    tokenizer: "Tokenizer"
    decoder_tokenizer: "Tokenizer | None"
    task: dict[str, Any] | None
    """The record of the export: "kind", the name of its head, and the fields of `Task.export`."""
    sentence_modules: Any
    """None, or a `bertjax.interop.sentence_transformers.SentenceModules`: how the model makes the
    vector of a text."""

    @property
    def kind(self) -> str:
        """The name of its head."""
        ...

    @property
    def shapes(self) -> dict:
        """The parameters, or what has their shapes, if they are not read yet."""
        ...


class Predictor(Protocol):
    """Answers inputs of one kind with a trained model."""

    forward: Callable[..., Any]
    """Computes the outputs, as `Head.forward` does."""
    max_seq_length: int
    """Maximum tokens of a sequence."""

    @property
    def chunk_lines(self) -> int | None:
        """Lines to read before the first answer; None: the default."""
        ...

    @property
    def max_line(self) -> int | None:
        """Maximum characters of a line, or None."""
        ...

    def parse_line(self, line: str, where: str) -> Any:
        """Reads one input from a line of text that is not blank.

        `where` names the line in errors. Raises a UserError if `predict` could not answer the line,
        so that the lines beside it have answers.
        """
        ...

    def predict(
        self, inputs: Sequence[Any], run: Run, *, where: Callable[[int], str] | None = None
    ) -> list[dict[str, Any]]:
        """Answers inputs, each with a dict of JSON values.

        Args:
            inputs: raw text in the form of this kind, at least one.
            run: runs the model.
            where: index of an input -> its name in errors.
        """
        ...

    def evaluate(self, path: epath.PathLike, run: Run) -> Mapping[str, Any]:
        """Scores every row of a labeled file.

        Returns:
            The number of "examples", the metrics, and "notes" on them if there are any, as in
            `Task.notes`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The task has no options here."""


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """A kind of task."""

    options: type
    """The options of training: a frozen dataclass whose class variable `kind` is the name of the
    kind, and whose field docstrings are the help texts."""
    heads: tuple[str, ...]
    """Heads whose models it answers for, if their exports do not name a kind."""
    max_seq_length: int
    """Default maximum tokens of a sequence; the positions of the model limit it."""
    read: Callable[[Any, TaskFiles], Task]
    """(options, files) -> task."""
    predictor: Callable[[TrainedModel, Any], Predictor]
    """(model, options) -> predictor. The options are a `prediction` if it answers inputs, and an
    `evaluation` if it scores a file."""
    prediction: type = NoOptions
    """A dataclass: the options of answering inputs, all with defaults."""
    evaluation: type = NoOptions
    """A dataclass: the options of scoring a file, all with defaults."""
    defaults: Callable[[type, TrainedModel], Any] = lambda options, model: options()
    """(a `prediction` or `evaluation`, model) -> its defaults for this model."""
    immutable: Callable[[Any], Mapping[str, Any]] = lambda options: {}
    """Options -> those that a resumed run can't change; they are compared before files are read."""
    next_verb: str = "predict"
    """The verb that reads lines with a trained model."""
    unrecorded: tuple[str, ...] = ()
    """Names of training options that exports do not record, so that `evaluate` needs them again."""
    soft_losses: "Mapping[str, SoftLoss]" = dataclasses.field(default_factory=dict)
    """Name of a head -> the loss against a teacher's outputs [B, C] or [B, T, C]. The loss of such
    a head is a `bertjax.objectives.losses.model_loss`. Empty: the kind can't be distilled."""

    @property
    def name(self) -> str:
        """The name of the kind, as the option `task` takes it."""
        return self.options.kind


def best_mode(metric: str) -> Literal["min", "max"]:
    """Returns whether "min" or "max" of a metric is the best."""
    return "min" if metric in MINIMIZED else "max"


def data_hash(values: Any) -> str:
    """Returns the SHA-256 of JSON values that may hold arrays."""
    text = json.dumps(values, default=lambda array: array.tolist())
    return hashlib.sha256(text.encode()).hexdigest()


def trained_length(model: TrainedModel, default: int | None = None) -> int:
    """Returns the maximum tokens of a sequence that a model reads.

    Args:
        model: its export may record `max_seq_length`.
        default: the value for exports that do not; None: all positions.
    """
    positions = model.config.max_position_embeddings
    recorded = (model.task or {}).get("max_seq_length")
    if isinstance(recorded, int) and recorded > 3:
        return min(recorded, positions)
    return positions if default is None else min(default, positions)

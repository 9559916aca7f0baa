"""Fine-tuning: files of a task -> several seeds of one recipe -> metrics, and the best's export."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from etils import epath

from bertjax.config import Execution
from bertjax.errors import Stopped, UserError, refuse_unknown
from bertjax.finetune import grid
from bertjax.finetune.grid import Setting
from bertjax.model.initializers import InitializationConfig
from bertjax.tasks.question_answering.predictions import QuestionAnsweringConfig
from bertjax.tasks.task import Baseline
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.telemetry.trackers import TelemetryConfig

if TYPE_CHECKING:
    from bertjax.finetune.trainer import SeedTrainer
    from bertjax.interop.huggingface import Pretrained

Log = Callable[[str], None]

_Task = Literal["classification", "question_answering"]
_LongDocuments = Literal["cut", "windows"]
_WindowLogits = Literal["mean", "max"]
_Select = Literal["last", "best"]
_CHOICES = {
    "task": _Task,
    "long_documents": _LongDocuments,
    "window_logits": _WindowLogits,
    "select": _Select,
}


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a model on labelled rows of a .tsv, .csv or .jsonl file, or on the questions of a
    .json file in SQuAD's format."""

    model: str
    """Run directory, export, model in Hugging Face's layout, TF1 checkpoint, or name on the hub."""
    train: str
    """Rows, or questions, to train on."""
    dev: str
    """Rows, or questions, to evaluate on; never trained on."""
    workdir: str = "runs/finetune"
    """Directory of this run; the same command again resumes it."""
    test: str | None = None
    """Rows that are evaluated once, at the end of every seed, and choose nothing."""
    task: _Task = "classification"
    """classification: labels of texts (or numbers, with regression); question_answering: spans of
    documents, or that there is no answer, as in SQuAD 1.1 and 2.0."""
    text_column: str = "text"
    """Column of the text."""
    pair_column: str | None = None
    """Column of the second text, for pairs."""
    label_column: str = "label"
    """Column of the label, or of the number to predict; for multi_label of all labels of a text,
    with label_separator between them, empty for none."""
    column_names: tuple[str, ...] = ()
    """Names of all columns, for TSV and CSV files without a header."""
    regression: bool = False
    """Predict a number instead of a label."""
    multi_label: bool = False
    """A text has any number of labels, none included: each is a yes or no of its own, and a yes
    where its probability is at least 0.5."""
    label_separator: str = "|"
    """Stands between the labels of a text in the label column, for multi_label."""
    question_answering: QuestionAnsweringConfig = dataclasses.field(
        default_factory=QuestionAnsweringConfig
    )
    """How questions and documents are cut."""
    long_documents: _LongDocuments = "cut"
    """What is done with a text longer than a row: cut: it loses its end; windows: all of it is
    read, in windows that overlap. A text's logits are then pooled from those of its windows; in
    training each window has the text's label, and together they weigh as much as one text."""
    window_overlap: int | None = None
    """Tokens that neighbouring windows share; left out: a quarter of max_seq_length."""
    window_logits: _WindowLogits = "mean"
    """How the windows' logits become the text's."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """How much the rows of a label weigh in the loss, which is their weighted mean, as in PyTorch's
    CrossEntropyLoss: labels with their weights (those left out have 1), or balanced: every label
    weighs the same in all, whatever its number of training rows. Metrics of dev and test rows are
    not weighted."""
    from_scratch: bool = False
    """Start from random weights of the same shape: what pre-training is compared with."""
    initialization: InitializationConfig = dataclasses.field(default_factory=InitializationConfig)
    """First values of these random weights, as pre-training has them."""
    seeds: tuple[int, ...] = (0,)
    """One run each; a seed fixes the new head, the dropout and the order of the rows."""
    epochs: int = 3
    """Times that every row is seen."""
    batch_size: int = 32
    """Rows a step, over all devices."""
    group_by_length: bool = False
    """Rows of like length share a step: less padding, at the price of batches that are less random
    (the option of Hugging Face's Trainer)."""
    max_seq_length: int | None = None
    """Most tokens of a row; longer ones lose their end, and a document gets several windows. None:
    128; for question answering 384, or the model's positions if they are fewer."""
    learning_rates: tuple[float, ...] | None = None
    """Try these with the first seed and keep the best on the dev rows for all seeds; left out:
    optimizer.learning_rate. With batch_sizes and epoch_counts every combination is tried: the
    paper's grid (A.3) is 5e-5 3e-5 2e-5 with 16 32 and 2 3 4."""
    batch_sizes: tuple[int, ...] | None = None
    """Try these as well; left out: batch_size."""
    epoch_counts: tuple[int, ...] | None = None
    """Try these numbers of epochs as well; left out: epochs."""
    warmup_proportion: float = 0.1
    """Share of the steps that warm up, unless optimizer.warmup_steps says how many."""
    select: _Select = "last"
    """last: report the weights after the last step; best: those of the best evaluation on the dev
    rows, which makes the dev metric optimistic."""
    best_metric: str | None = None
    """Metric of the dev rows by which an evaluation, a setting of the grid or a seed is the best;
    of loss less is better. Left out: accuracy; spearman for regression, micro_f1 for several labels
    a text, f1 for questions."""
    patience: int = 0
    """End a seed early after so many evaluations in a row that were not its best; 0: never. With
    select best its weights are those of the best one."""
    eval_every: int = 0
    """Steps between two evaluations; 0: once an epoch."""
    save_every: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    accumulation: int = 1
    """Parts that a batch is computed in, to save memory."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5)
    )
    """Optimizer and schedule."""
    telemetry: TelemetryConfig = dataclasses.field(default_factory=TelemetryConfig)
    """Where metrics go, and what is looked at."""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    """Train low-rank adapters instead of the encoder."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """How devices share the work."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    """How to compute."""
    fresh: bool = False
    """Start beside the run that is in workdir, in workdir-2 (-3, ...); nothing is deleted."""

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            refuse_unknown(name, getattr(self, name), get_args(kind))
        for name in ("epochs", "batch_size", "save_every", "log_every", "accumulation"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1.")
        for name in ("eval_every", "patience"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 0.")
        if self.max_seq_length is not None and self.max_seq_length < 4:
            raise UserError(f"max_seq_length is {self.max_seq_length}: give at least 4.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {self.seeds}: give at least one, and each only once.")
        if min(self.seeds) < 0 or max(self.seeds) >= 2**31:
            raise UserError(f"seeds are {self.seeds}: give whole numbers from 0 to 2147483647.")
        grid.check_axes(self)
        if not 0 <= self.warmup_proportion < 1:
            raise UserError(
                f"warmup_proportion is {self.warmup_proportion}: give at least 0 and less than 1."
            )
        if self.lora.rank and self.from_scratch:
            raise UserError("lora.rank needs a trained encoder: leave out from_scratch.")
        if self.multi_label and self.regression:
            raise UserError("regression is of numbers and multi_label of labels: give one of them.")
        if isinstance(self.class_weights, str):
            refuse_unknown("class_weights", self.class_weights, ("balanced",))
        if self.class_weights is not None and (self.regression or self.multi_label):
            raise UserError("class_weights are of labels, one of them a text: leave them out.")
        self._check_windows()
        if not self.label_separator:
            raise UserError("label_separator is empty: give what stands between two labels.")
        if not self.multi_label and self.label_separator != "|":
            raise UserError("label_separator is of several labels a text: give --multi-label too.")
        for size in self.batch_sizes or (self.batch_size,):
            if size % self.accumulation:
                raise UserError(
                    f"accumulation {self.accumulation} does not divide batch_size {size}."
                )
        self._refuse_options_of_other_tasks()

    def _check_windows(self) -> None:
        if self.long_documents == "windows":
            if self.pair_column:
                raise UserError("long_documents windows is for one text a row: leave out a pair.")
            if self.window_overlap is not None and self.window_overlap < 0:
                raise UserError(f"window_overlap is {self.window_overlap}: give at least 0.")
        elif self.window_overlap is not None or self.window_logits != "mean":
            raise UserError(
                "window_overlap and window_logits are of windows: give --long-documents windows."
            )

    def _refuse_options_of_other_tasks(self) -> None:
        for task, names in _OPTIONS.items():
            for name in names:
                if task != self.task and getattr(self, name) != _default(name):
                    raise UserError(
                        f"{name} is for the task {task}, and task is {self.task}: leave one out."
                    )

    def row_length(self, positions: int) -> int:
        """Most tokens of a row of a model with so many positions.

        Raises:
            UserError: max_seq_length is longer.
        """
        length = self.max_seq_length
        if length is None:
            length = 128 if self.task == "classification" else min(384, positions)
        if length > positions:
            raise UserError(
                f"max_seq_length {length} is longer than the model's {positions} positions: give "
                f"at most {positions}."
            )
        return length


_OPTIONS = {
    "classification": (
        *("text_column", "pair_column", "label_column", "column_names", "regression"),
        *("multi_label", "label_separator", "class_weights"),
        *("long_documents", "window_overlap", "window_logits"),
    ),
    "question_answering": ("question_answering",),
}
"""Options that only one task reads."""


def _default(name: str) -> Any:
    (field,) = (each for each in dataclasses.fields(FinetuneConfig) if each.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


class SeedResult(NamedTuple):
    """What one seed came to."""

    seed: int
    learning_rate: float
    batch_size: int
    epochs: int
    metrics: dict[str, float]
    """On the dev rows."""
    test_metrics: dict[str, float] | None
    """On the test rows, if there are any."""
    workdir: str


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning run came to."""

    metric: str
    """The main metric: best_metric, or else the first of the task's."""
    mean: float
    """Of the main metric over the seeds, on the dev rows."""
    median: float
    """The same."""
    deviation: float
    """Its standard deviation over the seeds (n - 1); 0 for one seed."""
    learning_rate: float
    """The learning rate of all seeds."""
    batch_size: int
    """Rows a step, of all seeds."""
    epochs: int
    """Times that all seeds saw every row."""
    tried: dict[Setting, float]
    """The settings that were compared with the first seed: the main metric on the dev rows."""
    seeds: tuple[SeedResult, ...]
    """In the order of the configuration; those that were finished, if the run stopped early."""
    labels: tuple[str, ...]
    """Names of the labels; empty where there are none."""
    baseline: Baseline | None
    """What comes without a model: the commonest label's share of the dev rows, say."""
    workdir: str
    """The run directory; with `fresh` it may be another than the one named."""
    export: str | None
    """Directory of the best seed's model; None if the run stopped early."""
    stopped: bool
    """Ended early by a signal; the same command resumes."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        seeds = [seed._asdict() for seed in self.seeds]
        tried = [{**each._asdict(), self.metric: score} for each, score in self.tried.items()]
        return {**dataclasses.asdict(self), "seeds": seeds, "tried": tried}

    def sentence(self) -> str:
        """The result in one sentence."""
        if self.stopped:
            return f"Stopped after {len(self.seeds)} finished seeds, to be resumed."
        spread = ""
        if len(self.seeds) > 1:
            spread = (
                f" ± {self.deviation:.4f} over {len(self.seeds)} seeds (median {self.median:.4f})"
            )
        baseline = (
            "" if self.baseline is None else f"; {self.baseline.said}: {self.baseline.score:.4f}"
        )
        return (
            f"{self.metric} {self.mean:.4f}{spread} on the dev rows "
            f"({grid.said(self._setting, tuple(self.tried))}{baseline})."
        )

    @property
    def _setting(self) -> Setting:
        return Setting(self.learning_rate, self.batch_size, self.epochs)


def finetune(
    config: FinetuneConfig,
    log: Log,
    *,
    model: "Pretrained | None" = None,
    progress: bool | None = None,
) -> FinetuneResult:
    """Fine-tunes every seed, reports their metrics and exports the best one.

    The head is always new. workdir/seed-N/ is the run directory of a seed (below
    workdir/learning-rate-X/, workdir/learning-rate-X-batch-size-Y/, ... where several are tried);
    workdir/export/ holds the model of the seed with the best main metric on the dev rows. What is
    finished is not trained again.

    Args:
        config: what, on what, how.
        log: is given one line at a time.
        model: what `config.model` names, if it is loaded already.
        progress: show a bar; by default where there is a terminal.

    Raises:
        UserError: something is wrong with the model, the files or the configuration.
    """
    # What follows is heavy; this module has to be quick to import, for `--help`.
    import jax

    from bertjax.data.prepare.workers import stop_on_signals
    from bertjax.finetune.read_task import read_task
    from bertjax.finetune.trainer import SeedTrainer
    from bertjax.interop.huggingface import from_pretrained
    from bertjax.train.checkpoint.orbax_storage import told_by_first_process

    log = told_by_first_process(log)
    model = from_pretrained(config.model) if model is None else model
    model.tokenizer.files(export=True)  # what the export would refuse after the last step
    task = read_task(config, model, log)
    if config.best_metric is not None:
        task = task.judged_by(config.best_metric)
    trainer = SeedTrainer(config, model, task, log, progress)
    trainer.write_config(again=False)
    settings = grid.settings(config)
    setting, better = settings[0], min if task.less_is_better else max
    tried: dict[Setting, SeedResult] = {}
    results: list[SeedResult] = []
    export = None
    # Training has its own way to stop; this is for the time between two seeds and for scoring. In
    # several processes a handler of ours would take the signal from JAX's.
    signals = stop_on_signals() if jax.process_count() == 1 else contextlib.nullcontext()
    with contextlib.suppress(Stopped), signals:
        for each in settings:
            tried[each] = trainer.train(config.seeds[0], each)
        setting = better(tried, key=lambda each: tried[each].metrics[task.metric])
        if len(settings) > 1:
            log(f"The best on the dev rows is {grid.said(setting, settings)}.")
        results.append(tried[setting])
        for seed in config.seeds[1:]:
            results.append(trainer.train(seed, setting))
        export = trainer.export()
    return _result(trainer, setting, tried, results, export)


def _result(
    trainer: "SeedTrainer",
    setting: Setting,
    tried: Mapping[Setting, SeedResult],
    seeds: Sequence[SeedResult],
    export: epath.Path | None,
) -> FinetuneResult:
    """Puts the result together, says it, and writes it to workdir/result.json."""
    metric = trainer.task.metric
    scores = [seed.metrics[metric] for seed in seeds]
    result = FinetuneResult(
        metric=metric,
        mean=statistics.fmean(scores) if scores else float("nan"),
        median=statistics.median(scores) if scores else float("nan"),
        deviation=statistics.stdev(scores) if len(scores) > 1 else 0.0,
        **setting._asdict(),
        tried={each: done.metrics[metric] for each, done in tried.items()},
        seeds=tuple(seeds),
        labels=trainer.task.labels,
        baseline=trainer.task.baseline,
        workdir=str(trainer.workdir),
        export=None if export is None else str(export),
        stopped=export is None,
    )
    if export is not None:
        trainer.write_config(again=True)  # a resumed run may have changed what may change
        trainer.write_result(result)
    if len(tried) > 1 and export is not None:
        for line in grid.table(result.tried, metric, setting):
            trainer.log(line)
    trainer.log(result.sentence())
    return result

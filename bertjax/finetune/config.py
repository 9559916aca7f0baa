"""The configuration of a fine-tuning run."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args

from bertjax.config import Execution, make_tuples
from bertjax.errors import UserError, refuse_unknown
from bertjax.finetune.grid import Setting, check_axis
from bertjax.model.initializers import InitializationConfig
from bertjax.tasks import kinds
from bertjax.tasks.task import TaskKind
from bertjax.train.hosts_config import HostsConfig
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.telemetry.trackers import TelemetryConfig

_Select = Literal["last", "best"]


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune a model on labeled files.

    The head of the task is new, or with `keep_head` that of the model. The model of the best seed
    is exported.
    """

    model: str
    """Run directory, export, model in Hugging Face's layout, TF1 checkpoint, or name on the hub.
    With `tokenizer`, the shape of a new model: tiny, mini, small, medium, base, large, a miniature
    (L-4_H-256), or a config.json."""
    train: str
    """Training file. The task says which formats it reads."""
    dev: str
    """File to evaluate on during training. It trains nothing."""
    workdir: str = "runs/finetune"
    """Run directory. The same command resumes it."""
    test: str | None = None
    """File to evaluate once, at the end of each seed. It chooses nothing."""
    task: Any = dataclasses.field(default_factory=kinds.default_options)
    """Options of the task, such as `bertjax.ClassificationConfig()`; their class is the kind."""
    tokenizer: str | None = None
    """Directory of the vocabulary of a new model; needs `from_scratch`."""
    from_scratch: bool = False
    """Start from random weights of the same shape."""
    initialization: InitializationConfig = dataclasses.field(default_factory=InitializationConfig)
    """Initialization of these random weights, as in pre-training."""
    hidden_dropout_prob: float | None = None
    """Dropout of embeddings and layers. Default: the model's, as below."""
    attention_probs_dropout_prob: float | None = None
    """Dropout of attention probabilities."""
    keep_head: bool = False
    """Start from the head of the model too. Labels start from the outputs of the same names."""
    head_labels: dict[str, str] = dataclasses.field(default_factory=dict)
    """With `keep_head`, labels and those of other names from which they start, such as
    not_entailment contradiction."""
    layers_to_keep: Sequence[int] | None = None
    """Encoder layers to keep, from 0, such as 1 3 5. Default: all."""
    teacher: str | None = None
    """Model of this task whose outputs are learned beside the labels."""
    teacher_weight: float | None = None
    """Weight of the loss against these outputs, from 0 to 1; the labels have the rest. Default:
    0.5, as in run_squad_w_distillation.py."""
    teacher_temperature: float | None = None
    """Temperature of this loss; numbers have none. Default: 2, as there."""
    seeds: Sequence[int] = (0,)
    """Seeds, one run each. A seed fixes the new head, the dropout and the order of the rows."""
    epochs: int = 3
    """Passes over the training rows."""
    batch_size: int = 32
    """Rows per step, over all devices; with `batch_tokens`, rows per batch of evaluations."""
    batch_tokens: int | None = None
    """Padded tokens per step at most, instead of rows; of several sequences in a row the longest
    counts, as with fairseq's max_tokens."""
    group_by_length: bool = False
    """Put rows of similar length into a batch: there is less padding, and batches are less random.
    """
    max_seq_length: int | None = None
    """Maximum tokens of a row. Default: by the task and the positions."""
    learning_rates: Sequence[float] | None = None
    """Learning rates to try with the first seed; the best on the dev rows is used for all seeds.
    With `batch_sizes` and `epoch_counts` every combination is tried. The paper's grid (A.3) is
    5e-5 3e-5 2e-5 with 16 32 and 2 3 4. Default: `optimizer.learning_rate`."""
    batch_sizes: Sequence[int] | None = None
    """Batch sizes to try. Default: `batch_size`."""
    epoch_counts: Sequence[int] | None = None
    """Numbers of epochs to try. Default: `epochs`."""
    warmup_proportion: float = 0.1
    """Share of the steps that warm up."""
    select: _Select = "last"
    """Weights to report and export. last: those of the last step, or a mean (see `average_last`).
    best: those of the best evaluation on the dev rows, which makes the dev metric optimistic."""
    average_last: int = 0
    """Number of checkpoints whose mean is evaluated at the end and exported: those of the last step
    and of the multiples of `save_every` before it, which are all kept. 0: the last step alone."""
    best_metric: str | None = None
    """Metric on the dev rows that chooses evaluations, settings and seeds: its highest value, or
    the lowest loss. Default: set by the task."""
    patience: int = 0
    """Number of consecutive evaluations without a new best that end a seed; 0: never."""
    eval_every: int = 0
    """Steps between evaluations; 0: one epoch."""
    save_every: int = 1000
    """Steps between checkpoints; the last step has one too."""
    log_every: int | None = None
    """Steps between lines of metrics. Default: 1/10 epoch, at most 50."""
    accumulation: int = 1
    """Microbatches per step, to save memory."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5)
    )
    """Optimizer and schedule."""
    telemetry: TelemetryConfig = dataclasses.field(default_factory=TelemetryConfig)
    """Where metrics go, and what is profiled."""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    """Low-rank adapters to train instead of the encoder."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """How devices share the work."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Several hosts that run the same command."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    """How to compute."""
    fresh: bool = False
    """Start a new run beside the one in `workdir`, in workdir-2 (-3, ...). Nothing is deleted."""

    def __post_init__(self) -> None:
        make_tuples(self)
        if not dataclasses.is_dataclass(self.task) or not hasattr(self.task, "kind"):
            raise UserError(
                f"`task` is {self.task!r}: give the options of a task, such as "
                f"{type(kinds.default_options()).__name__}()."
            )
        refuse_unknown("select", self.select, get_args(_Select))
        for name in ("epochs", "batch_size", "save_every", "log_every", "accumulation"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"`{name}` is {value}: give at least 1.")
        for name in ("eval_every", "patience"):
            if getattr(self, name) < 0:
                raise UserError(f"`{name}` is {getattr(self, name)}: give at least 0.")
        if self.max_seq_length is not None and self.max_seq_length < 4:
            raise UserError(f"`max_seq_length` is {self.max_seq_length}: give at least 4.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"`seeds` are {self.seeds}: give at least one, and each only once.")
        if min(self.seeds) < 0 or max(self.seeds) >= 2**31:
            raise UserError(f"`seeds` are {self.seeds}: give integers from 0 to 2147483647.")
        for name in ("learning_rates", "batch_sizes", "epoch_counts"):
            check_axis(name, getattr(self, name))
        if not 0 <= self.warmup_proportion < 1:
            raise UserError(
                f"`warmup_proportion` is {self.warmup_proportion}: give at least 0 and less than 1."
            )
        if self.tokenizer is not None and not self.from_scratch:
            raise UserError(
                "`tokenizer` is for a new model: set `from_scratch`, or leave it out, as a trained "
                "model has its own."
            )
        if self.keep_head and self.from_scratch:
            raise UserError("`keep_head` and `from_scratch` exclude each other: give one of them.")
        if self.head_labels and not self.keep_head:
            raise UserError("`head_labels` needs `keep_head`: give it too.")
        self._check_average()
        self._check_distillation()
        if self.batch_tokens is not None and (self.group_by_length or self.batch_sizes):
            raise UserError(
                "`batch_tokens` groups rows by length and sets their number: leave out "
                "`group_by_length` and `batch_sizes`."
            )
        if self.lora.rank and self.from_scratch:
            raise UserError("`lora.rank` needs a trained encoder: leave out `from_scratch`.")
        for size in self.batch_sizes or (self.batch_size,):
            if size % self.accumulation:
                raise UserError(
                    f"`accumulation` {self.accumulation} does not divide `batch_size` {size}."
                )

    def _check_average(self) -> None:
        if self.average_last < 0 or self.average_last == 1:
            raise UserError(f"`average_last` is {self.average_last}: give 0, or 2 and more.")
        if self.average_last and self.select == "best":
            raise UserError(
                "`average_last` averages the last checkpoints and `select` takes the best one: "
                "leave one of them out."
            )
        if self.average_last and self.optimizer.ema_decay:
            raise UserError(
                "`average_last` and `optimizer.ema_decay` are two averages of the weights: leave "
                "one of them out."
            )

    def _check_distillation(self) -> None:
        if (layers := self.layers_to_keep) is not None:
            if self.from_scratch:
                raise UserError("`layers_to_keep` needs a trained model: leave out `from_scratch`.")
            if not layers or list(layers) != sorted({layer for layer in layers if layer >= 0}):
                raise UserError(
                    f"`layers_to_keep` is {tuple(layers)}: give numbers from 0, each once and in "
                    "ascending order."
                )
        weight, temperature = self.teacher_weight, self.teacher_temperature
        if self.teacher is None:
            for name in ("teacher_weight", "teacher_temperature"):
                if getattr(self, name) is not None:
                    raise UserError(f"`{name}` needs `teacher`: give it too.")
        elif not self.kind.soft_losses:
            able = [name for name in kinds.names() if kinds.get(name).soft_losses]
            raise UserError(
                f"`teacher` is for the tasks {', '.join(able)}, and not for {self.task.kind}: "
                "leave it out."
            )
        if weight is not None and not 0 <= weight <= 1:
            raise UserError(f"`teacher_weight` is {weight}: give a number from 0 to 1.")
        if temperature is not None and not 0 < temperature < float("inf"):
            raise UserError(f"`teacher_temperature` is {temperature}: give a number above 0.")

    @property
    def kind(self) -> TaskKind:
        """The kind of task."""
        return kinds.get(self.task.kind)

    @property
    def uses_dev_rows(self) -> bool:
        """Whether the weights of a seed depend on the dev rows."""
        return self.select == "best" or self.patience > 0

    def settings(self) -> list[Setting]:
        """Returns all points of the grid, in the order in which they are tried."""
        axes = (
            self.learning_rates or (self.optimizer.learning_rate,),
            self.batch_sizes or (self.batch_size,),
            self.epoch_counts or (self.epochs,),
        )
        return list(itertools.starmap(Setting, itertools.product(*axes)))

    def dropout(self) -> dict[str, float]:
        """Returns the dropout probabilities that replace the model's."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def teaching(self) -> dict[str, float]:
        """Returns the weight and the temperature of the loss against a teacher's outputs."""
        weight, temperature = self.teacher_weight, self.teacher_temperature
        return {
            "weight": 0.5 if weight is None else weight,
            "temperature": 2.0 if temperature is None else temperature,
        }

    def row_length(self, positions: int) -> int:
        """Returns the maximum tokens of a row for a model with so many positions.

        Raises:
            UserError: max_seq_length is longer.
        """
        length = self.max_seq_length or min(self.kind.max_seq_length, positions)
        if length > positions:
            raise UserError(
                f"`max_seq_length` {length} is longer than the model's {positions} positions: give "
                f"at most {positions}."
            )
        return length

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dicts of all fields, with the kind in `task`."""
        fields = dataclasses.asdict(self)
        return {**fields, "task": {"kind": self.task.kind, **fields["task"]}}

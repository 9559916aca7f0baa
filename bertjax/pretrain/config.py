"""The configuration of pre-training; the dataclass of each component lives beside it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

from bertjax.config import BertConfig, Execution, make_tuples
from bertjax.errors import UserError, refuse_unknown
from bertjax.files import location
from bertjax.model.initializers import InitializationConfig
from bertjax.objectives.masking import MaskingConfig
from bertjax.objectives.options import ObjectiveName, ObjectiveOptions
from bertjax.train.hosts_config import HostsConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.telemetry.trackers import TelemetryConfig

_BIASES = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of the model: a named size or a config.json, and values that override it."""

    size: str = "mini"
    """tiny, mini, small, medium, base, large, modern-tiny ... modern-large, L-4_H-256 and its like,
    or a config.json."""
    hidden_size: int | None = None
    """Width D. Default: the size's own value, as for all fields below."""
    num_hidden_layers: int | None = None
    """Number of layers."""
    num_attention_heads: int | None = None
    """Number of attention heads."""
    intermediate_size: int | None = None
    """Width of the feed-forward layer."""
    hidden_act: str | None = None
    """gelu (erf), gelu_new or gelu_tanh (tanh approximation), relu, silu."""
    hidden_dropout_prob: float | None = None
    """Dropout of embeddings and layer outputs."""
    attention_probs_dropout_prob: float | None = None
    """Dropout of attention probabilities."""
    max_position_embeddings: int | None = None
    """Length of the longest sequence that the model can read."""
    initializer_range: float | None = None
    """Standard deviation of the initial weights."""
    position_embedding_type: Literal["absolute", "rotary", "none"] | None = None
    """Kind of positions."""
    local_attention: int | None = None
    """Width of windows of attention; 0: none."""
    norm_placement: Literal["post", "pre"] | None = None
    """LayerNorm after a sublayer, or before it and at the end."""
    biases: bool | None = None
    """Biases of all layers."""
    glu: bool | None = None
    """Gated feed-forward layers."""

    def resolve(self, vocab_size: int) -> BertConfig:
        """Returns the whole configuration for a vocabulary of this size.

        Raises:
            UserError: the size is unknown, the file does not exist, or values contradict each
                other.
        """
        fields = {**dataclasses.asdict(self), "vocab_size": vocab_size}
        size, biases = fields.pop("size"), fields.pop("biases")
        fields |= dict.fromkeys(_BIASES, biases)
        if self.norm_placement is not None:
            fields["final_norm"] = self.norm_placement == "pre"
        overrides = {name: value for name, value in fields.items() if value is not None}
        if size.endswith(".json"):
            return dataclasses.replace(BertConfig.from_json(location(size)), **overrides)
        return BertConfig.named(size, **overrides)


@dataclasses.dataclass(frozen=True)
class SecondPhase:
    """Settings of the last steps of a run. The paper trains nine tenths of its steps on rows of 128
    tokens and the rest on rows of 512. Without data there is no second phase."""

    data: str | Sequence[str] = ()
    """Directory of its shards; several are mixed. Same tokenizer and objective as the first phase.
    `bertjax prepare` with two values of max_seq_length (128 512) makes the data of both phases."""
    data_weights: Sequence[float] = ()
    """Shares of its data directories; see data_weights of the run."""
    length_buckets: Sequence[int] = ()
    """Lengths of its rows; see length_buckets of the run."""
    after_steps: int | None = None
    """Number of steps in the first phase. The second phase has the rest of `loop.train_steps`."""
    batch_size: int | None = None
    """Rows of the global batch. Default: as in the first phase."""
    accumulation: int | None = None
    """Microbatches per step. Default: as in the first phase."""
    learning_rate: float | None = None
    """Peak of a second schedule of the same kind, which begins when the first phase has ended.
    Default: one schedule spans both phases. The optimizer's moments are kept in either case."""
    warmup_steps: int | None = None
    """Warm-up of the second schedule. Default: a tenth of its steps."""

    def __post_init__(self) -> None:
        make_tuples(self)
        if not self.data:
            if given := [name for name, value in vars(self).items() if value not in (None, ())]:
                raise UserError(
                    f"`second.{given[0]}` is given and `second.data` is not: name the shards of "
                    "the second phase, or leave both out."
                )
            return
        if self.after_steps is None or self.after_steps < 1:
            raise UserError(
                "`second.data` is given: give `second.after_steps` as well, the number of steps in "
                "the first phase (in the paper nine tenths of all), at least 1."
            )
        if self.warmup_steps is not None and self.learning_rate is None:
            raise UserError(
                "`second.warmup_steps` belongs to a second schedule: give `second.learning_rate` "
                "as well, or leave it out."
            )
        for name in ("batch_size", "accumulation"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"`second.{name}` is {value}: give at least 1, or leave it out.")


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-train a BERT on prepared shards."""

    data: str | Sequence[str]
    """Directory that `bertjax prepare` wrote; several are mixed."""
    workdir: str
    """Run directory. The same command resumes the run there."""
    objective: ObjectiveName | None = None
    """nsp: masked LM and next sentences (BERT). sop: masked LM and the order of two segments
    (ALBERT). mlm: masked LM alone (RoBERTa). rtd: replaced-token detection (ELECTRA). minilm: the
    self-attention relations of a `teacher` (MiniLMv2). Default: minilm with a `teacher`, otherwise
    the one for the segments in the data: nsp for next_sentence, sop for sentence_order, mlm for
    single. mlm, rtd and minilm can train on all segments."""
    teacher: str | None = None
    """Model that the objective minilm compresses into a smaller one: a directory, a run, or a name
    on the hub. The data must have its vocabulary (`bertjax prepare` with its `tokenizer`)."""
    objective_options: ObjectiveOptions = ObjectiveOptions()
    """Options of single objectives."""
    data_weights: Sequence[float] = ()
    """Shares of the data directories, of any sum. Default: their sizes."""
    length_buckets: Sequence[int] = ()
    """Lengths of rows besides the shards' own, ascending. All rows of a step have one length; an
    example is in the shortest that hold it."""
    pack: bool = False
    """Let short examples share a row. No token attends to another example, and the loss of an
    example is what it is alone. A step has the same number of rows. Evaluations are not packed."""
    model: ModelConfig = ModelConfig()
    """Shape of the model."""
    initialization: InitializationConfig = InitializationConfig()
    """Initial weights."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and learning rate."""
    masking: MaskingConfig = MaskingConfig()
    """Masking in training."""
    evaluation_masking: MaskingConfig = MaskingConfig()
    """Masking in evaluations. The default makes held-out losses comparable between runs with
    different masking in training."""
    loop: LoopConfig = LoopConfig()
    """Number of steps; intervals of logging, evaluating and saving."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Destinations of metrics."""
    mesh: MeshConfig = MeshConfig()
    """Distribution over devices."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Several hosts that run the same command."""
    execution: Execution = Execution()
    """Precision and memory."""
    second: SecondPhase = SecondPhase()
    """A second phase with other rows."""
    batch_size: int = 256
    """Rows of a step over all devices and microbatches."""
    accumulation: int = 1
    """Microbatches per step: less memory, the same result."""
    ramp_from: int | None = None
    """Rows of the first steps, which double up to `batch_size`."""
    ramp_steps: int | None = None
    """Number of steps with fewer rows than `batch_size`."""
    final_masking_rate: float | None = None
    """Masking rate of the last quarter, to which it falls by quarters."""
    causal_share: float = 0.0
    """Share of the rows that train causal LM."""
    z_loss: float = 0.0
    """Weight of the squared log normalizer in the loss."""
    eval_examples: int = 2048
    """Held-out examples in an evaluation, with fixed masks."""
    seed: int = 0
    """Seed of weights, order of the data, masks and dropout."""
    fresh: bool = False
    """Start a new run in workdir-2 (-3, ...) beside the run in `workdir`. Nothing is deleted."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The data directories, one or several."""
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)

    @property
    def phases(self) -> "tuple[PretrainConfig, ...]":
        """The configuration of every phase, as if it were a run with one phase."""
        second = self.second
        if not second.data:
            return (self,)
        first = dataclasses.replace(self, second=SecondPhase())
        return first, dataclasses.replace(
            first,
            data=second.data,
            data_weights=second.data_weights,
            length_buckets=second.length_buckets,
            ramp_from=None,
            ramp_steps=None,
            batch_size=second.batch_size or self.batch_size,
            accumulation=second.accumulation or self.accumulation,
        )

    def __post_init__(self) -> None:
        make_tuples(self)
        if not self.directories:
            raise UserError("No data: name a directory that `bertjax prepare` wrote.")
        if self.objective is not None:
            refuse_unknown("objective", self.objective, get_args(ObjectiveName))
        for name in ("batch_size", "accumulation", "eval_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` is {getattr(self, name)}: give at least 1.")
        if self.pack and self.length_buckets:
            raise UserError(
                "`pack` and `length_buckets` both replace padding by examples: leave out one."
            )
        self._check_ramp()
        self._check_shares()
        self.telemetry.check(self.loop.train_steps)
        if self.batch_size % self.accumulation:
            raise UserError(
                f"`accumulation` {self.accumulation} does not divide `batch_size` "
                f"{self.batch_size}: microbatches have the same number of rows."
            )
        if not 0 <= self.seed < 1 << 31:
            raise UserError(f"`seed` is {self.seed}: give a whole number from 0 to 2147483647.")
        if self.teacher is not None:
            self._refuse_masking()
        if self.second.data and self.loop.patience:
            raise UserError(
                "`loop.patience` may end a run before its second phase: leave out `loop.patience` "
                "or `second.data`."
            )
        if self.second.learning_rate is not None and self.optimizer.groups:
            raise UserError(
                "`optimizer.groups` have one schedule for the whole run: leave them or "
                "`second.learning_rate` out."
            )
        after, steps = self.second.after_steps, self.loop.train_steps
        if after is not None and after >= steps:
            raise UserError(
                f"`second.after_steps` {after} is not less than `loop.train_steps` {steps}, the "
                "steps of both phases together: the second phase would have none."
            )
        _ = self.phases  # validates the second phase

    @property
    def ramp(self) -> tuple[tuple[int, int], ...]:
        """(end, rows) of every part of the ramp of the batch, ends in steps; () without one."""
        if self.ramp_from is None or self.ramp_steps is None:
            return ()
        doublings = (self.batch_size // self.ramp_from).bit_length() - 1
        return tuple(
            (self.ramp_steps * (part + 1) // doublings, self.ramp_from << part)
            for part in range(doublings)
        )

    def _check_shares(self) -> None:
        last, first = self.final_masking_rate, self.masking.rate
        if last is not None and not 0 < last < first:
            raise UserError(
                f"`final_masking_rate` is {last}: give a share above 0 and below `masking.rate`, "
                f"{first}, or leave it out."
            )
        if not 0 <= self.causal_share <= 1:
            raise UserError(f"`causal_share` is {self.causal_share}: give a share from 0 to 1.")
        if not 0 <= self.z_loss < math.inf:
            raise UserError(f"`z_loss` is {self.z_loss}: give 0 or more.")

    def _check_ramp(self) -> None:
        first, steps = self.ramp_from, self.ramp_steps
        if first is None and steps is None:
            return
        if first is None or steps is None:
            raise UserError("`ramp_from` and `ramp_steps` need each other: give both.")
        doublings = max(1, self.batch_size // max(1, first)).bit_length() - 1
        if first < 1 or not doublings or first << doublings != self.batch_size:
            raise UserError(
                f"`ramp_from` is {first}: `batch_size` {self.batch_size} must be 2, 4, 8 or "
                "another power of 2 times as large."
            )
        if first % self.accumulation:
            raise UserError(
                f"`accumulation` {self.accumulation} does not divide `ramp_from` {first}: "
                "microbatches have the same number of rows."
            )
        total = self.second.after_steps or self.loop.train_steps
        if not doublings <= steps < total:
            raise UserError(
                f"`ramp_steps` is {steps}: give at least {doublings}, the number of smaller sizes, "
                f"and less than {total}, the steps of the run or of its first phase, as none would "
                "have the rows of `batch_size`."
            )
        if self.length_buckets:
            raise UserError(
                "`ramp_steps` and `length_buckets` both choose the rows of a step: leave out one."
            )

    def _refuse_masking(self) -> None:
        for part in ("masking", "evaluation_masking"):
            for name, value in vars(getattr(self, part)).items():
                if value != getattr(MaskingConfig(), name):
                    raise UserError(
                        f"`{part}.{name}` has no effect with `teacher`, as its texts are not "
                        "masked: leave it out."
                    )
        for name in ("final_masking_rate", "causal_share"):
            if getattr(self, name):
                raise UserError(
                    f"`{name}` has no effect with `teacher`, as its texts are not masked: leave it "
                    "out."
                )

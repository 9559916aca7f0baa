"""The composite configuration of pre-training; each part's dataclass lives beside its part."""

import dataclasses

from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.files import location
from bertjax.model.initializers import InitializationConfig
from bertjax.objectives.masking import MaskingConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.telemetry.trackers import TelemetryConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model's size: a named one or a config.json, and what differs from it."""

    size: str = "mini"
    """tiny mini small medium base large, a miniature (L-4_H-256), or the path of a config.json."""
    hidden_size: int | None = None
    """Width D; left out: the size's, as in all that follow."""
    num_hidden_layers: int | None = None
    """Layers."""
    num_attention_heads: int | None = None
    """Attention heads."""
    intermediate_size: int | None = None
    """Width of the feed-forward."""
    hidden_act: str | None = None
    """gelu (erf), gelu_new or gelu_tanh (tanh approximation), relu."""
    hidden_dropout_prob: float | None = None
    """Dropout of embeddings and layer outputs."""
    attention_probs_dropout_prob: float | None = None
    """Dropout of attention probabilities."""
    max_position_embeddings: int | None = None
    """Longest sequence the model can read."""
    initializer_range: float | None = None
    """Standard deviation of the first weights."""

    def resolve(self, vocab_size: int) -> BertConfig:
        """The whole configuration, for a vocabulary of this size.

        Raises:
            UserError: unknown size, no such file, or values that do not fit together.
        """
        fields = {**dataclasses.asdict(self), "vocab_size": vocab_size}
        size = fields.pop("size")
        overrides = {name: value for name, value in fields.items() if value is not None}
        if size.endswith(".json"):
            return dataclasses.replace(BertConfig.from_json(location(size)), **overrides)
        return BertConfig.named(size, **overrides)


@dataclasses.dataclass(frozen=True)
class SecondPhase:
    """What the last steps of a run have of their own: in the paper 128 tokens a row for nine steps
    of ten, then 512. Without data there is no second phase."""

    data: str | tuple[str, ...] = ()
    """Directory of its shards, of the same tokenizer and objective; several are mixed. `bertjax
    prepare --max-seq-length 128 512` makes those of both phases."""
    data_weights: tuple[float, ...] = ()
    """As of the first phase."""
    length_buckets: tuple[int, ...] = ()
    """As of the first phase."""
    after_steps: int | None = None
    """How many of loop.train_steps the first phase has; this one has the rest."""
    batch_size: int | None = None
    """Rows of its global batch; left out: as many as the first phase's."""
    accumulation: int | None = None
    """Its microbatches a step; left out: as many as the first phase's."""
    learning_rate: float | None = None
    """Peak of a schedule of its own, of the same kind, after that of the first phase has ended;
    left out: one schedule spans both. Moments go on in either case."""
    warmup_steps: int | None = None
    """Of its own schedule; left out: a tenth of its steps."""

    def __post_init__(self) -> None:
        given = [
            field.name for field in dataclasses.fields(self) if getattr(self, field.name) not in _NO
        ]
        if not self.data:
            if given:
                raise UserError(
                    f"second.{given[0]} is given and second.data is not: name the shards of the "
                    "second phase, or leave both out."
                )
            return
        if self.after_steps is None or self.after_steps < 1:
            raise UserError(
                "second.data is given: give second.after_steps as well, the steps of the first "
                "phase (in the paper nine tenths of all), at least 1."
            )
        if self.warmup_steps is not None and self.learning_rate is None:
            raise UserError(
                "second.warmup_steps is of a schedule of its own: give second.learning_rate too, "
                "or leave it out."
            )


_NO = (None, ())


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-train a BERT on prepared shards: masked LM and what else the shards are for (next
    sentences, the order of sentences, or nothing)."""

    data: str | tuple[str, ...]
    """Directory that `bertjax prepare` wrote; several are mixed."""
    workdir: str
    """Run directory; the same command again resumes there."""
    data_weights: tuple[float, ...] = ()
    """Shares of the data directories among the examples, of any sum; left out: their sizes."""
    length_buckets: tuple[int, ...] = ()
    """Lengths of rows besides the shards' own, ascending: a step has rows of one length, and every
    example is in the shortest that holds it."""
    model: ModelConfig = ModelConfig()
    """What the model is."""
    initialization: InitializationConfig = InitializationConfig()
    """What its weights start from."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How it learns."""
    masking: MaskingConfig = MaskingConfig()
    """What it has to predict."""
    loop: LoopConfig = LoopConfig()
    """How long, and how often to look and to save."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """Where metrics go, and what is looked at."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    execution: Execution = Execution()
    """How to compute."""
    second: SecondPhase = SecondPhase()
    """Other rows for the last steps."""
    batch_size: int = 256
    """Rows of the global batch, over all devices and microbatches."""
    accumulation: int = 1
    """Microbatches a step is computed in, to save memory; the result is the same."""
    eval_examples: int = 2048
    """Held-out examples of an evaluation during training, whose masks never change."""
    seed: int = 0
    """Number that fixes the random choices: first weights, order of the data, masks, dropout."""
    fresh: bool = False
    """Start beside the run that is in workdir, in workdir-2 (-3, ...); nothing is deleted."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The data directories, one or several."""
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)

    @property
    def phases(self) -> "tuple[PretrainConfig, ...]":
        """The phases, each as the configuration of a run that has no other."""
        second, alone = self.second, SecondPhase()
        if not second.data:
            return (self,)
        own = {
            "batch_size": second.batch_size or self.batch_size,
            "accumulation": second.accumulation or self.accumulation,
            "data": second.data,
            "data_weights": second.data_weights,
            "length_buckets": second.length_buckets,
        }
        first = dataclasses.replace(self, second=alone)
        return first, dataclasses.replace(first, **own)

    def __post_init__(self) -> None:
        if not self.directories:
            raise UserError("No data: name a directory that `bertjax prepare` wrote.")
        for name in ("batch_size", "accumulation", "eval_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1.")
        self.telemetry.check(self.loop.train_steps)
        if self.batch_size % self.accumulation:
            raise UserError(
                f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}: "
                "microbatches have the same number of rows."
            )
        if not 0 <= self.seed < 1 << 31:
            raise UserError(f"seed is {self.seed}: give a whole number from 0 to 2147483647.")
        if self.second.data and self.loop.patience:
            raise UserError(
                "loop.patience may end a run before its second phase: leave out loop.patience or "
                "second.data."
            )
        after, steps = self.second.after_steps, self.loop.train_steps
        if after is not None and after >= steps:
            raise UserError(
                f"second.after_steps {after} is not less than loop.train_steps {steps}, the steps "
                "of both phases together: the second would have none."
            )
        for name in ("batch_size", "accumulation"):
            if (value := getattr(self.second, name)) is not None and value < 1:
                raise UserError(f"second.{name} is {value}: give at least 1, or leave it out.")
        _ = self.phases  # refuses what does not fit together in the second one

"""The composite configuration of pre-training; each part's dataclass lives beside its part."""

import dataclasses

from bertjax import places
from bertjax.config import BertConfig, Execution
from bertjax.errors import UserError
from bertjax.model.starts import StartConfig
from bertjax.objectives.masking import MaskingConfig
from bertjax.train.loop import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig
from bertjax.train.trackers import TelemetryConfig


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
            return dataclasses.replace(BertConfig.from_json(places.location(size)), **overrides)
        return BertConfig.named(size, **overrides)


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
    start: StartConfig = StartConfig()
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

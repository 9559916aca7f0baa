"""The protocol of a pre-training objective; `bertjax.objectives.table` lists the objectives.

An objective is a frozen dataclass: its fields are its options, its class attributes and methods say
how it trains, what it measures and what it exports. Nothing else compares objectives by name.
"""

import dataclasses
from typing import Any, ClassVar, Literal, Self

import jax

from bertjax.config import BertConfig
from bertjax.model import initializers
from bertjax.model.flops import training_flops
from bertjax.objectives.losses import Batch, ModelLoss, model_loss, with_z_loss
from bertjax.objectives.masking import (
    MaskingConfig,
    Vocabulary,
    make_causal,
    mask_packed_tokens,
    mask_tokens,
)

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""Arrays [B, T] of every batch."""
PACKED_TOKENS = ("segment_ids", "position_ids")
"""Arrays [B, T] that a batch of packed rows has as well."""
PACKED_EXAMPLES = ("cls_positions", "example_weight")
"""Its arrays [B, S], which is then also the shape of labels."""
TEACHER = "teacher"
"""The subtree of parameters of a teacher. They are no part of the state."""
UNIGRAM, MAJORITY = "unigram entropy", "majority"
"""Baselines of metrics, as they are shown."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of evaluations, and how it is shown. A loss is in nats, everything else a share."""

    name: str
    label: str
    """The name in a line of metrics."""
    words: str
    """The name in a sentence."""
    better: Literal["min", "max"] | None = "max"
    """Whether lower or higher values are better; None: neither."""
    in_verdict: bool = False
    """Whether the sentence that ends a run has it."""
    baseline: str | None = None
    """UNIGRAM or MAJORITY: the score without a model, shown beside the metric."""

    @property
    def is_loss(self) -> bool:
        """Whether the values are nats; otherwise they are shares."""
        return self.name.endswith("_loss")


@dataclasses.dataclass(frozen=True)
class Objective:
    """A pre-training objective with its options."""

    z_loss: float = 0.0
    """Weight of `losses.with_z_loss`."""

    name: ClassVar[str]
    segments: ClassVar[str]
    """The kind of segments that it trains on; see `bertjax.data.segments`."""
    any_segments: ClassVar[bool] = False
    """Whether it can train on every other kind too. It then ignores their labels."""
    arrays: ClassVar[tuple[str, ...]] = TOKENS
    """The arrays that a batch needs. Those beyond TOKENS are labels [B] int32, or [B, S] in packed
    rows."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The metrics of evaluations, the main one first."""
    best_metric: ClassVar[str]
    """The metric that chooses the best checkpoint; smaller is better."""
    export_kind: ClassVar[str]
    """The task of the exported model, a key of `bertjax.model.heads.TASK_PARTS`."""
    may_be_causal: ClassVar[bool] = False
    """Whether it can train rows whose tokens see only earlier ones; see `masking.make_causal`."""
    needs_teacher: ClassVar[bool] = False
    """Whether it learns from a second model, whose parameters it finds in the subtree TEACHER of
    those that it is given; see `taught_by`."""

    # Functions of the class: static or ordinary methods.
    init_params: ClassVar[Any]
    """(config, key) -> parameters."""
    reinitialize: ClassVar[Any] = staticmethod(initializers.reinitialize)
    """(parameters, config, initialization, counts) -> parameters."""
    logits: ClassVar[Any]
    """(params, batch, config, *, execution, dropout_key, sample_key) -> logits."""
    scores: ClassVar[Any]
    """(logits, batch, token_groups) -> {name: (sum, weight)}; see `losses.masked_lm`."""
    normalizers: ClassVar[Any]
    """Corrupted batch -> normalizers."""
    total: ClassVar[Any]
    """(metrics, normalizers) -> loss."""
    flops: ClassVar[Any]
    """(config, T, P) -> FLOPs of the forward pass over one row of T tokens with P predictions."""

    def corrupt(
        self,
        batch: Batch,
        keys: jax.Array,
        vocabulary: Vocabulary,
        masking: MaskingConfig,
        causal_share: float = 0.0,
    ) -> Batch:
        """Masks the tokens of a batch; keys [B]. See `masking.make_causal` for `causal_share`."""
        ids, attention = batch["input_ids"], batch["attention_mask"]
        if "segment_ids" in batch:
            rows = {name: batch[name] for name in ("segment_ids", "cls_positions")}
            masked = mask_packed_tokens(keys, ids, vocabulary, masking, **rows)
        else:
            masked = mask_tokens(keys, ids, vocabulary, masking, attention_mask=attention)
        if causal_share:
            masked = make_causal(keys, ids, attention, masked, causal_share)
        return {**batch, **masked}

    @property
    def loss(self) -> ModelLoss:
        """The loss of parameters and a corrupted batch."""
        scores, total = self.scores, self.total
        if self.z_loss:
            scores, total = with_z_loss(scores, total, self.z_loss)
        return model_loss(f"{self.name}_loss", self.logits, scores, self.normalizers, total)

    @staticmethod
    def exported(params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters of the exported model."""
        return params

    def training_flops(self, config: BertConfig, length: int, predictions: int) -> float:
        """Counts the FLOPs of a training step over one row, as `flops` counts the forward pass."""
        return training_flops(self.flops(config, length, predictions))

    @staticmethod
    def trained(params: dict[str, Any]) -> dict[str, Any]:
        """Returns the parameters that its loss depends on. The others are not trained."""
        return params

    def taught_by(self, teacher: BertConfig, student: BertConfig) -> Self:
        """Returns the objective with the shape of its teacher, and with all options set.

        Raises:
            UserError: the options do not fit the shapes of the two models.
        """
        raise NotImplementedError

    def teacher_shapes(self) -> dict[str, Any]:
        """Returns ShapeDtypeStructs of the teacher's parameters that it reads; {} if there is none.

        The objective must come from `taught_by`.
        """
        return {}

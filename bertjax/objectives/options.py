"""The names of the objectives and their options, for configurations; loads no model code."""

import dataclasses
from typing import Literal

from bertjax.errors import UserError

ObjectiveName = Literal["nsp", "sop", "mlm", "rtd", "minilm"]
"""The keys of `table.OBJECTIVES`, as a type."""


@dataclasses.dataclass(frozen=True)
class RtdOptions:
    """Options of replaced-token detection (ELECTRA)."""

    generator_size: float = 0.25
    """Width of the generator (hidden, feed-forward, heads) as a share of the model's."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss. The generator's loss has weight 1."""
    temperature: float = 1.0
    """Temperature of the generator's samples."""

    def __post_init__(self) -> None:
        if not 0 < self.generator_size <= 1:
            raise UserError(f"generator_size is {self.generator_size}: give above 0, at most 1.")
        for name in ("discriminator_weight", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}: give a number above 0.")


@dataclasses.dataclass(frozen=True)
class MiniLMOptions:
    """Options of self-attention relation distillation (MiniLMv2)."""

    layer: int | None = None
    """Layer of the teacher whose relations are learned, from 1. Default: the last one; of more than
    12 layers the one at 7/8, such as 21 of 24, because upper middle layers of deep teachers teach
    better."""
    relation_heads: int | None = None
    """Number of relation heads; divides the hidden sizes of teacher and model. Default: four times
    the teacher's attention heads, which is 48 for BERT-base and 64 for BERT-large."""

    def __post_init__(self) -> None:
        for name in ("layer", "relation_heads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(
                    f"`objective_options.minilm.{name}` is {value}: give at least 1, or leave it "
                    "out."
                )


@dataclasses.dataclass(frozen=True)
class ObjectiveOptions:
    """Options of the objectives that have options, by the objective's name."""

    rtd: RtdOptions = RtdOptions()
    """Replaced-token detection (ELECTRA)."""
    minilm: MiniLMOptions = MiniLMOptions()
    """Self-attention relation distillation (MiniLMv2)."""

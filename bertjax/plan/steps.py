"""The training step of a recipe on a mesh, ready to compile, and what a plan says about it."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.errors import UserError
from bertjax.interop.huggingface import open_pretrained
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.table import choose_objective
from bertjax.plan.config import PlanConfig
from bertjax.pretrain.phases import open_phases
from bertjax.pretrain.program import build
from bertjax.train.step import TrainState


class Step(NamedTuple):
    """A training step that is not compiled yet."""

    function: Any
    """The jitted step that a run compiles."""
    arguments: tuple[Any, ...]
    """Its arguments as ShapeDtypeStructs; the first is the `TrainState`."""
    mesh: Mesh
    shape: Any
    """Shape of the model."""
    row_flops: float
    """FLOPs of the matrix products of a step, for a row."""
    facts: dict[str, Any]
    """The JSON of the plan has these facts about the rows and the number of steps."""

    def parameter_shapes(self) -> set[tuple[int, ...]]:
        """Returns the shapes of the parameters, whole and on a chip, without axes of one."""
        state: TrainState = self.arguments[0]
        found = set()
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 1]
        for leaf in [*jax.tree.leaves(state.params), *moments]:
            for shape in (leaf.shape, leaf.sharding.shard_shape(leaf.shape)):
                kept = tuple(size for size in shape if size > 1)
                found |= {kept, kept[::-1]}
        return found


class Rows(NamedTuple):
    """A plan needs these facts about the data."""

    length: int
    vocab_size: int
    segments: str
    padding: float | None = None
    """Mean share of padding in a row; None if the shards are not read."""
    packed: int | None = None
    """Maximum number of examples in a packed row; None: rows hold one example each."""


def read_rows(config: PlanConfig) -> Rows:
    """Returns the rows of a plan, from its flags or else from the shards.

    Raises `UserError` if neither says how long rows are and how large the vocabulary is.
    """
    planned = config.planned
    if config.max_seq_length and config.vocab_size:
        if planned.pack and not config.packed_examples:
            raise UserError("`pack` needs `packed_examples` where the shards are not read.")
        packed = config.packed_examples if planned.pack else None
        return Rows(config.max_seq_length, config.vocab_size, config.segments, packed=packed)
    if not planned.directories[0]:
        raise UserError("No `data`: name shards, or give `max_seq_length` and `vocab_size`.")
    try:
        phase = open_phases(config)[config.phase - 1]
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}, or give `max_seq_length` and `vocab_size`, with which a "
            "plan needs no data."
        ) from None
    manifest = phase.corpora.manifest
    size = manifest.vocab_size
    if config.max_seq_length or config.vocab_size:
        length = config.max_seq_length or manifest.max_seq_length
        return Rows(length, config.vocab_size or size, manifest.segments, packed=phase.packed)
    filled = phase.real_tokens / manifest.max_seq_length
    return Rows(manifest.max_seq_length, size, manifest.segments, 1 - filled, phase.packed)


def pretraining_step(config: PlanConfig, rows: Rows, mesh: Mesh) -> Step:
    """Returns the step of `bertjax pretrain`.

    Raises:
        UserError: parts of the recipe contradict each other, the mesh or the rows.
    """
    planned = config.planned
    special = np.zeros(rows.vocab_size, bool)
    special[:5] = True  # which ids are special changes neither shapes nor time
    vocabulary = Vocabulary(rows.vocab_size, 0, 4, special, ~special)
    objective = choose_objective(
        planned.objective,
        rows.segments,
        planned.objective_options,
        has_teacher=planned.teacher is not None,
        z_loss=planned.z_loss,
    )
    if planned.teacher is not None:
        teacher = open_pretrained(planned.teacher).bert_config("`teacher`")
        objective = objective.taught_by(teacher, planned.model.resolve(rows.vocab_size))
    counts = np.ones(rows.vocab_size, np.int64)
    how = {"objective": objective, "packed": rows.packed}
    program = build(planned, mesh, vocabulary, rows.length, counts, **how)
    predictions = planned.masking.predictions(rows.length, rows.packed or 1)
    return Step(
        program.step,
        (program.abstract_state, program.abstract_batch, program.abstract_teacher),
        mesh,
        program.model,
        objective.training_flops(program.model, rows.length, predictions),
        {
            "rows": planned.batch_size,
            "length": rows.length,
            "is_longest": bool(planned.length_buckets),
            "padding": rows.padding,
            "packed": rows.packed,
            "accumulation": planned.accumulation,
            "steps": _steps(config),
        },
    )


def _steps(config: PlanConfig) -> int:
    """Returns the number of steps in the planned phase."""
    steps, after = config.loop.train_steps, config.second.after_steps
    if after is None:
        return steps
    return after if config.phase == 1 else steps - after

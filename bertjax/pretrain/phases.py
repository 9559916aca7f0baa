"""The phases of a pre-training run, one or two, their data, and checks that they fit together.

All phases share one state, one count of steps and one directory. Each has its own data, in an order
that begins with the phase, and its own program.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.data.corpora import Corpora
from bertjax.data.mixture import TrainStream, length_buckets, one_bucket, packed_bucket
from bertjax.data.packing import pack
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError
from bertjax.objectives.objective import PACKED_EXAMPLES, PACKED_TOKENS, Objective
from bertjax.objectives.table import choose_objective
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.metrics import fields
from bertjax.train.checkpoint.settings import ORDER
from bertjax.train.schedules import make_schedule
from bertjax.train.telemetry.mfu import work_of
from bertjax.train.telemetry.phases import PhaseInfo


class Stage(NamedTuple):
    """Consecutive steps of a phase with the same number of rows and the same rate of masking."""

    config: PretrainConfig
    """The configuration of a run with these steps alone."""
    end: int
    """The step after the last."""


class Phase(NamedTuple):
    """The data of a phase, and its steps."""

    config: PretrainConfig
    """The configuration of a run with this phase alone."""
    objective: Objective
    corpora: Corpora
    readers: tuple[ShardReader, ...]
    """The training examples of each corpus."""
    stream: TrainStream
    first: int
    """The first step, from 0."""
    end: int
    """The step after the last."""
    packed: int | None = None
    """Maximum number of examples in a packed row; None: rows hold one example each."""

    def rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Reads rows of the global batch of a step of the run."""
        batch = self.stream.rows(step - self.first, rows)
        names = (*self.objective.arrays, *PACKED_TOKENS, *PACKED_EXAMPLES)
        return {name: batch[name] for name in names if name in batch}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the phase, in order; each compiles a program."""
        config, total = self.config, self.config.loop.train_steps
        rates = [(total, config.masking.rate)]
        if config.final_masking_rate is not None:
            falling = np.linspace(config.masking.rate, config.final_masking_rate, 4).tolist()
            rates = [(total * quarter // 4, rate) for quarter, rate in enumerate(falling, 1)]
        sizes = [*((self.first + end, rows) for end, rows in config.ramp)]
        sizes.append((self.end, config.batch_size))
        ends = {end for end, _ in (*rates, *sizes) if self.first < end < self.end} | {self.end}

        def stage(end: int) -> Stage:
            rate = next(each for until, each in rates if end <= until)
            rows = next(each for until, each in sizes if end <= until)
            own = dataclasses.replace(
                config,
                masking=dataclasses.replace(config.masking, rate=rate),
                final_masking_rate=None,
                batch_size=rows,
                ramp_from=None,
                ramp_steps=None,
            )
            return Stage(own, end)

        return tuple(stage(end) for end in sorted(ends))

    def info(self, stage: Stage, model: BertConfig, mesh: Mesh, name: str) -> PhaseInfo:
        """Describes a stage to the loop; tokens and FLOPs are means over the rows' lengths."""
        config, lengths, most = stage.config, self.stream.lengths, self.packed or 1
        predictions = {length: config.masking.predictions(length, most) for length, _ in lengths}
        row = sum(
            share * self.objective.training_flops(model, length, predictions[length])
            for length, share in lengths
        )
        flops = config.batch_size * row
        kind = mesh.devices.flat[0].device_kind
        work = work_of(flops, kind, mesh.size, config.execution.dtype)
        length = sum(length * share for length, share in lengths)
        scheduled = {}
        if self.stream.ramp:
            scheduled["batch_size"] = config.batch_size
        if self.config.final_masking_rate is not None:
            scheduled["masking_rate"] = config.masking.rate
        return PhaseInfo(
            stage.end,
            round(config.batch_size * length),
            name,
            fields(self.corpora, self.objective, [each.name for each in config.optimizer.groups]),
            work,
            self.real_tokens / length,
            scheduled,
        )

    @property
    def real_tokens(self) -> float:
        """Mean number of tokens of a row, without padding."""
        epochs, manifests = self.stream.epochs_of_rows(1), self.corpora.manifests
        return sum(
            each * manifest.examples("train") * manifest.max_seq_length * (1 - manifest.padding)
            for each, manifest in zip(epochs, manifests, strict=True)
        )


def open_phases(config: PretrainConfig) -> tuple[Phase, ...]:
    """Opens the data of a run's phases.

    Raises:
        UserError: data that can't be mixed or that the objective can't use; or two phases that
            differ in tokenizer or objective, or of which only one has held-out examples.
    """
    phases, steps = [], config.loop.train_steps
    for number, own in enumerate(config.phases):
        corpora = Corpora.of(own.directories, own.data_weights)
        segments = corpora.manifest.segments
        objective = choose_objective(
            own.objective,
            segments,
            own.objective_options,
            has_teacher=own.teacher is not None,
            z_loss=own.z_loss,
        )
        readers = corpora.readers("train")
        first = (config.second.after_steps or 0) if number else 0
        end = steps if number or config.second.after_steps is None else config.second.after_steps
        drawn, packed = readers, None
        if own.pack:
            drawn = pack(readers, own.seed)
            buckets, packed = packed_bucket(drawn, corpora.weights), drawn[0].most
        elif own.length_buckets:
            buckets = length_buckets(readers, corpora.weights, own.length_buckets)
        else:
            buckets = one_bucket(readers, corpora.weights)
        stream = TrainStream(
            *(drawn, buckets),
            seed=own.seed,
            batch_size=own.batch_size,
            ramp=own.ramp,
        )
        phases.append(Phase(own, objective, corpora, readers, stream, first, end, packed))
    for other in phases[1:]:
        _refuse_mismatch(phases[0], other)
    return tuple(phases)


def phase_at(phases: Sequence[Phase] | Sequence[Stage], step: int) -> int:
    """Returns the index of the phase, or of the stage, of a step, counted from 0."""
    return next((place for place, phase in enumerate(phases) if step < phase.end), len(phases) - 1)


def describe(phases: Sequence[Phase], model: BertConfig, mesh: Mesh) -> list[PhaseInfo]:
    """Describes the stages of all phases to the loop."""
    return [
        phase.info(stage, model, mesh, str(number) if len(phases) > 1 else "")
        for number, phase in enumerate(phases, 1)
        for stage in phase.stages
    ]


def _refuse_mismatch(first: Phase, second: Phase) -> None:
    both = f"{first.corpora.directories[0]} and {second.corpora.directories[0]}"
    one, other = first.corpora.manifest, second.corpora.manifest
    if one.tokenizer_sha256 != other.tokenizer_sha256:
        raise UserError(f"{both} come from different tokenizers: prepare both with the same one.")
    if first.objective != second.objective:
        raise UserError(
            f"{both} hold different segments ({one.segments} and {other.segments}): prepare both "
            "with the same `segments`."
        )
    if bool(first.corpora.examples("held_out")) != bool(second.corpora.examples("held_out")):
        raise UserError(
            f"Only one of {both} has held-out examples: prepare both with the same `held_out`."
        )


def run_schedule(config: PretrainConfig) -> optax.Schedule:
    """Makes the schedule of the run: one for all steps, or one for each phase.

    Skipped steps are no updates: the schedule of the second phase begins that many steps later.
    """
    second, steps = config.second, config.loop.train_steps
    if second.learning_rate is None or second.after_steps is None:
        return make_schedule(config.optimizer, steps)
    first = make_schedule(config.optimizer, second.after_steps)
    rates = {"learning_rate": second.learning_rate, "warmup_steps": second.warmup_steps}
    try:
        own = dataclasses.replace(config.optimizer, **rates)
        then = make_schedule(own, steps - second.after_steps, section="second")
    except UserError as error:
        raise UserError(f"The second phase: {error}") from None
    return optax.join_schedules([first, then], [second.after_steps])


def immutable_at(step: int, phases: Sequence[Phase], immutable: dict[str, Any]) -> dict[str, Any]:
    """Adds those of the second phase to the `immutable` settings of the first, if it has begun.

    Only checkpoints of the second phase record that phase's data, so that a run of one phase can
    be continued with a second one.
    """
    phase = phases[phase_at(phases, step - 1)]
    if not phase.first:
        return immutable
    return {**immutable, "second": {"after_steps": phase.first, **data_settings(phase)}}


def data_settings(phase: Phase) -> dict[str, Any]:
    """Returns the immutable settings of a phase's data; row lengths only where a choice exists."""
    found: dict[str, Any] = {
        "data": phase.corpora.setting(),
        ORDER: phase.stream.order_fingerprint(),
        "batch_size": phase.config.batch_size,
    }
    if phase.stream.ramp:
        found |= {"ramp_from": phase.config.ramp_from, "ramp_steps": phase.config.ramp_steps}
    if phase.config.length_buckets:
        found["length_buckets"] = [length for length, _ in phase.stream.lengths]
    if phase.config.pack:
        found["pack"] = True
    return found


def second_mutable(config: PretrainConfig) -> dict[str, Any]:
    """Returns the mutable settings of the second phase; an empty dict if there is none."""
    second = config.second
    names = ("after_steps", "accumulation", "learning_rate", "warmup_steps")
    given = {name: value for name in names if (value := getattr(second, name)) is not None}
    return {"second": given} if given else {}


def untrained_positions(phases: Sequence[Phase], model: BertConfig) -> str:
    """Returns the range of a model's positions that no row reaches; empty if all are reached.

    After rows of 128 tokens, the embeddings of positions 128 to 511 have their initial values.
    """
    if model.position_embedding_type != "absolute":
        return ""
    positions = model.max_position_embeddings
    longest = max(phase.corpora.manifest.max_seq_length for phase in phases)
    return f"{longest} to {positions - 1}" if longest < positions else ""

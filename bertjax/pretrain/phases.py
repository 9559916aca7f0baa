"""The phases of a pre-training run: one, or short rows and then long ones.

Both are of one run: one state, one count of steps, one directory. A phase has its own data, whose
order begins with it, and its own program.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.data.corpora import Corpora
from bertjax.data.mixture import MixedStream, length_buckets, one_bucket
from bertjax.data.stream import ShardReader, TrainStream
from bertjax.errors import UserError
from bertjax.model.flops import pretraining_flops, training_flops
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.evaluation import fields
from bertjax.train.optimizer import make_schedule
from bertjax.train.telemetry.mfu import work_of
from bertjax.train.telemetry.phases import PhaseInfo


class Phase(NamedTuple):
    """The data of a phase, and which steps are its own."""

    config: PretrainConfig
    """Of a run that had this phase alone."""
    corpora: Corpora
    readers: tuple[ShardReader, ...]
    """Of the examples to train on."""
    stream: TrainStream | MixedStream
    first: int
    """The first step, from 0."""
    end: int
    """The step after the last."""

    def rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the global batch of a step of the run."""
        return self.stream.rows(step - self.first, rows)

    def info(self, model: BertConfig, mesh: Mesh, name: str) -> PhaseInfo:
        """Describes the phase for the loop; tokens and FLOPs are means over the lengths of rows."""
        config, lengths = self.config, self.stream.lengths
        sentences = self.corpora.manifest.segment_kind.is_pair
        row = sum(
            share
            * pretraining_flops(
                model, length, config.masking.predictions(length), sentences=sentences
            )
            for length, share in lengths
        )
        flops = config.batch_size * training_flops(1) * row
        kind = mesh.devices.flat[0].device_kind
        return PhaseInfo(
            self.end,
            round(config.batch_size * sum(length * share for length, share in lengths)),
            name,
            fields(self.corpora),
            work_of(flops, kind, mesh.size, config.execution.dtype),
        )


def open_phases(config: PretrainConfig) -> tuple[Phase, ...]:
    """Opens the data of a run's phases.

    Raises:
        UserError: data that can't be mixed, or phases of another tokenizer or segments, or of
            which one has no held-out examples.
    """
    phases, steps = [], config.loop.train_steps
    for number, own in enumerate(config.phases):
        corpora = Corpora.of(own.directories, own.data_weights)
        readers = corpora.readers("train")
        first = (config.second.after_steps or 0) if number else 0
        end = steps if number or config.second.after_steps is None else config.second.after_steps
        phases.append(Phase(own, corpora, readers, _stream(own, corpora, readers), first, end))
    for other in phases[1:]:
        _refuse_strangers(phases[0].corpora, other.corpora)
    return tuple(phases)


def phase_at(phases: Sequence[Phase], step: int) -> int:
    """The place of the phase that a step is of, the steps counted from 0."""
    return next((place for place, phase in enumerate(phases) if step < phase.end), len(phases) - 1)


def _stream(
    config: PretrainConfig, corpora: Corpora, readers: Sequence[ShardReader]
) -> TrainStream | MixedStream:
    where = {"seed": config.seed, "batch_size": config.batch_size}
    if len(readers) == 1 and not config.length_buckets:
        return TrainStream(readers[0], **where)
    if config.length_buckets:
        buckets = length_buckets(readers, corpora.weights, config.length_buckets)
    else:
        buckets = one_bucket(readers, corpora.weights)
    return MixedStream(readers, buckets, **where)


def _refuse_strangers(first: Corpora, second: Corpora) -> None:
    both = f"{first.directories[0]} and {second.directories[0]}"
    one, other = first.manifest, second.manifest
    if one.tokenizer_sha256 != other.tokenizer_sha256:
        raise UserError(
            f"{both} come from different tokenizers: prepare the data of both phases with the same "
            "one."
        )
    if one.segments != other.segments:
        raise UserError(
            f"{both} hold different segments ({one.segments} and {other.segments}): prepare the "
            "data of both phases with the same `segments`."
        )
    if bool(first.examples("held_out")) != bool(second.examples("held_out")):
        raise UserError(
            f"Of {both} one has held-out examples and the other has none: prepare the data of both "
            "phases with the same --held-out."
        )


def run_schedule(config: PretrainConfig) -> optax.Schedule:
    """The learning rate at an update of the run: one schedule, or one of each phase.

    Steps that were skipped because they were not finite are no updates: a schedule of the second
    phase begins so many steps later.

    Raises:
        UserError: see `optimizer.make_schedule`.
    """
    second, steps = config.second, config.loop.train_steps
    if second.learning_rate is None or second.after_steps is None:
        return make_schedule(config.optimizer, steps)
    first = make_schedule(config.optimizer, second.after_steps)
    try:
        own = dataclasses.replace(
            config.optimizer,
            learning_rate=second.learning_rate,
            warmup_steps=second.warmup_steps,
        )
        then = make_schedule(own, steps - second.after_steps, section="second")
    except UserError as error:
        raise UserError(f"The second phase: {error}") from None
    return optax.join_schedules([first, then], [second.after_steps])


def immutable_at(step: int, phases: Sequence[Phase], immutable: dict[str, Any]) -> dict[str, Any]:
    """Returns the immutable settings of the checkpoint of a step.

    Only checkpoints of the second phase record that phase's data, so that a run of one phase can
    be continued with a second one.

    Args:
        step: steps done.
        phases: the run's phases.
        immutable: the settings of the first phase.
    """
    place = phase_at(phases, step - 1)
    if place == 0:
        return immutable
    phase = phases[place]
    return {**immutable, "second": {"after_steps": phase.first, **data_settings(phase)}}


def data_settings(phase: Phase) -> dict[str, Any]:
    """Returns the immutable settings of a phase's data; row lengths only where a choice exists."""
    found: dict[str, Any] = {
        "data": phase.corpora.identity(),
        "order of the data": phase.stream.order_fingerprint(),
        "batch_size": phase.config.batch_size,
    }
    if phase.config.length_buckets:
        found["length_buckets"] = [length for length, _ in phase.stream.lengths]
    return found


def second_mutable(config: PretrainConfig) -> dict[str, Any]:
    """Returns the mutable settings of the second phase; an empty dict if there is none."""
    second = config.second
    names = ("after_steps", "accumulation", "learning_rate", "warmup_steps")
    given = {name: value for name in names if (value := getattr(second, name)) is not None}
    return {"second": given} if given else {}


def untrained_positions(phases: Sequence[Phase], positions: int) -> str:
    """Which of the model's positions no row reaches, as people say it; nothing if all are reached.

    After rows of 128 tokens, the embeddings of positions 128 to 511 are what they began as.
    """
    longest = max(phase.corpora.manifest.max_seq_length for phase in phases)
    return f"{longest} to {positions - 1}" if longest < positions else ""

"""Evaluations of a pre-training run on held-out examples."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.corpora import Corpora
from bertjax.data.stream import HeldOutBatches, read_ahead
from bertjax.pretrain.metrics import of_corpus
from bertjax.pretrain.program import Program
from bertjax.train import sharding
from bertjax.train.step import TrainState

Sums = dict[str, np.ndarray]
Evaluator = Callable[[TrainState, Callable[[], bool]], dict[str, float] | None]
"""(state, should_stop) -> metrics, or None if it stopped early."""


class _HeldOut(NamedTuple):
    """The held-out examples of one corpus."""

    name: str
    share: float
    """The corpus's share of the training examples."""
    batches: HeldOutBatches


def make_evaluator(
    corpora: Corpora,
    program: Program,
    mesh: Mesh,
    *,
    batch_size: int,
    max_examples: int,
) -> Evaluator | None:
    """Makes the evaluation on held-out batches with fixed masks; None without held-out examples.

    Several corpora give the same number of examples each, as far as they have them. The metrics are
    then those of each corpus (`of_corpus`) and those of the training mixture.

    Args:
        corpora: the data; their split "held_out" is read.
        program: the run's program.
        mesh: the mesh of the program.
        batch_size: rows of the global batch.
        max_examples: number of examples from all corpora together.
    """
    named = zip(corpora.names, corpora.shares, corpora.readers("held_out"), strict=True)
    filled = [(name, share, reader) for name, share, reader in named if len(reader)]
    if not filled:
        return None
    each = -(-max_examples // len(filled))
    sets = [
        _HeldOut(name, share, HeldOutBatches(reader, batch_size=batch_size, max_examples=each))
        for name, share, reader in filled
    ]
    order = [(held_out, index) for held_out in sets for index in range(len(held_out.batches))]

    def batch_at(number: int) -> dict[str, jax.Array]:
        held_out, index = order[number]
        read = functools.partial(held_out.batches.rows, index)
        return sharding.make_global_batch(mesh, batch_size, read)

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        params = state.averaged_params()
        sums: dict[str, Sums] = {held_out.name: {} for held_out in sets}
        with contextlib.closing(read_ahead(batch_at, range(len(order)))) as ahead:
            for number, batch in ahead:
                if should_stop():
                    return None
                found = jax.device_get(program.eval_step(params, batch, np.int32(number)))
                own = sums[order[number][0].name]
                for name, value in found.items():
                    own[name] = own.get(name, 0) + np.asarray(value, float)
        metrics = _means(_mixed(sets, sums))
        for held_out in sets if len(corpora.names) > 1 else ():
            own = _means(sums[held_out.name])
            metrics |= {of_corpus(name, held_out.name): value for name, value in own.items()}
        return metrics

    return evaluate


def _mixed(sets: Sequence[_HeldOut], sums: Mapping[str, Sums]) -> Sums:
    """Adds the sums of all corpora; an example counts as often as training draws it."""
    examples = sum(held_out.batches.examples for held_out in sets)
    whole: Sums = {}
    for held_out in sets:
        often = held_out.share * (examples / held_out.batches.examples)
        for name, value in sums[held_out.name].items():
            whole[name] = whole.get(name, np.zeros(2)) + often * value
    return whole


def _means(sums: Sums) -> dict[str, float]:
    """Divides; leaves out metrics without weight, e.g. if no token of a group was masked."""
    return {name: float(total / weight) for name, (total, weight) in sums.items() if weight > 0}

"""Evaluations of a pre-training run on held-out examples."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.corpora import Corpora
from bertjax.data.stream import HeldOutBatches, read_ahead
from bertjax.pretrain.metrics import of_corpus
from bertjax.train import sharding

Sums = dict[str, np.ndarray]
Evaluator = Callable[[Any, Callable[[], bool]], dict[str, float] | None]
"""(parameters, should_stop) -> metrics, or None if it stopped early."""


def make_evaluator(
    corpora: Corpora,
    eval_step: Callable[..., Any],
    mesh: Mesh,
    *,
    batch_size: int,
    max_examples: int,
    split: str = "held_out",
) -> Evaluator | None:
    """Makes the evaluation on held-out batches with fixed masks; None without held-out examples.

    `eval_step` is that of a `Program`. `split` names other examples to evaluate on.

    Several corpora give the same number of examples each, as far as they have them, at most
    `max_examples` together. The metrics are then those of each corpus (`of_corpus`) and those of
    the training mixture. `batch_size` counts the rows of the global batch.
    """
    shares = dict(zip(corpora.names, corpora.shares, strict=True))
    readers = dict(zip(corpora.names, corpora.readers(split), strict=True))
    filled = {name: reader for name, reader in readers.items() if len(reader)}
    if not filled:
        return None
    each = -(-max_examples // len(filled))
    sets = {
        name: HeldOutBatches(reader, batch_size=batch_size, max_examples=each)
        for name, reader in filled.items()
    }
    order = [(name, index) for name, own in sets.items() for index in range(len(own))]

    def batch_at(number: int) -> dict[str, jax.Array]:
        name, index = order[number]
        read = functools.partial(sets[name].rows, index)
        return sharding.make_global_batch(mesh, batch_size, read)

    def evaluate(params: Any, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        sums: dict[str, Sums] = {name: {} for name in sets}
        with contextlib.closing(read_ahead(batch_at, range(len(order)))) as ahead:
            for number, batch in ahead:
                if should_stop():
                    return None
                found = jax.device_get(eval_step(params, batch, np.int32(number)))
                own = sums[order[number][0]]
                for name, value in found.items():
                    own[name] = own.get(name, 0) + np.asarray(value, float)
        metrics = _means(_mixed(sets, shares, sums))
        for corpus in sets if len(corpora.names) > 1 else ():
            own = _means(sums[corpus])
            metrics |= {of_corpus(name, corpus): value for name, value in own.items()}
        return metrics

    return evaluate


def _mixed(
    sets: Mapping[str, HeldOutBatches], shares: Mapping[str, float], sums: Mapping[str, Sums]
) -> Sums:
    """Adds the sums of all corpora; an example counts as often as training draws it."""
    examples = sum(own.examples for own in sets.values())
    whole: Sums = {}
    for corpus, own in sets.items():
        often = shares[corpus] * (examples / own.examples)
        for name, value in sums[corpus].items():
            whole[name] = whole.get(name, np.zeros(2)) + often * value
    return whole


def _means(sums: Sums) -> dict[str, float]:
    """Divides; leaves out metrics without weight, e.g. if no token of a group was masked."""
    return {name: float(total / weight) for name, (total, weight) in sums.items() if weight > 0}

"""What a pre-training run is measured by: held-out losses, a line that shows them, the verdict."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bertjax.data.corpora import Corpora
from bertjax.data.shards import Manifest
from bertjax.data.stream import HeldOutBatches, read_ahead
from bertjax.objectives.objective import objective_for
from bertjax.pretrain import frequency
from bertjax.pretrain.program import Program
from bertjax.rundir.records import Metric
from bertjax.train import sharding
from bertjax.train.step import TrainState
from bertjax.train.telemetry.fields import Field
from bertjax.train.telemetry.plateau import PlateauMeter

Sums = dict[str, np.ndarray]
Evaluator = Callable[[TrainState, Callable[[], bool]], dict[str, float] | None]
"""(state, should_stop) -> metrics, or None if it was stopped early."""


def metric_names(objective: str) -> tuple[str, ...]:
    """What is measured of a run on data for this objective."""
    names = ("mlm_loss", "mlm_accuracy")
    return names if objective == "mlm" else (*names, f"{objective}_loss", f"{objective}_accuracy")


def of_corpus(metric: str, corpus: str) -> str:
    """The name of a metric of one corpus of several."""
    return f"{metric}.{corpus}"


class _HeldOut(NamedTuple):
    """The held-out examples of one corpus."""

    name: str
    share: float
    """Of the corpus, in training."""
    batches: HeldOutBatches


def make_evaluator(
    corpora: Corpora,
    program: Program,
    mesh: Mesh,
    *,
    batch_size: int,
    max_examples: int,
) -> Evaluator | None:
    """Evaluates on held-out batches with fixed masks; None where nothing was held out.

    Of several corpora each gives the same number of examples, as far as it has them. Metrics are
    then given of each, by `of_corpus`, and of the whole: what they would be of held-out examples
    mixed as those of training are.

    Args:
        corpora: whose "held_out" is read.
        program: of the run.
        mesh: of the program.
        batch_size: rows of the global batch.
        max_examples: of all corpora together.
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
    examples = sum(part.batches.examples for part in sets)
    several = len(corpora.names) > 1

    order = [(part, index) for part in sets for index in range(len(part.batches))]

    def batch_at(number: int) -> dict[str, jax.Array]:
        part, index = order[number]
        read = functools.partial(part.batches.rows, index)
        return sharding.make_global_batch(mesh, batch_size, read)

    def evaluate(state: TrainState, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        names = (*metric_names(objective_for(corpora.manifest.segments)), *program.token_groups)
        params = state.averaged_params()
        sums: dict[str, Sums] = {part.name: dict.fromkeys(names, np.zeros(2)) for part in sets}
        with contextlib.closing(read_ahead(batch_at, range(len(order)))) as ahead:
            for number, batch in ahead:
                if should_stop():
                    return None
                found = jax.device_get(program.eval_step(params, batch, np.int32(number)))
                own = sums[order[number][0].name]
                own.update({name: own[name] + np.asarray(found[name], float) for name in names})
        whole = dict.fromkeys(names, np.zeros(2))
        for part in sets:
            # An example counts as often as training would have drawn it; of one corpus, once.
            often = part.share * (examples / part.batches.examples)
            whole = {name: whole[name] + often * sums[part.name][name] for name in names}
        metrics = _means(whole)
        for part in sets if several else ():
            own = _means(sums[part.name])
            metrics |= {of_corpus(name, part.name): value for name, value in own.items()}
        return metrics

    return evaluate


def _means(sums: Sums) -> dict[str, float]:
    """A metric that nothing was measured for is left out: no token of its group was masked."""
    return {name: float(total / weight) for name, (total, weight) in sums.items() if weight > 0}


def fields(corpora: Corpora) -> tuple[Field, ...]:
    """The metrics of a line, the losses beside what a model gets that knows nothing of the text."""
    task, sentences = objective_for(corpora.manifest.segments), ()
    several = len(corpora.names) > 1
    unigram = majority = None
    if not several:  # of several it is not known
        unigram, majority = corpora.manifest.unigram_entropy, corpora.manifest.majority
    if task != "mlm":
        beside = None if majority is None else ("majority", majority)
        sentences = (
            Field(f"{task}_loss", task, ".3f"),
            Field(f"{task}_accuracy", f"{task}_acc", ".3f", beside),
        )
    own = (
        _loss_field(of_corpus("mlm_loss", name), f"mlm {name}", manifest.unigram_entropy)
        for name, manifest in zip(corpora.names, corpora.manifests, strict=True)
    )
    return (
        _loss_field("mlm_loss", "mlm", unigram),
        *(own if several else ()),
        Field("mlm_accuracy", "mlm_acc", ".3f"),
        *sentences,
        Field("learning_rate", "lr", ".2e", last=True),
        Field("grad_norm", "grad", ".2f"),
    )


def described(corpora: Corpora, groups: Iterable[str]) -> list[Metric]:
    """Describes the held-out metrics for reports, the main one first.

    Args:
        corpora: what is trained on.
        groups: names of the accuracies by frequency.
    """
    task = objective_for(corpora.manifest.segments)
    words = {"mlm": "masked-LM", "nsp": "next-sentence", "sop": "sentence-order"}
    several = len(corpora.names) > 1
    metrics, own = [], []
    for name in metric_names(task):
        objective, _, what = name.partition("_")
        said, better = f"{words[objective]} {what}", "min" if what == "loss" else "max"
        references = [_reference(name, task, manifest) for manifest in corpora.manifests]
        metrics.append(Metric(name, said, better, None if several else references[0]))
        for corpus, reference in zip(corpora.names, references, strict=True):
            title = f"{said} of each corpus"
            own.append(Metric(of_corpus(name, corpus), corpus, better, reference, title))
    by_rank = []
    for suffix, corpus in (
        ("", ""),
        *((f".{name}", f", {name}") for name in corpora.names if several),
    ):
        title = f"masked-LM accuracy by the frequency rank of the masked token{corpus}"
        for name in groups:
            ranks = (
                name.removeprefix(frequency.METRIC).replace("_up", " and up").replace("_", " to ")
            )
            by_rank.append(Metric(name + suffix, ranks, "max", group=title))
    return [*metrics, *(own if several else ()), *by_rank]


def _reference(name: str, task: str, manifest: Manifest) -> tuple[str, float] | None:
    """Words and value that a metric is compared with."""
    known = {
        "mlm_loss": ("unigram entropy", manifest.unigram_entropy),
        f"{task}_accuracy": ("majority", manifest.majority),
    }
    words, value = known.get(name, ("", None))
    return None if value is None else (words, value)


def make_plateau_meter(corpora: Corpora) -> PlateauMeter:
    """A meter of the held-out masked-LM loss, or of those of several corpora."""
    named = [of_corpus("mlm_loss", name) for name in corpora.names]
    metrics = named if len(named) > 1 else ["mlm_loss"]
    entropies = [manifest.unigram_entropy for manifest in corpora.manifests]
    both = zip(metrics, entropies, strict=True)
    return PlateauMeter({name: entropy for name, entropy in both if entropy is not None})


def _loss_field(name: str, label: str, unigram: float | None) -> Field:
    return Field(name, label, ".3f", None if unigram is None else ("unigram entropy", unigram))


def verdict(step: int, scores: Mapping[str, Any], corpora: Corpora, export: epath.Path) -> str:
    """The one sentence that a run comes to."""
    sentence = f"Trained {step:,} steps"
    if scores:
        sentence += f": held-out masked-LM loss {_nats(scores['mlm_loss'])}"
        sentence += f" ({_beside_loss(scores, corpora)})"
        if (task := objective_for(corpora.manifest.segments)) != "mlm":
            what = "next-sentence" if task == "nsp" else "sentence-order"
            sentence += f", {what} accuracy {scores[f'{task}_accuracy']:.1%}"
            if len(corpora.names) == 1:
                sentence += f" (majority {corpora.manifest.majority:.1%})"
    return f"{sentence}. The model is in {export}."


def _nats(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3f} nats"  # None: how a record says NaN


def _beside_loss(scores: Mapping[str, Any], corpora: Corpora) -> str:
    if len(corpora.names) == 1:
        return f"unigram entropy {corpora.manifest.unigram_entropy:.3f}"
    return "; ".join(
        f"{name} {loss:.3f}, unigram entropy {manifest.unigram_entropy:.3f}"
        for name, manifest in zip(corpora.names, corpora.manifests, strict=True)
        if (loss := scores.get(of_corpus("mlm_loss", name))) is not None
    )

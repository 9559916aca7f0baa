"""The metrics of a pre-training run in its lines, its report and its last sentence."""

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from bertjax.data.corpora import Corpora
from bertjax.data.shards import Manifest
from bertjax.objectives import objective as objectives
from bertjax.objectives.objective import MAJORITY, UNIGRAM, Objective
from bertjax.pretrain import frequency
from bertjax.rundir.records import Metric
from bertjax.train.telemetry.fields import Field, rate_fields
from bertjax.train.telemetry.plateau import PlateauMeter


def of_corpus(metric: str, corpus: str) -> str:
    """Returns the name of a metric of one corpus among several."""
    return f"{metric}.{corpus}"


def fields(corpora: Corpora, objective: Objective, groups: Iterable[str]) -> tuple[Field, ...]:
    """Returns the metrics of a line, with their baselines, and the learning rates of `groups`."""
    found = []
    for metric in objective.metrics:
        found.append(Field(metric.name, metric.label, reference=_baseline(metric, corpora)))
        if len(corpora.names) > 1 and metric.baseline == UNIGRAM:
            for name, manifest in zip(corpora.names, corpora.manifests, strict=True):
                own, label = of_corpus(metric.name, name), f"{metric.label} {name}"
                found.append(Field(own, label, reference=_baseline_of(metric, manifest)))
    scheduled = Field("batch_size", "rows", ".0f"), Field("masking_rate", "masked", ".0%")
    return (*found, *rate_fields(groups, ".2e"), Field("grad_norm", "grad", ".2f"), *scheduled)


def described(corpora: Corpora, objective: Objective, groups: Iterable[str]) -> list[Metric]:
    """Describes the held-out metrics for reports, those of `groups` by frequency last."""
    several = len(corpora.names) > 1
    masks = any(metric.baseline == UNIGRAM for metric in objective.metrics)
    metrics, own, by_rank = [], [], []
    for metric in objective.metrics:
        reference = _baseline(metric, corpora)
        metrics.append(Metric(metric.name, metric.words, metric.better, reference))
        for name, manifest in zip(corpora.names, corpora.manifests, strict=True):
            title, reference = f"{metric.words} of each corpus", _baseline_of(metric, manifest)
            own.append(Metric(of_corpus(metric.name, name), name, metric.better, reference, title))
    suffixes = {"": "", **({f".{name}": f", {name}" for name in corpora.names} if several else {})}
    for suffix, corpus in suffixes.items():
        title = f"masked-LM accuracy by the frequency rank of the masked token{corpus}"
        for name in groups if masks else ():
            ranks = name.removeprefix(frequency.METRIC).replace("_up", " and up")
            ranks = ranks.replace("_", " to ")
            by_rank.append(Metric(name + suffix, ranks, "max", group=title))
    data = str(corpora.setting())
    return [each._replace(data=data) for each in (*metrics, *(own if several else ()), *by_rank)]


def make_plateau_meter(corpora: Corpora, objective: Objective) -> PlateauMeter:
    """Makes a meter of the held-out losses that have a unigram entropy to compare with."""
    entropies = {}
    for metric in objective.metrics:
        if metric.baseline == UNIGRAM:
            for name, manifest in zip(corpora.names, corpora.manifests, strict=True):
                own = of_corpus(metric.name, name) if len(corpora.names) > 1 else metric.name
                if manifest.unigram_entropy is not None:
                    entropies[own] = manifest.unigram_entropy
    return PlateauMeter(entropies)


def verdict(
    step: int, scores: Mapping[str, Any], corpora: Corpora, objective: Objective, export: epath.Path
) -> str:
    """Returns the sentence that ends a run."""
    said = [
        f"{metric.words} {_number(metric, scores[metric.name])}{_beside(metric, scores, corpora)}"
        for metric in objective.metrics
        if metric.in_verdict and metric.name in scores
    ]
    held_out = f": held-out {', '.join(said)}" if said else ""
    return f"Trained {step:,} steps{held_out}. The model is in {export}."


def _baseline(metric: objectives.Metric, corpora: Corpora) -> tuple[str, float] | None:
    """Returns words and score of the baseline; None if there is none, or for a mixture."""
    return _baseline_of(metric, corpora.manifest) if len(corpora.names) == 1 else None


def _baseline_of(metric: objectives.Metric, manifest: Manifest) -> tuple[str, float] | None:
    scores = {UNIGRAM: manifest.unigram_entropy, MAJORITY: manifest.majority}
    score = None if metric.baseline is None else scores[metric.baseline]
    return None if metric.baseline is None or score is None else (metric.baseline, score)


def _number(metric: objectives.Metric, value: float | None) -> str:
    if value is None:  # records store NaN as null
        return "not finite"
    return f"{value:.3f} nats" if metric.is_loss else f"{value:.1%}"


def _beside(metric: objectives.Metric, scores: Mapping[str, Any], corpora: Corpora) -> str:
    """Returns the baseline in brackets; for the loss of several corpora, the value of each."""
    if baseline := _baseline(metric, corpora):
        words, score = baseline
        return f" ({words} {score:.3f})" if metric.is_loss else f" ({words} {score:.1%})"
    if len(corpora.names) == 1 or metric.baseline != UNIGRAM:
        return ""
    each = "; ".join(
        f"{name} {loss:.3f}, {UNIGRAM} {manifest.unigram_entropy:.3f}"
        for name, manifest in zip(corpora.names, corpora.manifests, strict=True)
        if (loss := scores.get(of_corpus(metric.name, name))) is not None
    )
    return f" ({each})"

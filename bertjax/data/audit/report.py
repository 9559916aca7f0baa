"""The report of an audit: its numbers, which `audit.json` keeps beside the manifest, and findings.

`measure.py` and `duplicates.py` count, this module turns counts into numbers, and `findings.py`
decides which of them are warnings.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data.audit.duplicates import RUN_TOKENS
from bertjax.data.audit.findings import BOILERPLATE_SHARE, MASKED_RATE, MIN_BOILERPLATE, Finding
from bertjax.data.audit.measure import ExampleSums
from bertjax.data.shards import SPLITS, Manifest

FILE = "audit.json"
_FORMAT_VERSION = 1
# Fewer runs from A into B say nothing about the labels.
_MIN_JOINTS = 100


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an audit."""

    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    def to_json(self) -> str:
        """Returns the text of `audit.json`."""
        fields = {"format_version": _FORMAT_VERSION, "numbers": self.numbers}
        fields["warnings"] = [finding._asdict() for finding in self.findings]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """Returns a line for each known number."""
        known = (item for item in self.numbers.items() if item[1] is not None)
        return [f"{name}: {_shown(value)}" for name, value in known]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_report(directory: epath.Path) -> Report | None:
    """Reads the report that `prepare` left; None if there is none that this version can read."""
    try:
        fields = json.loads((directory / FILE).read_bytes())
        findings = tuple(Finding(**row) for row in fields["warnings"])
        report = Report(dict(fields["numbers"]), findings)
        return report if fields["format_version"] == _FORMAT_VERSION else None
    except (FileNotFoundError, KeyError, RecursionError, TypeError, ValueError):
        return None


def is_clean(directory: epath.Path) -> bool:
    """Whether `prepare` left a report without warnings."""
    report = read_report(directory)
    return report is not None and not report.findings


def log_warnings(reports: Sequence[Report | None], log: Callable[[str], None]) -> None:
    """Logs each warning of the reports once."""
    findings = [finding for report in reports if report for finding in report.findings]
    for sentence in dict.fromkeys(finding.sentence for finding in findings):
        log(f"Warning: {sentence}")


def text_numbers(sums: Counter[str], words: int) -> dict[str, Any]:
    """Returns the numbers of the sums of `measure.TextSums` and `measure.document_sums`."""
    return {
        "documents": sums["documents"],
        "sentences": sums["sentences"],
        "words": words,
        "tokens": sums["tokens"],
        "one_sentence_documents": share(sums["one_sentence_documents"], sums["documents"]),
        "sentences_per_document": share(sums["sentences"], sums["documents"]),
        "long_sentences": share(sums["long_sentences"], sums["sentences"]),
        "unknown_tokens": share(sums["unknown_tokens"], sums["tokens"]),
        "pieces_per_word": share(sums["tokens"], words),
        "characters_per_word": share(sums["characters"], words),
        "unspaced_characters": share(sums["unspaced_characters"], sums["sampled_characters"]),
        "upper_case_characters": share(sums["upper_case_characters"], sums["characters"]),
        "markup_lines": share(sums["markup_lines"], sums["lines"]),
        "paragraph_characters": share(sums["paragraph_characters"], sums["sampled_characters"]),
    }


def example_numbers(
    manifest: Manifest,
    lengths: Mapping[str, np.ndarray],
    random: Mapping[str, int],
    max_predictions: int | None = None,
) -> dict[str, Any]:
    """Returns the numbers of examples.

    For each split, `lengths` has the number of examples with 0, 1, 2, ... tokens, and `random` that
    with label 1. `max_predictions` is the maximum number of predictions in an example, if any.
    """
    length, counts = manifest.max_seq_length, lengths["train"]
    sizes = np.arange(len(counts))
    examples = {split: int(np.sum(each)) for split, each in lengths.items()}
    label_1 = {split: share(random[split], examples[split]) for split in SPLITS}
    wanted = np.maximum(1, np.round(sizes * MASKED_RATE)) * counts
    budget = counts * (length if max_predictions is None else max_predictions)
    capacity = examples["train"] * length
    return {
        "segments": manifest.segments,
        "max_seq_length": length,
        "examples": examples,
        "padding": share(capacity - int(counts @ sizes), capacity),
        "label_1": label_1 if manifest.segment_kind.is_pair else None,
        "max_predictions": max_predictions,
        "predictions_cut": share(np.maximum(wanted - budget, 0).sum(), wanted.sum()),
    }


def repeat_numbers(
    train: np.ndarray, held_out: np.ndarray, bits: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the numbers of repeated sentences and, by finding, the hashes of those it is about.

    `train` and `held_out` are hashes, one in 2 ** `bits`. Boilerplate is counted apart.
    """
    hashes, times = np.unique(np.concatenate([train, held_out]), return_counts=True)
    total = int(times.sum())
    by_machine = times >= max(MIN_BOILERPLATE, BOILERPLATE_SHARE * (total << bits))
    others = times[~by_machine]
    in_train = np.isin(held_out, np.setdiff1d(train, hashes[by_machine]))
    numbers = {
        "compared": "all" if bits == 0 else f"one in {1 << bits}, chosen by a hash of the sentence",
        "compared_sentences": total,
        "repeated_sentences": share(others.sum() - len(others), total),
        "boilerplate_times": int(times[by_machine].max(initial=0)),
        "held_out_in_train": share(in_train.sum(), len(held_out)),
    }
    return numbers, {
        "boilerplate": hashes[by_machine],
        "repeated_sentences": hashes[(times > 1) & ~by_machine],
        "held_out_in_train": held_out[in_train],
    }


def run_numbers(sums: Mapping[str, ExampleSums], bits: int, text_tokens: int) -> dict[str, Any]:
    """Returns the numbers of repeated runs of tokens in examples whose sentences are unknown.

    `text_tokens` is the number of tokens in the text that the examples come from; 0 if unknown.
    """
    empty = np.zeros(0, np.uint64)
    train, held_out = (np.concatenate([empty, *sums[split].inside]) for split in SPLITS)
    joints = np.concatenate([empty, *(each for split in SPLITS for each in sums[split].joints)])
    distinct = np.unique(np.concatenate([train, held_out]))
    passes = share(sum(each.tokens for each in sums.values()), text_tokens)
    follows = share(np.isin(joints, distinct).sum(), len(joints))
    return {
        "compared": f"one in {1 << bits} runs of {RUN_TOKENS} tokens, chosen by a hash",
        "held_out_in_train": share(np.isin(held_out, train).sum(), len(held_out)),
        "repeated_text": share(len(train) + len(held_out), len(distinct) * passes),
        "random_that_follows": follows if len(joints) >= _MIN_JOINTS else None,
    }


def share(part: Any, whole: Any) -> float:
    """Returns part / whole, rounded to six digits; 0 if `whole` is 0."""
    return round(float(part / whole), 6) if whole else 0.0

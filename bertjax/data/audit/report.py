"""What is wrong with a text, or with examples made of it: the report.

`measure.py` and `repeats.py` count; here the counts become numbers, which are kept in audit.json
beside the manifest, and `findings.py` says which of them are warnings. `inspection.py` audits what
is not being prepared.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit.duplicates import WINDOW_TOKENS, Repeats, is_sampled
from bertjax.data.audit.findings import (
    BOILERPLATE_SHARE,
    BOILERPLATE_TIMES,
    MASKED_RATE,
    Finding,
)
from bertjax.data.audit.measure import DOCUMENT_SUMS, TEXT_SUMS, ExampleSums
from bertjax.data.segments import SEGMENTS

FILE = "audit.json"
_FORMAT_VERSION = 1
_LENGTH_BINS = 8
_LISTED_SHARE = 6  # digits
# Of fewer places where B begins, a share is chance.
_FEWEST_JOINTS = 100


@dataclasses.dataclass(frozen=True)
class Report:
    """What an audit found."""

    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    def to_json(self) -> str:
        """The text of `audit.json`."""
        fields = {
            "format_version": _FORMAT_VERSION,
            "warnings": [finding._asdict() for finding in self.findings],
            "numbers": self.numbers,
        }
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def read(directory: epath.Path) -> Report | None:
    """The report that `prepare` left; None if there is none, or one of another version."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_bytes())
        if fields["format_version"] != _FORMAT_VERSION:
            return None
        findings = tuple(Finding(str(row["name"]), str(row["says"])) for row in fields["warnings"])
        numbers = dict(fields["numbers"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    if {type(numbers[name]) for name in OF_THE_TEXT if name in numbers} - {int, float}:
        return None
    return Report(numbers, findings)


def is_clean(directory: epath.Path) -> bool:
    """Whether `prepare` left a report here, and it has no warning."""
    report = read(directory)
    return report is not None and not report.findings


def tell(reports: Sequence[Report | None], log: Callable[[str], None]) -> None:
    """Says all warnings, each once."""
    findings = [finding for report in reports if report is not None for finding in report.findings]
    for says in dict.fromkeys(finding.says for finding in findings):
        log(f"Warning: {says}")


# Numbers ----------------------------------------------------------------------------------------


def text_numbers(sums: Mapping[str, int], words: int) -> dict[str, Any]:
    """What the sums of `measure.TextSums`, over so many words, say."""
    return {
        "words": words,
        "tokens": sums["tokens"],
        "unknown_tokens": share(sums["unknown_tokens"], sums["tokens"]),
        "pieces_per_word": share(sums["tokens"], words),
        "characters_per_word": share(sums["characters"], words),
        "upper_case_characters": share(sums["upper_case_characters"], sums["characters"]),
        "markup_lines": share(sums["markup_lines"], sums["lines"]),
        "paragraph_characters": share(sums["paragraph_characters"], sums["sampled_characters"]),
    }


def document_numbers(sums: Mapping[str, int]) -> dict[str, Any]:
    """What the sums of `measure.document_sums` say."""
    return {
        "documents": sums["documents"],
        "sentences": sums["sentences"],
        "one_sentence_documents": share(sums["one_sentence_documents"], sums["documents"]),
        "sentences_per_document": share(sums["sentences"], sums["documents"]),
        "long_sentences": share(sums["long_sentences"], sums["sentences"]),
    }


def example_numbers(
    segments: str,
    max_seq_length: int,
    lengths: Mapping[str, Sequence[int]],
    random: Mapping[str, int],
    max_predictions: int | None = None,
) -> dict[str, Any]:
    """What is known of examples alone.

    Args:
        segments: what they hold, a key of `SEGMENTS`.
        max_seq_length: tokens of a row.
        lengths: of each split, how many examples have 0, 1, 2, ... tokens, special ones included.
        random: of each split, how many examples have label 1.
        max_predictions: how many an example may predict; None: what the rate asks for.
    """
    counts = np.asarray(lengths["train"], np.int64)
    sizes = np.arange(len(counts))
    examples = int(counts.sum())
    edges = [max_seq_length * (place + 1) // _LENGTH_BINS for place in range(_LENGTH_BINS)]
    bins = np.bincount(np.searchsorted(edges, sizes), weights=counts, minlength=_LENGTH_BINS)
    wanted = np.maximum(1, np.round(sizes * MASKED_RATE)) * counts
    budget = counts * (max_seq_length if max_predictions is None else max_predictions)
    return {
        "segments": segments,
        "max_seq_length": max_seq_length,
        "examples": {split: int(sum(each)) for split, each in lengths.items()},
        "padding": share(
            examples * max_seq_length - int(counts @ sizes), examples * max_seq_length
        ),
        "lengths": {
            f"to {edge}": share(int(count), examples)
            for edge, count in zip(edges, bins, strict=True)
        },
        "label_1": {split: share(count, sum(lengths[split])) for split, count in random.items()}
        if SEGMENTS[segments].is_pair
        else None,
        "max_predictions": max_predictions,
        "predictions_cut": share(int(np.maximum(wanted - budget, 0).sum()), int(wanted.sum())),
    }


def repeat_numbers(train: Repeats, held_out: Repeats, bits: int) -> dict[str, Any]:
    """What sentences stand in the text more than once, and in held-out and training text; those
    that a machine repeats count apart.

    Args:
        train: hashes of the training sentences (see `repeats.sentence_hashes`).
        held_out: of the held-out ones.
        bits: of the hashes' sample.
    """
    both = Repeats.merged([train, held_out])
    by_machine = _by_machine(both, bits)
    others = both.counts[~by_machine]
    trained = np.isin(held_out.hashes, train.hashes, assume_unique=True)
    trained &= np.isin(held_out.hashes, both.hashes[~by_machine], assume_unique=True)
    return {
        "compared": "all" if bits == 0 else f"one in {1 << bits}, chosen by a hash of the sentence",
        "compared_sentences": both.total,
        "repeated_sentences": share(int(others.sum()) - len(others), both.total),
        "boilerplate_times": int(both.counts[by_machine].max()) if by_machine.any() else 0,
        "boilerplate_sentences": share(int(both.counts[by_machine].sum()), both.total),
        "held_out_in_train": share(int(held_out.counts[trained].sum()), held_out.total),
    }


def run_numbers(sums: Mapping[str, ExampleSums], text_tokens: int) -> dict[str, Any]:
    """What repeats in examples whose sentences are not known.

    Args:
        sums: of each split.
        text_tokens: of the text that the examples were made from; 0: not known.
    """
    bits = max(each.bits for each in sums.values())
    train, held_out = (sums[split].inside().sampled(bits) for split in shards.SPLITS)
    both = Repeats.merged([train, held_out])
    joints = np.concatenate([each.joints() for each in sums.values()])
    joints = joints[is_sampled(joints, bits)]
    trained = np.isin(held_out.hashes, train.hashes, assume_unique=True)
    passes = share(sum(each.tokens for each in sums.values()), text_tokens)
    return {
        "compared": f"one in {1 << bits} runs of {WINDOW_TOKENS} tokens, chosen by a hash",
        "held_out_in_train": share(int(held_out.counts[trained].sum()), held_out.total),
        "repeated_text": share(both.total, len(both.hashes) * passes) if text_tokens else None,
        "random_that_follows": share(int(np.isin(joints, both.hashes).sum()), len(joints))
        if len(joints) >= _FEWEST_JOINTS
        else None,
    }


def repeated_hashes(finding: str, train: Repeats, held_out: Repeats, bits: int) -> np.ndarray:
    """The hashes of the sentences that a finding is about, if it is about repeated ones."""
    both = Repeats.merged([train, held_out])
    by_machine = _by_machine(both, bits)
    if finding == "held_out_in_train":
        in_both = np.intersect1d(train.hashes, held_out.hashes)
        return np.setdiff1d(in_both, both.hashes[by_machine])
    if finding == "boilerplate":
        return both.hashes[by_machine]
    if finding == "repeated_sentences":
        return both.hashes[(both.counts > 1) & ~by_machine]
    return np.zeros(0, np.uint64)


def _by_machine(sentences: Repeats, bits: int) -> np.ndarray:
    """Which sentences are so frequent that nobody wrote them all: bool [distinct]."""
    in_the_text = sentences.total << bits  # as far as the sample tells
    return sentences.counts >= max(BOILERPLATE_TIMES, BOILERPLATE_SHARE * in_the_text)


def share(part: float, whole: float) -> float:
    """part / whole as a report has it; 0 of nothing."""
    return round(part / whole, _LISTED_SHARE) if whole else 0.0


OF_THE_TEXT = (
    *text_numbers(dict.fromkeys(TEXT_SUMS, 0), 0),
    *document_numbers(dict.fromkeys(DOCUMENT_SUMS, 0)),
    "repeated_sentences",
)
"""Names of the numbers that `prepare` knows of a text."""

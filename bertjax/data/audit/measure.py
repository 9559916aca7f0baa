"""Counts what the audit reports, such as leftover markup: in text, in documents and examples, and
in finished shards.

All sums are integers that add up, so any number of processes gives the same ones.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.audit import duplicates
from bertjax.data.pairs import FlatDocuments, Pair, Spans, offsets_of
from bertjax.data.shards import Manifest

# One in this many lines is searched for sentence ends, and only its first characters: a regular
# expression on every line would cost more than the rest of the audit.
_PARAGRAPH_SAMPLE = 32
_PARAGRAPH_CHARACTERS = 2000
# A line with this many sentence ends inside is a paragraph. Abbreviations and quotations look like
# one end in 6% of the lines of 87 split novels, and like three in 0.07%.
_PARAGRAPH_ENDS = 3
_END = re.compile(r"[.!?…][\"'”’»)]*\s+[\"'“‘«(]*(\w)|[。！？।؟۔]\s*(?=[^\s。！？।؟۔])")
# An HTML tag or comment, an entity, a wiki link or template; not WikiText's <unk>.
_MARKUP = re.compile(
    r"</?(?!unk>)[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|<!--|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]{2,6});"
    r"|\[\[[^\[\]]+\]\]|\{\{[^{}]+\}\}"
)
_MARKS = ("<", "&", "[[", "{{")
# Letters of scripts that don't put spaces between words: Thai, Lao, Burmese, Khmer, Japanese and
# Chinese.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
QUOTED_CHARACTERS = 100


class Example(NamedTuple):
    """A line of the text that shows a finding."""

    badness: int
    """How well it shows the finding, at least 1."""
    file: int
    """The index of its source in the corpus."""
    line: str
    """The line, or its first `QUOTED_CHARACTERS`."""


class TextSums:
    """Sums over lines (sentences) and their ids, and an example of each finding."""

    def __init__(self, unk_id: int) -> None:
        self._unk_id = unk_id
        self.sums: Counter[str] = Counter()
        self.examples: dict[str, Example] = {}
        """By finding, the first of the worst lines."""

    def add(
        self, documents: Sequence[tuple[int, Sequence[str]]], ids: np.ndarray, offsets: np.ndarray
    ) -> None:
        """Adds documents, each given by the index of its source and its lines.

        `ids` [tokens] are those of all lines, and `offsets` [lines + 1] the beginning of each.
        """
        lines = [line for _, document in documents for line in document]
        files = [file for file, document in documents for _ in document]
        text = "\n".join(lines)
        upper = [number for number, is_upper in enumerate(map(str.isupper, lines)) if is_upper]
        markup = {
            number
            for mark in _MARKS
            if mark in text  # false for most texts
            for number, line in enumerate(lines)
            if mark in line and _MARKUP.search(line)
        }
        sampled = range(0, len(lines), _PARAGRAPH_SAMPLE)
        paragraphs = [n for n in sampled if _ends_inside(lines[n]) >= _PARAGRAPH_ENDS]
        found = {"upper_case": upper, "markup": markup, "paragraphs": paragraphs}
        worst = {finding: (min(numbers), 1) for finding, numbers in found.items() if numbers}
        is_unknown = ids == self._unk_id
        unknown = np.diff(offsets_of(is_unknown)[offsets])
        for finding, badness in (("unknown_tokens", unknown), ("long_sentences", np.diff(offsets))):
            worst[finding] = int(badness.argmax()), int(badness.max())
        for finding, (number, badness) in worst.items():
            example = Example(badness, files[number], lines[number][:QUOTED_CHARACTERS])
            self._keep(finding, example)
        self.sums.update(
            lines=len(lines),
            characters=len(text) - (len(lines) - 1),
            tokens=len(ids),
            unknown_tokens=int(is_unknown.sum()),
            upper_case_characters=sum(len(lines[number]) for number in upper),
            markup_lines=len(markup),
            sampled_characters=sum(len(lines[number]) for number in sampled),
            unspaced_characters=sum(_unspaced(lines[number]) for number in sampled),
            paragraph_characters=sum(len(lines[number]) for number in paragraphs),
        )

    def _keep(self, finding: str, example: Example) -> None:
        known = self.examples.get(finding)
        if example.badness > (known.badness if known else 0):
            self.examples[finding] = example

    def to_json(self) -> dict[str, Any]:
        """Returns what `merged` accepts."""
        return {"sums": self.sums, "examples": self.examples}

    @classmethod
    def merged(cls, parts: Iterable[dict[str, Any]]) -> "TextSums":
        """Adds up results of `to_json`, given in the order of the text."""
        total = cls(unk_id=-1)
        for part in parts:
            total.sums.update(part["sums"])
            for finding, example in part["examples"].items():
                total._keep(finding, Example(*example))
        return total


def _ends_inside(line: str) -> int:
    """Counts the sentences that seem to end before the line does."""
    ends = _END.finditer(line[:_PARAGRAPH_CHARACTERS])
    return sum(end[1] is None or end[1].isupper() for end in ends)


def _unspaced(line: str) -> int:
    """Counts the letters of scripts without spaces."""
    return 0 if line.isascii() else sum(map(len, _UNSPACED.findall(line)))


def document_sums(documents: FlatDocuments, max_tokens: int) -> dict[str, int]:
    """Returns sums over documents; a sentence of more than `max_tokens` tokens is long."""
    sentences = np.diff(documents.document_offsets)
    tokens = np.diff(documents.sentence_offsets)
    return {
        "documents": len(sentences),
        "sentences": len(tokens),
        "one_sentence_documents": int((sentences == 1).sum()),
        "long_sentences": int((tokens > max_tokens).sum()),
    }


def same_document(documents: FlatDocuments, spans: Spans) -> int:
    """Counts the random pairs whose B comes from the document of A."""
    bounds = documents.sentence_offsets[documents.document_offsets]
    starts = np.stack([spans.a_start, spans.b_start])[:, spans.is_random]
    of_a, of_b = np.searchsorted(bounds, starts, side="right")
    return int((of_a == of_b).sum())


class ExampleSums:
    """Sums over the examples of a split, and hashes of their runs of tokens."""

    def __init__(self, manifest: Manifest, bits: int) -> None:
        """Samples one in 2 ** `bits` runs of tokens."""
        self._manifest, self._bits = manifest, bits
        self.lengths = np.zeros(manifest.max_seq_length + 1, np.int64)
        """The number of examples with 0, 1, ... tokens, special tokens included."""
        self.random = self.tokens = self.unknown = self.out_of_range = 0
        """Examples with label 1, tokens without special ones, unknown tokens, and examples with ids
        outside the vocabulary."""
        self.inside: list[np.ndarray] = []
        """Hashes of the runs inside A or inside B, for each call of `add`."""
        self.joints: list[np.ndarray] = []
        """Hashes of the runs from A into B, of the examples with label 1."""

    def add(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Adds examples; returns the indices of those with ids out of range, int64 [n]."""
        segments = [segment for pair in pairs for segment in (pair.a, pair.b)]
        offsets = offsets_of(np.fromiter(map(len, segments), np.int64, len(segments)))
        ids = np.concatenate(segments).astype(np.int64)
        is_random = np.fromiter((pair.is_random for pair in pairs), bool, len(pairs))
        outside = np.flatnonzero((ids < 0) | (ids >= self._manifest.vocab_size))
        outside = np.unique(np.searchsorted(offsets[::2], outside, side="right") - 1)
        tokens = np.diff(offsets[::2]) + self._manifest.segment_kind.special_tokens
        self.lengths += np.bincount(tokens, minlength=len(self.lengths))
        self.random += int(is_random.sum())
        self.tokens += len(ids)
        self.unknown += int((ids == self._manifest.unk_id).sum())
        self.out_of_range += len(outside)

        hashes, first, last = duplicates.runs(ids, offsets, self._bits)
        self.inside.append(hashes[first == last])
        is_joint = (first != last) & (first // 2 == last // 2) & is_random[first // 2]
        self.joints.append(hashes[is_joint])
        return outside

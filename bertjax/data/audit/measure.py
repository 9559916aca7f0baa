"""What the audit counts (`audit.py` says what it means): sums over text while it is tokenised, over
documents and their examples while they are made, and over examples that someone else made.

Sums are plain JSON numbers that add up, so that any number of processes gives the same ones.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.audit.duplicates import Repeats, is_sampled, window_hashes
from bertjax.data.pairs import FlatDocuments, Pair, Spans, offsets_of

# Whether a line holds several sentences is looked up in one of so many (a regular expression on
# every line would cost more than the rest of the audit), and in their first characters.
PARAGRAPH_SAMPLE = 32
_PARAGRAPH_CHARACTERS = 2000
# Ends of sentences inside a line that make it a paragraph. Abbreviations and quotations look like
# one in 6% of the lines of a text that was split (87 novels), and like three in 0.07%.
_PARAGRAPH_ENDS = 3
_END = re.compile(r"[.!?…][\"'”’»)]*\s+[\"'“‘«(]*(\w)|[。！？।؟۔]\s*(?=[^\s。！？।؟۔])")
# An HTML tag or comment, an entity, a link or template of a wiki.
_MARKUP = re.compile(
    r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|<!--|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]{2,6});"
    r"|\[\[[^\[\]]+\]\]|\{\{[^{}]+\}\}"
)
_MARKS = ("<", "&", "[[", "{{")
_EXCERPT = 100


# Text -------------------------------------------------------------------------------------------

TEXT_SUMS = ("lines", "characters", "tokens", "unknown_tokens", "upper_case_characters")
TEXT_SUMS += ("markup_lines", "sampled_characters", "paragraph_characters")
"""What is counted of a text."""


class Example(NamedTuple):
    """A line of the text that shows a finding."""

    badness: int
    """How much it does, at least 1."""
    file: int
    """The number of its file in the corpus."""
    beginning: str
    """Of the line."""

    def excerpt(self) -> str:
        """The beginning, and dots if the line may go on."""
        return self.beginning + ("..." if len(self.beginning) == _EXCERPT else "")

    @classmethod
    def of(cls, file: int, line: str, badness: int = 1) -> "Example":
        """The example of a line, of which the beginning is kept."""
        return cls(badness, file, line[:_EXCERPT])


class TextSums:
    """Sums over lines (sentences) and their ids, and an example in the text of each finding.

    The kinds of examples are the names of findings (`findings.py`).
    """

    def __init__(self, unk_id: int) -> None:
        self._unk_id = unk_id
        self.sums: dict[str, int] = dict.fromkeys(TEXT_SUMS, 0)
        self.examples: dict[str, Example] = {}
        """By the kind of finding: the first line, of the worst ones."""

    def add(
        self,
        documents: Sequence[tuple[int, Sequence[str]]],
        ids: np.ndarray,
        offsets: np.ndarray,
    ) -> None:
        """Adds documents.

        Args:
            documents: (number of the file, lines) of each.
            ids: of all lines, [tokens].
            offsets: where each line begins in `ids`, and the end of the last: [lines + 1].
        """
        lines = [line for _, document in documents for line in document]
        files = [file for file, document in documents for _ in document]
        text, marked = "\n".join(lines), set()
        self.sums["lines"] += len(lines)
        self.sums["characters"] += len(text) - (len(lines) - 1)
        for number in np.flatnonzero(np.fromiter(map(str.isupper, lines), bool, len(lines))):
            self.sums["upper_case_characters"] += len(lines[number])
            self._example("upper_case", files[number], lines[number])
        for mark in _MARKS:
            if mark in text:  # which is quick, and most texts have none
                numbers = [number for number, line in enumerate(lines) if mark in line]
                marked.update(number for number in numbers if _MARKUP.search(lines[number]))
        for number in sorted(marked):
            self._example("markup", files[number], lines[number])
        self.sums["markup_lines"] += len(marked)
        for number in range(0, len(lines), PARAGRAPH_SAMPLE):
            line = lines[number]
            self.sums["sampled_characters"] += len(line)
            if _ends_inside(line) >= _PARAGRAPH_ENDS:
                self.sums["paragraph_characters"] += len(line)
                self._example("paragraphs", files[number], line)
        self._add_ids(lines, files, ids, offsets)

    def _add_ids(
        self, lines: Sequence[str], files: Sequence[int], ids: np.ndarray, offsets: np.ndarray
    ) -> None:
        places = np.flatnonzero(ids == self._unk_id)
        unknown = np.bincount(
            np.searchsorted(offsets, places, side="right") - 1, minlength=len(lines)
        )
        self.sums["tokens"] += len(ids)
        self.sums["unknown_tokens"] += len(places)
        for kind, badness in (("unknown_tokens", unknown), ("long_sentences", np.diff(offsets))):
            number = int(badness.argmax())
            self._example(kind, files[number], lines[number], int(badness[number]))

    def _example(self, kind: str, file: int, line: str, badness: int = 1) -> None:
        if badness > (self.examples[kind].badness if kind in self.examples else 0):
            self.examples[kind] = Example.of(file, line, badness)

    def to_json(self) -> dict[str, Any]:
        """What `merged` takes."""
        return {"sums": self.sums, "examples": self.examples}

    @classmethod
    def merged(cls, parts: Iterable[dict[str, Any]]) -> "TextSums":
        """Adds up what `to_json` gave, in the order of the text."""
        whole = cls(unk_id=-1)
        for part in parts:
            for name, value in part["sums"].items():
                whole.sums[name] += value
            for kind, (badness, file, line) in part["examples"].items():
                whole._example(kind, file, line, badness)
        return whole


def _ends_inside(line: str) -> int:
    """How many sentences seem to end before the line does."""
    ends = _END.finditer(line[:_PARAGRAPH_CHARACTERS])
    return sum(end[1] is None or end[1].isupper() for end in ends)


# Documents and examples -------------------------------------------------------------------------


DOCUMENT_SUMS = ("documents", "sentences", "one_sentence_documents", "long_sentences")
"""What is counted of documents."""


def document_sums(documents: FlatDocuments, limit: int) -> dict[str, int]:
    """Sums over documents.

    Args:
        documents: the text.
        limit: tokens of an example, special ones left out.
    """
    sentences = np.diff(documents.document_offsets)
    tokens = np.diff(documents.sentence_offsets)
    single, long = int((sentences == 1).sum()), int((tokens > limit).sum())
    return dict(zip(DOCUMENT_SUMS, (len(sentences), len(tokens), single, long), strict=True))


def same_document(documents: FlatDocuments, spans: Spans) -> int:
    """How many random pairs have a B from A's own document."""
    bounds = documents.sentence_offsets[documents.document_offsets]
    of_a, of_b = (
        np.searchsorted(bounds, start[spans.is_random], side="right")
        for start in (spans.a_start, spans.b_start)
    )
    return int((of_a == of_b).sum())


def lengths_of(spans: Spans, max_seq_length: int, special_tokens: int) -> np.ndarray:
    """How many examples have 0, 1, ... tokens, special ones included: [max_seq_length + 1]."""
    tokens = spans.a_stop - spans.a_start + spans.b_stop - spans.b_start
    return np.bincount(tokens + special_tokens, minlength=max_seq_length + 1)


class ExampleSums:
    """Sums over the examples of a split, whoever made them, and hashes of their runs of tokens."""

    # Overlapping runs say little more than one in 16 of them; of a large text it is fewer.
    _LEAST_BITS = 4
    _MOST_HASHES = 1 << 20

    def __init__(self, max_seq_length: int, vocab_size: int, unk_id: int, specials: int) -> None:
        self._vocab_size, self._unk_id, self._specials = vocab_size, unk_id, specials
        self.lengths = np.zeros(max_seq_length + 1, np.int64)
        """How many examples have 0, 1, ... tokens, special ones included."""
        self.random = 0
        """How many have label 1."""
        self.tokens = 0
        """Of all examples, without special ones."""
        self.unknown = 0
        self.out_of_range = 0
        """How many examples have ids that the vocabulary does not have."""
        self.bits = self._LEAST_BITS
        """One in 2 ** bits runs is kept in what follows, by its hash."""
        self._inside = [Repeats.of(np.zeros(0, np.uint64))]
        self._pending = 0
        self._joints = [np.zeros(0, np.uint64)]

    def add(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Adds examples; returns which of them have ids out of range, int64 [some]."""
        segments = [segment for pair in pairs for segment in (pair.a, pair.b)]
        offsets = offsets_of(np.fromiter(map(len, segments), np.int64, len(segments)))
        ids = np.concatenate(segments).astype(np.int64)
        tokens = np.diff(offsets[::2])
        is_random = np.fromiter((pair.is_random for pair in pairs), bool, len(pairs))
        outside = np.flatnonzero((ids < 0) | (ids >= self._vocab_size))
        outside = np.unique(np.searchsorted(offsets[::2], outside, side="right") - 1)
        self.out_of_range += len(outside)
        self.lengths += np.bincount(tokens + self._specials, minlength=len(self.lengths))
        self.random += int(is_random.sum())
        self.tokens += len(ids)
        self.unknown += int((ids == self._unk_id).sum())
        self._add_runs(ids, offsets, is_random)
        return outside

    def _add_runs(self, ids: np.ndarray, offsets: np.ndarray, is_random: np.ndarray) -> None:
        runs = window_hashes(ids, offsets, self.bits)
        inside = runs.first == runs.last
        joint = ~inside & (runs.first // 2 == runs.last // 2)
        self._joints.append(runs.hashes[joint][is_random[runs.first[joint] // 2]])
        self._inside.append(Repeats.of(runs.hashes[inside]))
        self._pending += len(self._inside[-1].hashes)
        if self._pending > self._MOST_HASHES:
            merged = Repeats.merged(self._inside)
            while len(merged.hashes) > self._MOST_HASHES // 2:
                self.bits += 1
                merged = merged.sampled(self.bits)
            self._inside, self._pending = [merged], len(merged.hashes)
            joints = self.joints()
            self._joints = [joints[is_sampled(joints, self.bits)]]

    def inside(self) -> Repeats:
        """Runs inside A or inside B."""
        return Repeats.merged(self._inside).sampled(self.bits)

    def joints(self) -> np.ndarray:
        """Hashes of runs that begin in A and end in B, of the examples with label 1."""
        return np.concatenate(self._joints)

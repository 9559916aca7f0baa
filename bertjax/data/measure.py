"""What the audit counts (`audit.py` says what it means): sums over text while it is tokenised, over
documents and their examples while they are made, and hashes that find repeated text.

Sums are plain JSON numbers that add up, so that any number of processes gives the same ones.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data import sequences
from bertjax.data.pairs import FlatDocuments, Spans, offsets_of

# Whether a line holds several sentences is looked up in so many of them (a regular expression on
# every line would cost more than the rest of the audit), and in their first characters.
PARAGRAPH_SAMPLE = 16
_PARAGRAPH_CHARACTERS = 2000
# Ends of sentences inside a line that make it a paragraph. In a text that was split, an abbreviation
# or a quotation looks like one end in 6% of the lines, like three in 0.07% (the novels).
_PARAGRAPH_ENDS = 3
_END = re.compile(r"[.!?…][\"'”’»)]*\s+[\"'“‘«(]*(\w)|[。！？।؟](?=[^\s。！？।؟])")
# An HTML tag or comment, an entity, a link or template of a wiki.
_MARKUP = re.compile(
    r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|<!--|&(?:[a-zA-Z]{2,8}|#x?[0-9a-fA-F]{2,6});"
    r"|\[\[[^\[\]]+\]\]|\{\{[^{}]+\}\}"
)
_EXCERPT = 100

# Only longer sentences count as repeated: short ones ("Yes, sir.") recur in any text.
REPEATED_TOKENS = 8
# So many sentences, and no more, are all compared (16 bytes each in the parent); beyond, a sample
# by hash is: all copies of a sentence are in it or none.
COMPARED_SENTENCES = 1 << 21
_CHUNK_TOKENS = 1 << 16
_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2 ** 64


# Text -------------------------------------------------------------------------------------------

_TEXT_SUMS = ("lines", "characters", "tokens", "unknown_tokens", "upper_case_characters")
_TEXT_SUMS += ("markup_lines", "sampled_characters", "paragraph_characters")


class Example(NamedTuple):
    """A line of the text that shows a finding."""

    badness: int
    """How much it does, at least 1."""
    file: int
    """The number of its file in the corpus."""
    beginning: str
    """Of the line."""

    @classmethod
    def of(cls, file: int, line: str, badness: int = 1) -> "Example":
        """The example of a line, of which the beginning is kept."""
        return cls(badness, int(file), line[:_EXCERPT])


class TextSums:
    """Sums over lines (sentences) and their ids, and an example in the text of each finding."""

    def __init__(self, unk_id: int) -> None:
        self._unk_id = unk_id
        self.sums = dict.fromkeys(_TEXT_SUMS, 0)
        self.examples: dict[str, Example] = {}
        """By the kind of finding: the first line, of the worst ones."""

    def add(
        self, documents: Sequence[tuple[int, Sequence[str]]], encoded: Sequence[np.ndarray]
    ) -> None:
        """Adds documents.

        Args:
            documents: (number of the file, lines) of each.
            encoded: the ids of all lines, in their order.
        """
        lines = [line for _, document in documents for line in document]
        files = np.repeat(
            [file for file, _ in documents], [len(document) for _, document in documents]
        )
        self.sums["lines"] += len(lines)
        self.sums["characters"] += sum(map(len, lines))
        for number, line in enumerate(lines):
            if line.isupper():
                self.sums["upper_case_characters"] += len(line)
                self._example("upper_case", files[number], line)
            if ("<" in line or "&" in line or "[[" in line or "{{" in line) and _MARKUP.search(
                line
            ):
                self.sums["markup_lines"] += 1
                self._example("markup", files[number], line)
        for number in range(0, len(lines), PARAGRAPH_SAMPLE):
            line = lines[number]
            self.sums["sampled_characters"] += len(line)
            if _ends_inside(line) >= _PARAGRAPH_ENDS:
                self.sums["paragraph_characters"] += len(line)
                self._example("paragraphs", files[number], line)
        self._add_ids(lines, files, encoded)

    def _add_ids(
        self, lines: Sequence[str], files: np.ndarray, encoded: Sequence[np.ndarray]
    ) -> None:
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        places = np.flatnonzero(np.concatenate(encoded) == self._unk_id)
        unknown = np.bincount(
            np.searchsorted(np.cumsum(lengths), places, side="right"), minlength=len(lines)
        )
        self.sums["tokens"] += int(lengths.sum())
        self.sums["unknown_tokens"] += len(places)
        for kind, badness in (("unknown_tokens", unknown), ("long_sentences", lengths)):
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


def document_sums(documents: FlatDocuments, limit: int) -> dict[str, int]:
    """Sums over documents.

    Args:
        documents: the text.
        limit: tokens of an example, special ones left out.
    """
    sentences = np.diff(documents.document_offsets)
    tokens = np.diff(documents.sentence_offsets)
    return {
        "documents": len(sentences),
        "sentences": len(tokens),
        "one_sentence_documents": int((sentences == 1).sum()),
        "long_sentences": int((tokens > limit).sum()),
    }


def same_document(documents: FlatDocuments, spans: Spans) -> int:
    """How many random pairs have a B from A's own document."""
    bounds = documents.sentence_offsets[documents.document_offsets]
    of_a, of_b = (
        np.searchsorted(bounds, start[spans.is_random], side="right")
        for start in (spans.a_start, spans.b_start)
    )
    return int((of_a == of_b).sum())


def lengths_of(spans: Spans, max_seq_length: int, objective: str) -> np.ndarray:
    """How many examples have 0, 1, ... tokens, special ones included: [max_seq_length + 1]."""
    tokens = spans.a_stop - spans.a_start + spans.b_stop - spans.b_start
    return np.bincount(tokens + sequences.specials(objective), minlength=max_seq_length + 1)


# Repeated text ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Distinct hashes, ascending, and how often each occurs: uint64 [n] each."""

    hashes: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray) -> "Repeats":
        """Counts hashes."""
        return cls.merged([cls(hashes, np.ones(len(hashes), np.uint64))])

    @classmethod
    def merged(cls, parts: Iterable["Repeats"]) -> "Repeats":
        """Adds counts of several places."""
        parts = [cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64)), *parts]
        hashes = np.concatenate([part.hashes for part in parts])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        first = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + np.uint64(1)))
        counts = np.concatenate([part.counts for part in parts])[order]
        return cls(hashes[first], np.add.reduceat(counts, first) if len(first) else counts)

    @property
    def total(self) -> int:
        """How many were counted, repeated ones each time."""
        return int(self.counts.sum())

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        return np.stack([self.hashes, self.counts]).astype("<u8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Repeats":
        """Reads `to_bytes`."""
        hashes, counts = np.frombuffer(data, "<u8").astype(np.uint64).reshape(2, -1)
        return cls(hashes, counts)


def sample_bits(sentences: int) -> int:
    """The k for which one in 2 ** k sentences is at most `COMPARED_SENTENCES`."""
    return max(0, (sentences - 1) // COMPARED_SENTENCES).bit_length()


def sentence_hashes(ids: np.ndarray, offsets: np.ndarray, bits: int) -> np.ndarray:
    """Hashes of the sentences that count as repeated if they are: uint64 [some].

    Args:
        ids: of all sentences, [tokens].
        offsets: where each begins, and the end of the last, [sentences + 1].
        bits: keep a hash if its lowest `bits` bits are 0: the same sentences everywhere.
    """
    hashes = [np.zeros(0, np.uint64)]
    first, last = 0, len(offsets) - 1
    while first < last:
        stop = int(np.searchsorted(offsets, offsets[first] + _CHUNK_TOKENS, side="right")) - 1
        stop = max(stop, first + 1)
        bounds = offsets[first : stop + 1] - offsets[first]
        sums = _prefix_sums(ids[offsets[first] : offsets[stop]])
        begin, end = bounds[:-1], bounds[1:]
        long = end - begin >= REPEATED_TOKENS
        hashes.append(_between(sums, begin[long], end[long]))
        first = stop
    return _sampled(np.concatenate(hashes), bits)


def window_hashes(ids: np.ndarray, offsets: np.ndarray, bits: int) -> np.ndarray:
    """Hashes of all runs of `REPEATED_TOKENS` tokens inside segments; arguments and result are
    those of `sentence_hashes`, with segments for sentences."""
    sums = _prefix_sums(ids)
    places = np.arange(max(len(ids) - REPEATED_TOKENS + 1, 0))
    segment = np.searchsorted(offsets, places, side="right") - 1
    places = places[places + REPEATED_TOKENS <= offsets[segment + 1]]
    return _sampled(_between(sums, places, places + REPEATED_TOKENS), bits)


def _prefix_sums(ids: np.ndarray) -> np.ndarray:
    """Sums of (a random number of the id) * base ** place before each place, modulo 2 ** 64."""
    terms = _mixed(ids.astype(np.uint64)) * _powers(_BASE, len(ids))
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])


def _between(sums: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Hashes of ids[begin:end], the same wherever they stand."""
    inverse = _powers(pow(_BASE, -1, 1 << 64), len(sums))
    return _mixed((sums[end] - sums[begin]) * inverse[begin])


def _sampled(hashes: np.ndarray, bits: int) -> np.ndarray:
    return hashes[(hashes & np.uint64((1 << bits) - 1)) == 0]


def _powers(base: int, count: int) -> np.ndarray:
    return _some_powers(base, max(_CHUNK_TOKENS + 1, count))[:count]


@functools.lru_cache(2)
def _some_powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every bit depends on every bit."""
    values = values + np.uint64(_BASE)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

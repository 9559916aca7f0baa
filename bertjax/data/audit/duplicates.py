"""Hashes that find repeated text: of whole sentences, or of runs of tokens where sentences are not
known. Memory is bounded: of a large text a sample by hash is compared.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# Only longer sentences count as repeated: short ones ("Yes, sir.") recur in any text.
REPEATED_TOKENS = 8
# So many sentences are all compared, whose hashes are sorted in memory; of more, a sample by hash
# is: all copies of a sentence are in it or none.
COMPARED_SENTENCES = 1 << 21
BYTES_PER_SENTENCE = 16
"""Of `Repeats.to_bytes`, at most."""
# Where sentences are not known, runs of so many tokens are compared: ten words recur in few texts.
WINDOW_TOKENS = 12
_CHUNK_TOKENS = 1 << 16
_BASE = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2 ** 64


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

    def sampled(self, bits: int) -> "Repeats":
        """Those whose lowest `bits` bits are 0."""
        kept = is_sampled(self.hashes, bits)
        return Repeats(self.hashes[kept], self.counts[kept])

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
    found = np.concatenate(hashes)
    return found[is_sampled(found, bits)]


class Windows(NamedTuple):
    """Runs of `WINDOW_TOKENS` tokens in segments that are one after the other."""

    hashes: np.ndarray
    """Of each run: uint64 [n]."""
    first: np.ndarray
    """The segment in which it begins: int64 [n]."""
    last: np.ndarray
    """The segment in which it ends: int64 [n]."""


def window_hashes(ids: np.ndarray, offsets: np.ndarray, bits: int) -> Windows:
    """All runs of tokens, also those that begin in one segment and end in another.

    Args:
        ids: of all segments, [tokens].
        offsets: where each begins, and the end of the last, [segments + 1].
        bits: keep a run if the lowest `bits` bits of its hash are 0: the same runs everywhere.
    """
    places = np.arange(max(len(ids) - WINDOW_TOKENS + 1, 0))
    hashes = _between(_prefix_sums(ids), places, places + WINDOW_TOKENS)
    places = places[is_sampled(hashes, bits)]
    first, last = (
        np.searchsorted(offsets, place, side="right") - 1
        for place in (places, places + WINDOW_TOKENS - 1)
    )
    return Windows(hashes[places], first, last)


def _prefix_sums(ids: np.ndarray) -> np.ndarray:
    """Sums of (a random number of the id) * base ** place before each place, modulo 2 ** 64."""
    terms = _mixed(ids.astype(np.uint64)) * _powers(_BASE, len(ids))
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])


def _between(sums: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Hashes of ids[begin:end], the same wherever they stand."""
    inverse = _powers(pow(_BASE, -1, 1 << 64), len(sums))
    return _mixed((sums[end] - sums[begin]) * inverse[begin])


def is_sampled(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Which hashes are in a sample of one in 2 ** bits: bool [n]."""
    return (hashes & np.uint64((1 << bits) - 1)) == 0


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

"""Finds repeated text by hashes of sentences or, if sentences are unknown, of runs of tokens.

A large text is sampled by hash, so memory is bounded.
"""

import functools

import numpy as np

# Shorter sentences ("Yes, sir.") recur in any text and do not count as repeated.
MIN_TOKENS = 8
# Up to this many hashes are sorted in memory. A sample has all copies of a sentence or none.
MAX_HASHES = 1 << 21
HASH_BYTES = 8
# If sentences are unknown, runs of this many tokens are compared. Few texts repeat ten words.
RUN_TOKENS = 12
_CHUNK_TOKENS = 1 << 16
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2 ** 64


def sample_bits(count: int) -> int:
    """Returns the smallest k for which one in 2 ** k of `count` hashes is at most `MAX_HASHES`."""
    return max(0, (count - 1) // MAX_HASHES).bit_length()


def is_sampled(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Returns which hashes are in a sample of one in 2 ** bits: bool [n]."""
    return (hashes & np.uint64((1 << bits) - 1)) == 0


def sentence_hashes(ids: np.ndarray, offsets: np.ndarray, bits: int) -> np.ndarray:
    """Returns the hashes of the sentences with at least `MIN_TOKENS` tokens: uint64 [n].

    The sentences are ids[offsets[i]:offsets[i + 1]]. One in 2 ** `bits` hashes is sampled.
    """
    begin, end = offsets[:-1], offsets[1:]
    long = end - begin >= MIN_TOKENS
    hashes = _run_hashes(ids, begin[long], end[long])
    return hashes[is_sampled(hashes, bits)]


def runs(
    ids: np.ndarray, offsets: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns runs of `RUN_TOKENS` tokens: hashes, uint64, and first and last segments, int64 [n].

    The segments are ids[offsets[i]:offsets[i + 1]]. One in 2 ** `bits` hashes is sampled.
    """
    begin = np.arange(max(len(ids) - RUN_TOKENS + 1, 0))
    hashes = _run_hashes(ids, begin, begin + RUN_TOKENS)
    begin = np.flatnonzero(is_sampled(hashes, bits))
    first = np.searchsorted(offsets, begin, side="right") - 1
    last = np.searchsorted(offsets, begin + RUN_TOKENS - 1, side="right") - 1
    return hashes[begin], first, last


def _run_hashes(ids: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns hashes of ids[begin:end] that do not depend on the position: uint64 [n].

    `begin` and `end` are ascending. A hash is the sum of a random number of each id times a power
    of `_BASE`, modulo 2 ** 64; prefix sums give it in constant time.
    """
    hashes = np.empty(len(begin), np.uint64)
    done = 0
    while done < len(begin):  # in chunks, to bound memory
        start = begin[done]
        stop = int(np.searchsorted(end, start + _CHUNK_TOKENS, side="right"))
        chunk = slice(done, max(stop, done + 1))
        some = ids[start : end[chunk][-1]]
        size = max(_CHUNK_TOKENS, len(some))
        powers = _powers(_BASE, size)[: len(some)]
        inverse = _powers(pow(_BASE, -1, 1 << 64), size)
        sums = np.zeros(len(some) + 1, np.uint64)
        np.cumsum(_mixed(some.astype(np.uint64)) * powers, dtype=np.uint64, out=sums[1:])
        first, last = begin[chunk] - start, end[chunk] - start
        hashes[chunk] = _mixed((sums[last] - sums[first]) * inverse[first])
        done = chunk.stop
    return hashes


@functools.lru_cache(2)
def _powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every bit depends on every bit."""
    values = values + np.uint64(_BASE)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

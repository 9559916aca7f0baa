"""The order of examples: permutations for epochs, and positions interleaved in exact shares.

Both are pure functions. Looking up n positions costs time and memory for n positions only.
"""

import math
from collections.abc import Sequence

import numpy as np

# Versions of the two orders below. A changed order needs a new name: no run may resume across it.
EPOCHS = "feistel-2"
INTERLEAVE = "halves-1"
# With six rounds, pairs of neighbors among 5 or 10 positions were not uniform (chi-square of
# 4,000 keys).
_ROUNDS = 8


def in_epochs(draws: np.ndarray, size: int, seed: int, corpus: int = 0) -> np.ndarray:
    """Returns the example of each draw, int64 [n]: every one of `size` examples once per epoch.

    The order of an epoch follows from (seed, epoch, corpus). Draws [n] count from 0.
    """
    epochs, positions = np.divmod(draws, size)
    more = (corpus,) if corpus else ()
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permuted(positions[here], size, (seed, int(epoch), *more))
    return indices


def permuted(positions: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Applies the pseudo-random permutation of range(size) that `key` selects: int64 [n].

    This is a Feistel network over a rectangle of about sqrt(size) rows and at most one row more
    than `size` cells. The few values outside the range go through the network again until they are
    inside. It needs no memory of the size of the data. `positions` are in [0, size), [n].
    """
    rows = math.isqrt(size - 1) + 1
    sides = np.uint64(rows), np.uint64(-(-size // rows))
    round_keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def once(values: np.ndarray) -> np.ndarray:
        halves = [values // sides[1], values % sides[1]]
        for number, round_key in enumerate(round_keys):
            mixed = (halves[(number + 1) % 2] ^ round_key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(29)
            side = sides[number % 2]
            halves[number % 2] = (halves[number % 2] + mixed % side) % side
        return halves[0] * sides[1] + halves[1]

    values = once(np.asarray(positions).astype(np.uint64))
    while (outside := values >= np.uint64(size)).any():
        values[outside] = once(values[outside])
    return values.astype(np.int64)


def interleave(positions: np.ndarray, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Assigns the positions 0, 1, 2, ... to sources, in shares that hold for every prefix.

    The sources are halved. Of the first n positions, one half gets its rounded share and the other
    the rest; the same applies within each half. A source therefore has n * weight / sum(weights)
    of the first n positions, to within half a position per halving: one position among up to four
    sources. Python integers of any size keep the shares exact. `positions` are [n], and `weights`
    are positive, one per source.

    Returns:
        The source of each position, and the number of earlier positions with the same source, both
        int64 [n].
    """
    if len(weights) == 1:
        return np.zeros(len(positions), np.int64), np.asarray(positions, np.int64)
    middle = len(weights) // 2
    share, whole = sum(weights[:middle]), sum(weights)

    def first_of(count: np.ndarray) -> np.ndarray:
        """Returns the first half's share of so many positions; Python integers don't overflow."""
        return (2 * count.astype(object) * share + whole) // (2 * whole)

    positions = np.asarray(positions, np.int64)
    before = first_of(positions).astype(np.int64)
    first = first_of(positions + 1) > before
    sources, draws = np.empty_like(positions), np.empty_like(positions)
    sources[first], draws[first] = interleave(before[first], weights[:middle])
    sources[~first], draws[~first] = interleave((positions - before)[~first], weights[middle:])
    sources[~first] += middle
    return sources, draws

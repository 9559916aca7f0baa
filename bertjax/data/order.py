"""What is drawn when: permutations for epochs, and places dealt out in exact shares.

Both are looked up for any place at once, at the cost of the places asked for, and remember nothing.
"""

import math
from collections.abc import Sequence

import numpy as np

# Names of the two orders below. Another one needs another name: runs must not resume across it.
EPOCHS = "feistel-2"
INTERLEAVE = "halves-1"
# With six, pairs of neighbours among 5 or 10 places were not uniform (chi-square, 4,000 keys).
_ROUNDS = 8


def in_epochs(draws: np.ndarray, size: int, seed: int, corpus: int = 0) -> np.ndarray:
    """Which of `size` examples each draw is: every one once an epoch of `size` draws, every epoch
    in another order, which follows from (seed, epoch, corpus). int64 [n].

    Args:
        draws: numbers of draws from 0, [n].
        size: number of examples.
        seed: at least 0.
        corpus: at least 0; another number, another order.
    """
    epochs, places = np.divmod(draws, size)
    more = (corpus,) if corpus else ()
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permuted(places[here], size, (seed, int(epoch), *more))
    return indices


def permuted(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Where a pseudo-random permutation of range(size), fixed by `key`, sends places: int64 [n].

    A Feistel network over a rectangle of about the root of `size` rows, which is at most a row
    larger: the few values that fall outside are sent round again until they are inside. Costs no
    memory of the size of the data.

    Args:
        places: integers in [0, size), [n].
        size: length of the permuted range, at least 1.
        key: non-negative integers.
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

    values = once(np.asarray(places).astype(np.uint64))
    while (outside := values >= np.uint64(size)).any():
        values[outside] = once(values[outside])
    return values.astype(np.int64)


def interleave(places: np.ndarray, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Deals the places 0, 1, 2, ... out to parts, in shares that hold wherever one stops.

    The parts are halved, and of any number of first places one half gets its share, rounded, the
    other one the rest; likewise within each half. So of the first n places a part has
    n * weight / sum(weights) to within half a place for every halving: one place among up to four
    parts. Whole numbers of any size: nothing drifts.

    Args:
        places: at least 0, [n].
        weights: whole numbers, positive.

    Returns:
        The part of each place, and how many places before it are of the same part, int64 [n].
    """
    if len(weights) == 1:
        return np.zeros(len(places), np.int64), np.asarray(places, np.int64)
    middle = len(weights) // 2
    share, whole = sum(weights[:middle]), sum(weights)

    def first_of(count: np.ndarray) -> np.ndarray:
        """How many of so many places are the first half's: Python's integers do not overflow."""
        return (2 * count.astype(object) * share + whole) // (2 * whole)

    places = np.asarray(places, np.int64)
    before = first_of(places).astype(np.int64)
    first = first_of(places + 1) > before
    parts, draws = np.empty_like(places), np.empty_like(places)
    parts[first], draws[first] = interleave(before[first], weights[:middle])
    parts[~first], draws[~first] = interleave((places - before)[~first], weights[middle:])
    parts[~first] += middle
    return parts, draws

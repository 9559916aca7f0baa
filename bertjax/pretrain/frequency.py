"""Frequencies of tokens in the training data, and groups of tokens by them."""

import itertools
from collections.abc import Sequence

import numpy as np

from bertjax import signals
from bertjax.data.stream import ShardReader
from bertjax.objectives.masking import Vocabulary

# Examples whose tokens are counted, and how many of them are in memory at a time.
_COUNTED_EXAMPLES, _COUNTED_AT_ONCE = 50_000, 2_000
_RANKS = (100, 1000, 10_000)  # the last rank of each group but one, which has the other ranks
METRIC = "mlm_accuracy_rank_"


def count_tokens(
    readers: Sequence[ShardReader], shares: Sequence[float], vocabulary: Vocabulary
) -> np.ndarray:
    """Counts every token in examples from all over the data, mixed as in training: int64 [V].

    Special tokens have count 0.
    """
    most = min(sum(map(len, readers)), _COUNTED_EXAMPLES)
    counts = np.zeros(vocabulary.size, np.int64)
    for reader, share in zip(readers, shares, strict=True):
        number = max(1, round(most * share))
        examples = np.linspace(0, len(reader) - 1, number).astype(np.int64)
        for start in range(0, number, _COUNTED_AT_ONCE):
            signals.check()
            ids = reader.rows(examples[start : start + _COUNTED_AT_ONCE])["input_ids"]
            counts += np.bincount(ids.ravel(), minlength=vocabulary.size)
    counts[vocabulary.special] = 0
    return counts


def token_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Groups tokens by rank: the 100 most frequent, those up to 1,000, up to 10,000, and the rest.

    Args:
        counts: int [V], how often every token occurs; 0 for special tokens, which are never masked.

    Returns:
        {name of the accuracy's metric: bool [V]}, without empty groups. Among equally frequent
        tokens, the one with the lower id comes first.
    """
    order = np.argsort(-counts, kind="stable")
    bounds = [0, *(rank for rank in _RANKS if rank < len(counts)), len(counts)]
    groups = {}
    for first, last in itertools.pairwise(bounds):
        end = "up" if last == len(counts) and first else f"{last}"
        group = np.zeros(len(counts), bool)
        group[order[first:last]] = True
        groups[f"{METRIC}{first + 1}_{end}"] = group
    return groups

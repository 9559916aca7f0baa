"""Masked-LM accuracy by how frequent the masked token is in the training text."""

import itertools

import numpy as np

# The last ranks of the groups; the last group has all ranks beyond.
_RANKS = (100, 1000, 10_000)
METRIC = "mlm_accuracy_rank_"


def token_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Groups of tokens by their rank: the 100 most frequent, those to 1,000, to 10,000, the rest.

    Args:
        counts: int [V], how often every token occurs; 0 of special tokens, which are never masked.

    Returns:
        {name of the accuracy's metric: bool [V]}, without groups that have no token. Of equally
        frequent tokens the one with the lower id comes first.
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

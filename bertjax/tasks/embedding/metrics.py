"""Metrics of the vectors of pairs: correlation of cosines with scores, and ranks."""

from collections.abc import Sequence

import numpy as np

from bertjax.tasks.metrics import regression_metrics
from bertjax.tasks.task import Scores

_BLOCK = 1024


def cosines(vectors: np.ndarray) -> np.ndarray:
    """float64 [N]: the cosines of the first two vectors of rows [N, K, D]."""
    first, second = np.moveaxis(_unit(vectors[:, :2]), 1, 0)
    return (first * second).sum(1)


def pair_metrics(
    vectors: np.ndarray, scores: np.ndarray | None, text_ids: np.ndarray, sizes: Sequence[int] = ()
) -> Scores:
    """Computes the metrics of pairs.

    Args:
        vectors: [N, 2, D].
        scores: [N] from 0 to 1, or None.
        text_ids: int [N, 2], equal for equal texts.
        sizes: sizes of shorter vectors, whose main metric is added as spearman_64 or mrr_64.

    Returns:
        With scores: spearman, pearson, and the mean squared error, loss. Else mrr, the mean
        reciprocal rank of the second text of a pair among all of them by its cosine with the first;
        and accuracy, the share of rank 1.
    """

    def of(vectors: np.ndarray) -> Scores:
        if scores is None:
            return _retrieval(_unit(vectors), text_ids)
        return regression_metrics(cosines(vectors)[:, None], scores)

    name = "mrr" if scores is None else "spearman"
    return of(vectors) | {f"{name}_{size}": of(vectors[..., :size])[name] for size in sizes}


def _retrieval(vectors: np.ndarray, text_ids: np.ndarray) -> Scores:
    """Other texts for the same first text, and equal texts, are no wrong candidates."""
    ranks = []
    for begin in range(0, len(vectors), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        anchors, ids = vectors[block, 0], text_ids[block]
        similar = anchors @ vectors[:, 1].T
        own = (anchors * vectors[block, 1]).sum(1, keepdims=True)
        right = (text_ids[:, 1] == ids[:, 1:]) | (text_ids[:, 0] == ids[:, :1])
        ranks.append(1 + ((similar >= own) & ~right).sum(1))
    ranks = np.concatenate(ranks)
    return {"mrr": float((1 / ranks).mean()), "accuracy": float((ranks == 1).mean())}


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

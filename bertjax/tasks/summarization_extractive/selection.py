"""Which sentences make a summary: labels from a written summary, and picks by scores."""

from collections.abc import Collection, Sequence

import numpy as np

from bertjax.tasks.rouge import split_words


def greedy_labels(
    sentences: Sequence[str], summary: Sequence[str], limit: int, tokenize: str
) -> tuple[int, ...]:
    """Picks sentences one by one, each the one that raises ROUGE-1 + ROUGE-2 F1 the most.

    It stops when no sentence raises the sum, or at `limit` sentences, as `greedy_selection` of
    PreSumm's src/prepro/data_builder.py does. As there, words are not stemmed, an n-gram counts
    once however often it occurs, and the first of equally good sentences wins.

    Args:
        sentences: the sentences of a document.
        summary: the sentences of its summary.
        limit: maximum number of labels.
        tokenize: how texts are split; see `bertjax.tasks.rouge`.

    Returns:
        Ascending indices of sentences; none if they have no word in common with the summary.
    """
    sizes = (1, 2)
    wanted = [_ngrams(" ".join(summary), size, tokenize) for size in sizes]
    grams = [[_ngrams(each, size, tokenize) for size in sizes] for each in sentences]
    chosen: list[int] = []
    covered: list[frozenset] = [frozenset() for _ in sizes]
    best = 0.0
    while len(chosen) < limit:
        scores = [sum(map(_f1, covered, own, wanted)) for own in grams]
        if max(scores) <= best:
            break
        best = max(scores)
        chosen.append(scores.index(best))
        covered = [a | b for a, b in zip(covered, grams[chosen[-1]], strict=True)]
    return tuple(sorted(chosen))


def pick(
    scores: np.ndarray, sentences: Sequence[str], limit: int, *, trigram_blocking: bool
) -> tuple[int, ...]:
    """Picks the sentences with the highest scores.

    Trigram blocking skips a sentence that shares three consecutive words with one that is picked
    already (Paulus et al. 2018; `_block_tri` of PreSumm's src/models/trainer_ext.py). Words are
    those of `split_words` with "words". PreSumm leaves the picked sentences in the order of their
    scores.

    Args:
        scores: [S], of the sentences of a document.
        sentences: these sentences.
        limit: maximum number of picks.
        trigram_blocking: whether to skip sentences.

    Returns:
        Indices of sentences in the order of the document.
    """
    chosen: list[int] = []
    seen: set[tuple[str, ...]] = set()
    for index in map(int, np.argsort(-scores, kind="stable")):
        if len(chosen) == limit:
            break
        trigrams = _ngrams(sentences[index], 3, "words") if trigram_blocking else frozenset()
        if seen.isdisjoint(trigrams):
            chosen.append(index)
            seen |= trigrams
    return tuple(sorted(chosen))


def lead(sentences: Collection[str], limit: int) -> tuple[int, ...]:
    """Picks the first sentences, the baseline of extractive summarization."""
    return tuple(range(min(limit, len(sentences))))


def _ngrams(text: str, size: int, tokenize: str) -> frozenset[tuple[str, ...]]:
    words = split_words(text, tokenize)
    return frozenset(zip(*(words[start:] for start in range(size)), strict=False))


def _f1(covered: frozenset, own: frozenset, wanted: frozenset) -> float:
    """F1 of the n-grams in `covered` or `own`."""
    found = covered | own
    return 2 * len(found & wanted) / max(1, len(found) + len(wanted))

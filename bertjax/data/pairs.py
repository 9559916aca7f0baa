"""Next-sentence pairs, drawn, cut and truncated as in Google's `create_pretraining_data.py`.

Google's code walks through a document sentence by sentence and copies tokens into lists. Each of
its pairs consists of two contiguous runs of tokens. Here all documents are one flat array of ids,
and a pair is four positions in it, so that a few array operations make all pairs.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# [CLS] A [SEP] B [SEP]
SPECIALS_PER_PAIR = 3
# Google draws short targets from [2, max_seq_length - 3].
SHORTEST_SEQUENCE = 2 + SPECIALS_PER_PAIR


class Pair(NamedTuple):
    """One example without special tokens: integer arrays `a` and `b`, and its label.

    A single sequence has an empty `b`. `is_random` is the label: for next sentences, whether B
    comes from another document (1) or follows A (0).
    """

    a: np.ndarray
    b: np.ndarray
    is_random: bool


@dataclasses.dataclass(frozen=True)
class FlatDocuments:
    """Tokenized documents as three arrays; no sentence and no document is empty."""

    ids: np.ndarray
    """Token ids of all documents in order, [tokens], any integer dtype."""
    sentence_offsets: np.ndarray
    """Start of each sentence in `ids`, and the end of the last one: int64 [sentences + 1]."""
    document_offsets: np.ndarray
    """First sentence of each document, and the number of sentences: int64 [documents + 1]."""

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.document_offsets) - 1


class Spans(NamedTuple):
    """Pairs as positions in the flat ids: A is ids[a_start:a_stop], B is ids[b_start:b_stop].

    Pairs are in document order. Positions are int64 [pairs]; `is_random` is bool [pairs].
    """

    a_start: np.ndarray
    a_stop: np.ndarray
    b_start: np.ndarray
    b_stop: np.ndarray
    is_random: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        """Number of tokens in A and B together: int64 [pairs]."""
        return self.a_stop - self.a_start + self.b_stop - self.b_start


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the cumulative sum of lengths with a leading zero: int64 [len(lengths) + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def pair_spans(
    documents: FlatDocuments, max_seq_length: int, short_seq_prob: float, rng: np.random.Generator
) -> Spans:
    """Pairs all documents once, as Google's `create_instances_from_document` does.

    Consecutive sentences make a chunk up to a target length. The target is `max_seq_length - 3` or,
    with probability `short_seq_prob` and drawn once per document, uniform in
    [2, max_seq_length - 3]. A is the first 1..n-1 of a chunk's n sentences. B is the rest, or a run
    of sentences from a random position in another document. The latter has probability 0.5, or 1
    if n is 1. With a random B, the unused sentences of the chunk begin the next one. Tokens beyond
    `max_seq_length - 3` are dropped one by one from the longer side (B on a tie), at its front or
    its back at random.

    There is one difference. Google draws the other document up to ten times until it differs from
    the first; here it always differs. The probabilities differ by (1 / documents) ** 10.

    Source: google-research/bert, create_pretraining_data.py.

    Raises `ValueError` if there are fewer than two documents, or `max_seq_length` is below 5.
    """
    if len(documents) < 2:
        raise ValueError("Pairing needs at least two documents: B may come from another one.")
    check_length(max_seq_length)
    limit = max_seq_length - SPECIALS_PER_PAIR
    offsets = documents.sentence_offsets
    targets = draw_targets(len(documents), limit, short_seq_prob, rng)

    # Draw for every sentence as if a chunk began there, then keep the chunks that occur. All draws
    # are independent, so dropping the others changes nothing.
    owner = owners(documents)
    sentence = np.arange(len(owner))
    chunk_stop = chunk_stops(documents, owner, targets)
    size = chunk_stop - sentence
    a_stop = sentence + 1 + (rng.random(len(owner)) * (size - 1)).astype(np.int64)
    is_random = (size == 1) | (rng.random(len(owner)) < 0.5)
    chunk = chain(np.where(is_random, a_stop, chunk_stop))

    drawn = (array[chunk] for array in (owner, a_stop, chunk_stop, is_random))
    owner, a_stop, b_stop, is_random = drawn
    b_first = a_stop.copy()
    wanted = (targets[owner] - (offsets[a_stop] - offsets[chunk]))[is_random]
    b_first[is_random], b_stop[is_random] = _random_b(
        documents, owner=owner[is_random], wanted=wanted, rng=rng
    )
    spans = Spans(offsets[chunk], offsets[a_stop], offsets[b_first], offsets[b_stop], is_random)
    return truncate(spans, limit, rng)


def check_length(max_seq_length: int) -> None:
    """Raises ValueError if a sequence is too short to draw targets for."""
    if max_seq_length < SHORTEST_SEQUENCE:
        raise ValueError(f"max_seq_length must be at least {SHORTEST_SEQUENCE}.")


def owners(documents: FlatDocuments) -> np.ndarray:
    """Returns the document of each sentence: int64 [sentences]."""
    return np.repeat(np.arange(len(documents)), np.diff(documents.document_offsets))


def draw_targets(
    count: int, limit: int, short_seq_prob: float, rng: np.random.Generator
) -> np.ndarray:
    """Draws target lengths, int64 [count]: `limit` or, with probability `short_seq_prob`, a number
    uniform in [2, limit]."""
    targets = np.full(count, limit, np.int64)
    short = rng.random(count) < short_seq_prob
    targets[short] = rng.integers(2, limit, size=int(short.sum()), endpoint=True)
    return targets


def chunk_stops(documents: FlatDocuments, owner: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the end of a chunk for every sentence that it could begin with: int64 [sentences].

    A chunk ends once it has the target length of its document [documents], or with its document.
    """
    offsets = documents.sentence_offsets
    stop = np.searchsorted(offsets, offsets[:-1] + targets[owner])
    return np.minimum(stop, documents.document_offsets[1:][owner])


def chain(following: np.ndarray) -> np.ndarray:
    """Follows 0 -> following[0] -> ... to the end; returns the sentences at which chunks begin.

    No chunk crosses the end of its document, so the chain visits every document's first sentence.
    """
    follow, position, visited = following.tolist(), 0, []
    while position < len(follow):
        visited.append(position)
        position = follow[position]
    return np.asarray(visited, np.int64)


def _random_b(
    documents: FlatDocuments, *, owner: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws runs of sentences [first, stop) that begin at random in a document other than `owner`.

    A run ends once it has `wanted` tokens, or with its document. It is never empty.
    """
    other = rng.integers(0, len(documents) - 1, size=len(owner))
    other += other >= owner
    begin, end = documents.document_offsets[other], documents.document_offsets[other + 1]
    first = begin + (rng.random(len(owner)) * (end - begin)).astype(np.int64)
    offsets = documents.sentence_offsets
    stop = np.searchsorted(offsets, offsets[first] + np.maximum(wanted, 1))
    return first, np.minimum(stop, end)


def truncate(spans: Spans, limit: int, rng: np.random.Generator) -> Spans:
    """Truncates A and B to `limit` tokens together.

    Dropping one token at a time from the longer side, B on a tie, ends with the lengths below. Each
    token comes from the front or the back with equal probability, so the number of tokens dropped
    at the front is binomial.
    """
    a_length, b_length = spans.a_stop - spans.a_start, spans.b_stop - spans.b_start
    a_kept = np.minimum(a_length, np.maximum((limit + 1) // 2, limit - b_length))
    b_kept = np.minimum(b_length, limit - a_kept)
    a_start = spans.a_start + rng.binomial(a_length - a_kept, 0.5)
    b_start = spans.b_start + rng.binomial(b_length - b_kept, 0.5)
    return Spans(a_start, a_start + a_kept, b_start, b_start + b_kept, spans.is_random)

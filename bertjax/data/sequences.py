"""Draws single sequences, and two consecutive segments in order or swapped.

As in `pairs.py`, an example is a set of positions in one flat array of ids.
"""

import numpy as np

from bertjax.data.pairs import (
    SPECIALS_PER_PAIR,
    FlatDocuments,
    Spans,
    chain,
    check_length,
    chunk_stops,
    draw_targets,
    offsets_of,
    owners,
    truncate,
)

# [CLS] A [SEP]
SPECIALS_PER_SINGLE = 2


def single_spans(
    documents: FlatDocuments, max_seq_length: int, short_seq_prob: float, rng: np.random.Generator
) -> Spans:
    """Draws single sequences: as many consecutive sentences of a document as fit, every token once.

    The target length of a sequence is `max_seq_length - 2` or, with probability `short_seq_prob`
    and drawn for each sequence, uniform in [2, max_seq_length - 2]. A sequence has at least one
    sentence. A sentence longer than `max_seq_length - 2` is first cut into pieces of that length.

    Source: RoBERTa (Liu et al., 2019), section 4.2, DOC-SENTENCES. RoBERTa's batches grow where
    sequences are short; ours do not.

    Returns:
        Spans with an empty B (b_start = b_stop = a_stop) and is_random False.

    Raises `ValueError` if `max_seq_length` is below 5.
    """
    check_length(max_seq_length)
    limit = max_seq_length - SPECIALS_PER_SINGLE
    documents = _with_sentences_of_at_most(documents, limit)
    offsets = documents.sentence_offsets
    sentences = len(offsets) - 1
    targets = draw_targets(sentences, limit, short_seq_prob, rng)

    following = np.searchsorted(offsets, offsets[:-1] + targets, side="right") - 1
    following = np.maximum(following, np.arange(sentences) + 1)
    following = np.minimum(following, documents.document_offsets[1:][owners(documents)])
    chunk = chain(following)
    end = offsets[following[chunk]]
    return Spans(offsets[chunk], end, end, end, np.zeros(len(chunk), bool))


def _with_sentences_of_at_most(documents: FlatDocuments, limit: int) -> FlatDocuments:
    """Cuts sentences longer than `limit` after every `limit` tokens."""
    offsets = documents.sentence_offsets
    pieces = -(-np.diff(offsets) // limit)
    before = offsets_of(pieces)
    place = np.arange(before[-1]) - np.repeat(before[:-1], pieces)
    starts = np.repeat(offsets[:-1], pieces) + place * limit
    starts = np.append(starts, offsets[-1])
    return FlatDocuments(documents.ids, starts, before[documents.document_offsets])


def ordered_spans(
    documents: FlatDocuments, max_seq_length: int, short_seq_prob: float, rng: np.random.Generator
) -> Spans:
    """Draws two consecutive segments of a document: in order (label 0) or swapped (1) by a coin.

    Chunks, their targets, the end of A and the truncation are those of `pair_spans`. A chunk has at
    least two sentences: a shorter one also takes the next sentence or, at the end of its document,
    the one before. Documents of one sentence give no example.

    Source: ALBERT (Lan et al., 2020), section 3.1; google-research/albert,
    create_pretraining_data.py. Its code gives a chunk of one sentence a B from another document.

    Returns:
        Spans; `is_random` says whether A and B are swapped.

    Raises `ValueError` if `max_seq_length` is below 5.
    """
    check_length(max_seq_length)
    limit = max_seq_length - SPECIALS_PER_PAIR
    offsets = documents.sentence_offsets
    first, stop = documents.document_offsets[:-1], documents.document_offsets[1:]
    targets = draw_targets(len(documents), limit, short_seq_prob, rng)
    owner = owners(documents)
    following = chunk_stops(documents, owner, targets)
    following = np.maximum(following, np.arange(len(owner)) + 2)
    following = np.minimum(following, stop[owner])

    chunk = chain(following)
    end, owner = following[chunk], owner[chunk]
    chunk = np.where(end - chunk == 1, np.maximum(chunk - 1, first[owner]), chunk)
    both = end - chunk >= 2
    chunk, end = chunk[both], end[both]
    middle = chunk + 1 + (rng.random(len(chunk)) * (end - chunk - 1)).astype(np.int64)
    swapped = rng.random(len(chunk)) < 0.5
    begin, middle, end = offsets[chunk], offsets[middle], offsets[end]
    a_start, a_stop = np.where(swapped, (middle, end), (begin, middle))
    b_start, b_stop = np.where(swapped, (begin, middle), (middle, end))
    return truncate(Spans(a_start, a_stop, b_start, b_stop, swapped), limit, rng)

"""Single sequences hold every token once; segments are in the order that their label says."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.pairs import FlatDocuments, offsets_of
from bertjax.data.segments import SEGMENTS
from bertjax.data.sequences import ordered_spans, single_spans


def flat(lengths):
    """Documents by the lengths of their sentences; every id is another one."""
    sentences = [length for document in lengths for length in document]
    return FlatDocuments(
        np.arange(sum(sentences)),
        offsets_of(sentences),
        offsets_of([len(document) for document in lengths]),
    )


def random_lengths(count, sentences, words, seed):
    rng = random.Random(seed)
    return [[rng.randint(*words) for _ in range(rng.randint(*sentences))] for _ in range(count)]


def document_bounds(documents):
    return documents.sentence_offsets[documents.document_offsets]


def greedy(lengths, limit):
    """Sequences without shorter targets, sentence by sentence: [start, stop) of their ids."""
    found, place = [], 0
    for document in lengths:
        start = place
        for sentence in document:
            while sentence > limit:  # a sentence of several rows, of which the last is left over
                if place > start:
                    found.append((start, place))
                found.append((place, place + limit))
                place += limit
                sentence -= limit
                start = place
            if place + sentence - start > limit:
                found.append((start, place))
                start = place
            place += sentence
        if place > start:
            found.append((start, place))
    return found


documents_of_any_kind = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=8
)


@settings(deadline=None)
@given(documents_of_any_kind, st.integers(5, 40), st.floats(0, 1), st.integers(0, 99))
def test_single_sequences_hold_every_token_once(lengths, max_seq_length, short, seed):
    documents = flat(lengths)
    spans = single_spans(
        documents,
        max_seq_length=max_seq_length,
        short_seq_prob=short,
        rng=np.random.default_rng(seed),
    )
    sizes = spans.a_stop - spans.a_start
    assert (sizes >= 1).all() and (sizes <= max_seq_length - 2).all()
    assert spans.a_start[0] == 0 and spans.a_stop[-1] == len(documents.ids)
    assert (spans.a_start[1:] == spans.a_stop[:-1]).all()
    assert (spans.b_start == spans.b_stop).all() and not spans.is_random.any()
    # None runs across the end of a document.
    assert np.isin(document_bounds(documents)[1:], spans.a_stop).all()
    # A sentence that fits is never cut.
    offsets = documents.sentence_offsets
    inside = spans.a_start[~np.isin(spans.a_start, offsets)]
    owner = np.searchsorted(offsets, inside, side="right") - 1
    assert (np.diff(offsets)[owner] > max_seq_length - 2).all()


@settings(deadline=None)
@given(documents_of_any_kind, st.integers(5, 40))
def test_single_sequences_are_as_full_as_whole_sentences_make_them(lengths, max_seq_length):
    spans = single_spans(
        flat(lengths),
        max_seq_length=max_seq_length,
        short_seq_prob=0.0,
        rng=np.random.default_rng(0),
    )
    found = list(zip(spans.a_start.tolist(), spans.a_stop.tolist(), strict=True))
    assert found == greedy(lengths, max_seq_length - 2)


def test_short_targets_of_single_sequences_are_drawn_for_each():
    documents = flat(random_lengths(50, (200, 300), (1, 1), seed=0))

    def sizes(short, seed=1):
        spans = single_spans(
            documents,
            max_seq_length=34,
            short_seq_prob=short,
            rng=np.random.default_rng(seed),
        )
        last = np.isin(spans.a_stop, document_bounds(documents))  # cut by the document's end
        return (spans.a_stop - spans.a_start)[~last]

    assert (sizes(0.0) == 32).all()
    cut = sizes(0.2)
    # Uniform in 2 ... 32, so one short target of 31 is a full one.
    share, wanted = (cut < 32).mean(), 0.2 * 30 / 31
    assert abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / len(cut))
    shorter = cut[cut < 32]
    assert shorter.min() == 2 and abs(shorter.mean() - 16.5) < 4 * 8.7 / np.sqrt(len(shorter))
    assert cut.tolist() != sizes(0.2, seed=2).tolist()


@settings(deadline=None)
@given(documents_of_any_kind, st.integers(5, 40), st.floats(0, 1), st.integers(0, 99))
def test_segments_follow_each_other_in_the_order_that_the_label_says(
    lengths, max_seq_length, short, seed
):
    documents = flat(lengths)
    spans = ordered_spans(
        documents,
        max_seq_length=max_seq_length,
        short_seq_prob=short,
        rng=np.random.default_rng(seed),
    )
    a, b = spans.a_stop - spans.a_start, spans.b_stop - spans.b_start
    assert (a >= 1).all() and (b >= 1).all() and (a + b <= max_seq_length - 3).all()
    swapped = spans.is_random
    first_stop = np.where(swapped, spans.b_stop, spans.a_stop)
    second_start = np.where(swapped, spans.a_start, spans.b_start)
    assert (first_stop <= second_start).all()
    whole = a + b < max_seq_length - 3  # nothing was dropped
    assert (first_stop == second_start)[whole].all()
    assert np.isin(first_stop[whole], documents.sentence_offsets).all()
    bounds = document_bounds(documents)
    begin, end = np.minimum(spans.a_start, spans.b_start), np.maximum(spans.a_stop, spans.b_stop)
    assert (np.searchsorted(bounds, begin, "right") == np.searchsorted(bounds, end, "left")).all()
    # Whoever has two sentences gives something.
    owners = set((np.searchsorted(bounds, begin, "right") - 1).tolist())
    assert owners == {n for n, document in enumerate(lengths) if len(document) > 1}


def test_every_second_pair_of_segments_is_swapped():
    documents = flat(random_lengths(300, (2, 30), (2, 30), seed=2))
    swapped, used = [], set()
    for seed in range(10):
        spans = ordered_spans(
            documents,
            max_seq_length=64,
            short_seq_prob=0.1,
            rng=np.random.default_rng(seed),
        )
        swapped.append(spans.is_random)
        for start, stop in ((spans.a_start, spans.a_stop), (spans.b_start, spans.b_stop)):
            used.update(np.concatenate([*map(np.arange, start, stop)]).tolist())
    label = np.concatenate(swapped)
    assert abs(label.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(label))
    assert len(used) > 0.99 * len(documents.ids)


def test_the_cuts_of_segments_are_uniform():
    # One document of 12 sentences of one token, all of which fit: A has 1 ... 11 of them.
    documents = flat([[1] * 12])
    rng = np.random.default_rng(0)
    counts = np.zeros(12, int)
    for _ in range(5500):
        spans = ordered_spans(documents, max_seq_length=40, short_seq_prob=0.0, rng=rng)
        cut = spans.b_stop if spans.is_random[0] else spans.a_stop
        assert len(cut) == 1
        counts[cut[0]] += 1
    assert counts[0] == 0 and (np.abs(counts[1:] - 500) < 4 * np.sqrt(500 * 10 / 11)).all()


@pytest.mark.parametrize("kind", SEGMENTS.values())
def test_too_short_is_refused(kind):
    with pytest.raises(ValueError, match="at least 5"):
        kind.draw(
            flat([[1, 2], [3]]),
            max_seq_length=4,
            short_seq_prob=0.1,
            rng=np.random.default_rng(0),
        )

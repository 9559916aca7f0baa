"""Equal tokens have equal hashes at any position; different tokens have different ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.audit import duplicates
from bertjax.data.audit.duplicates import MIN_TOKENS, RUN_TOKENS
from bertjax.data.pairs import offsets_of

SENTENCES = st.lists(st.lists(st.integers(0, 3), max_size=20), max_size=30)


def flat(sentences):
    ids = np.array([token for sentence in sentences for token in sentence], np.uint16)
    return ids, offsets_of([len(sentence) for sentence in sentences])


@settings(deadline=None)
@given(SENTENCES, st.integers(1, 40))
def test_sentences_have_one_hash_each(sentences, chunk):
    ids, offsets = flat(sentences)
    whole = duplicates.sentence_hashes(ids, offsets, 0)
    tokens, duplicates._CHUNK_TOKENS = duplicates._CHUNK_TOKENS, chunk
    try:
        cut = duplicates.sentence_hashes(ids, offsets, 0)
    finally:
        duplicates._CHUNK_TOKENS = tokens
    np.testing.assert_array_equal(whole, cut)
    long = [tuple(sentence) for sentence in sentences if len(sentence) >= MIN_TOKENS]
    assert len(whole) == len(long)
    assert len(set(zip(long, whole.tolist(), strict=True))) == len(set(long))
    assert len(set(whole.tolist())) == len(set(long))
    half = duplicates.sentence_hashes(ids, offsets, 1)
    assert half.tolist() == [value for value in whole.tolist() if value % 2 == 0]


@settings(deadline=None)
@given(SENTENCES)
def test_runs_have_one_hash_each_and_know_their_segments(segments):
    ids, offsets = flat(segments)
    hashes, first, last = duplicates.runs(ids, offsets, 0)
    places = range(len(ids) - RUN_TOKENS + 1)
    runs = [tuple(ids[place : place + RUN_TOKENS].tolist()) for place in places]
    assert len(set(zip(runs, hashes.tolist(), strict=True))) == len(set(runs))
    assert len(set(hashes.tolist())) == len(set(runs))
    owner = [number for number, segment in enumerate(segments) for _ in segment]
    assert first.tolist() == [owner[place] for place in places]
    assert last.tolist() == [owner[place + RUN_TOKENS - 1] for place in places]


def test_the_sample_is_as_small_as_it_must_be():
    most = duplicates.MAX_HASHES
    assert [duplicates.sample_bits(count) for count in (0, 1, most, most + 1, 2 * most)] == [
        *(0, 0, 0, 1, 1)
    ]
    assert duplicates.sample_bits(2 * most + 1) == 2

"""The cache encodes each string between spaces once and joins the results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.text.encoding_cache import EncodingCache

TEXTS = st.lists(st.text(st.sampled_from("abA9.,-é\t\u3000 日"), max_size=12), max_size=6)


class Letters:
    """An encoder that records its inputs and gives one id per letter."""

    def __init__(self):
        self.asked = []

    def __call__(self, words):
        self.asked += words
        return [[ord(letter) for letter in word] for word in words]


def encoded(cache, texts):
    ids, offsets = cache.encode(texts)
    assert (ids.dtype, offsets.dtype, offsets[0]) == (np.int32, np.int64, 0)
    bounds = zip(offsets.tolist(), offsets[1:].tolist(), strict=False)
    return ["".join(map(chr, ids[start:stop])) for start, stop in bounds]


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4), st.integers(0, 5))
def test_texts_are_the_concatenation_of_their_chunks(calls, max_chunks):
    encode = Letters()
    cache = EncodingCache(encode, max_chunks)
    for texts in calls:
        assert encoded(cache, texts) == [text.replace(" ", "") for text in texts]
    if len(calls) == 1:
        assert len(encode.asked) == len(set(encode.asked))


def test_words_are_encoded_once_and_other_chunks_are_encoded_whole():
    encode = Letters()
    cache = EncodingCache(encode, 100)
    assert encoded(cache, ["the cat, (the cat).", "it's the\tcat é,"]) == [
        "thecat,(thecat).",
        "it'sthe\tcaté,",
    ]
    assert sorted(encode.asked) == sorted(
        ["the", "cat", ",", "(", ")", ".", "it", "'", "s", "the\tcat", "é,"]
    )
    encode.asked.clear()
    assert encoded(cache, ["(it's the cat.)"]) == ["(it'sthecat.)"]
    assert encode.asked == []
    assert len(cache) == 9


def test_an_error_empties_the_cache():
    def encode(words):
        if "bad" in words:
            raise TypeError("bad")
        return [[1] for _ in words]

    cache = EncodingCache(encode, 100)
    for _ in range(2):
        with pytest.raises(TypeError):
            cache.encode(["good", "bad"])
        assert len(cache) == 0
        assert cache.encode(["good one"])[0].tolist() == [1, 1]

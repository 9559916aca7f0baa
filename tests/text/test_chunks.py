"""Each string between spaces is encoded once, and texts are what their strings are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjax.text.chunks import Chunks

# Of a word, one id a letter; of a mark of punctuation, one of its own.
TEXTS = st.lists(st.text(st.sampled_from("abA9.,-é\t\u3000 日"), max_size=12), max_size=6)


class Letters:
    """An encoder that keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, words):
        self.asked += words
        return [[ord(letter) for letter in word] for word in words]


def encoded(chunks, texts):
    ids, offsets = chunks.encode(texts)
    assert (ids.dtype, offsets.dtype, offsets[0]) == (np.int32, np.int64, 0)
    bounds = zip(offsets.tolist(), offsets[1:].tolist(), strict=False)
    return ["".join(map(chr, ids[start:stop])) for start, stop in bounds]


@given(st.lists(TEXTS, max_size=4), st.integers(0, 5))
def test_texts_are_their_chunks(calls, most):
    encode = Letters()
    chunks = Chunks(encode, most)
    for texts in calls:
        assert encoded(chunks, texts) == [text.replace(" ", "") for text in texts]
    if len(calls) == 1:
        assert len(encode.asked) == len(set(encode.asked))


def test_words_are_asked_for_once_and_what_ascii_cannot_split_whole():
    encode = Letters()
    chunks = Chunks(encode, 100)
    assert encoded(chunks, ["the cat, (the cat).", "it's the\tcat é,"]) == [
        "thecat,(thecat).",
        "it'sthe\tcaté,",
    ]
    assert sorted(encode.asked) == sorted(
        ["the", "cat", ",", "(", ")", ".", "it", "'", "s", "the\tcat", "é,"]
    )
    encode.asked.clear()
    assert encoded(chunks, ["(it's the cat.)"]) == ["(it'sthecat.)"]
    assert encode.asked == []
    assert len(chunks) == 9


def test_a_refusal_is_forgotten():
    def encode(words):
        if "bad" in words:
            raise TypeError("bad")
        return [[1] for _ in words]

    chunks = Chunks(encode, 100)
    for _ in range(2):
        with pytest.raises(TypeError):
            chunks.encode(["good", "bad"])
        assert len(chunks) == 0
        assert chunks.encode(["good one"])[0].tolist() == [1, 1]

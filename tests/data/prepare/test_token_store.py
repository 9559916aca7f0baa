"""Pass 1: what is counted."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertjax.data.prepare import token_store


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("ab,. \t\x1c\xa0\u3000é"), min_size=1)))
@example(["a  b", "c"])
def test_words_are_counted_as_they_are_split(lines):
    text = " ".join(stripped for line in lines if (stripped := line.strip()))
    assert not text or token_store._count_words(text) == len(text.split())

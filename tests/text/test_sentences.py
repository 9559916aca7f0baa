import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.text.sentences import split_sentences


def test_abbreviations_and_quotations_end_no_sentence():
    assert split_sentences('Mr. Lee said: "Go! Now!" He left at 5 p.m. on Jan. 3. It rained.') == [
        'Mr. Lee said: "Go! Now!"',
        "He left at 5 p.m. on Jan. 3.",
        "It rained.",
    ]


def test_a_blank_line_ends_a_sentence_and_hard_wraps_do_not():
    assert split_sentences("A title\n\nOne sentence\nover two lines. Next.") == [
        "A title",
        "One sentence over two lines.",
        "Next.",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\t \r\n"])
def test_no_words_no_sentences(text):
    assert split_sentences(text) == []


def test_other_languages():
    assert split_sentences("今日は雨です。明日は晴れです。", "ja") == [
        "今日は雨です。",
        "明日は晴れです。",
    ]
    assert split_sentences("Das ist z.B. so. Gut.", "de") == ["Das ist z.B. so.", "Gut."]
    assert split_sentences("One. Two.", "no-such-language") == ["One.", "Two."]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_every_character_but_space_is_kept_in_order(text):
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)

"""Raw text as words."""

from bertjax.tasks.token_classification.words import split_words


def words(text, splitting):
    found = split_words(text, splitting)
    assert all(text[word.start : word.end] == word.text for word in found)
    return " ".join(word.text for word in found)


def test_punctuation_marks_are_words():
    assert words("Obama's U.S. trip, (a-b) 3.5%", "punctuation") == (
        "Obama ' s U . S . trip , ( a - b ) 3 . 5 %"
    )


def test_words_keep_the_marks_inside_them():
    assert words("Obama's U.S. trip, (New York-based) O'Brien don't 3.5%", "words") == (
        "Obama 's U.S . trip , ( New York-based ) O'Brien don't 3.5 %"
    )


def test_scripts_without_spaces_and_marks_of_letters():
    for splitting in ("punctuation", "words"):
        assert words("我爱北京。 हिन्दी में été", splitting) == "我 爱 北 京 。 हिन्दी में été"
        assert words(" \t\n", splitting) == ""
        for text in ("می\u200cخواهم", "✔\ufe0f", "👩\u200d"):  # joiners and variation selectors
            assert words(text, splitting) == text

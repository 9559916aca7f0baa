"""Raw text as words, with their characters."""

import functools
from typing import Any, Literal, NamedTuple

Splitting = Literal["punctuation", "words"]
"""How raw text is split. punctuation: each punctuation mark is a word, as BERT's tokenizer splits,
so that entities may begin and end there. words: marks inside a word belong to it (U.S, York-based),
and clitics are words ('s), as in most files of words."""

# Format characters, such as the joiners of Persian and of emoji, belong to what they follow.
_CHARACTER = r"[[\p{L}\p{M}\p{N}\p{Cf}]&&[^\p{Han}]]"
_MARK = r".[\p{M}\p{Cf}]*"
_CLITIC = rf"['’](?:s|d|m|ll|re|ve)(?!{_CHARACTER})"
_MORE = rf"(?:(?!{_CLITIC})[^\p{{L}}\p{{M}}\p{{N}}\p{{Cf}}]{_CHARACTER}+)*"
_WORDS = {
    "punctuation": rf"{_CHARACTER}+|{_MARK}",
    "words": rf"{_CHARACTER}+{_MORE}|{_CLITIC}|{_MARK}",
}


class Word(NamedTuple):
    """A word of a text."""

    text: str
    """Its characters."""
    start: int
    """Its first character."""
    end: int
    """One past its last character."""


def split_words(text: str, splitting: Splitting) -> list[Word]:
    """Returns the words of a text. A Chinese character is a word."""
    found = _splitter(splitting).pre_tokenize_str(text)
    return [Word(text[start:end], start, end) for _, (start, end) in found]


@functools.cache
def _splitter(splitting: Splitting) -> Any:
    import tokenizers
    from tokenizers import pre_tokenizers

    words = pre_tokenizers.Split(tokenizers.Regex(_WORDS[splitting]), "isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])

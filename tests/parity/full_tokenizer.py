"""BERT's tokenizer in plain Python, from its published description. It is slow and easy to check.

Devlin et al. release it as `FullTokenizer` in google-research/bert's tokenization.py; this follows
its rules in words of its own, on Python's own Unicode tables, as a reference for the tests.
"""

import functools
import unicodedata

# Blocks of Chinese characters; Hangul, Hiragana and Katakana are written with spaces or as words.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@functools.cache
def is_space(character: str) -> bool:
    return character in " \t\n\r" or unicodedata.category(character) == "Zs"


@functools.cache
def is_control(character: str) -> bool:
    """Whether a character is dropped: NUL, the replacement character, control characters."""
    if character in "\t\n\r":
        return False
    return character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf")


@functools.cache
def is_ideograph(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _IDEOGRAPHS)


@functools.cache
def is_punctuation(character: str) -> bool:
    """Whether a character is ASCII but no letter, digit or space, or is Unicode punctuation."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def words_of(text: str, lowercase: bool) -> list[str]:
    """The basic tokenizer: splits text into words and punctuation marks."""
    spaced = []
    for character in text:
        if is_control(character):
            continue
        if is_space(character):
            spaced.append(" ")
        elif is_ideograph(character):
            spaced.append(f" {character} ")
        else:
            spaced.append(character)
    words = []
    for word in "".join(spaced).split():
        if lowercase:
            word = without_accents(word.lower())
        words += _at_punctuation(word)
    return words


def pieces_of(word: str, vocabulary: set[str], longest: int = 200) -> list[str]:
    """Splits a word into the longest pieces of the vocabulary, from the left; else [UNK]."""
    if len(word) > longest:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


class FullTokenizer:
    """Converts text to tokens, without special tokens.

    Args:
        tokens: the vocabulary.
        lowercase: lower-case and strip accents.
        longest: of a word, in characters; beyond it a word is [UNK]. 200 is Google's.
    """

    def __init__(self, tokens: list[str], lowercase: bool, longest: int = 200):
        self._vocabulary = set(tokens)
        self._lowercase = lowercase
        self._longest = longest
        self._cache: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        found = []
        for chunk in text.split(" "):  # no rule depends on text behind a space
            if chunk not in self._cache:
                self._cache[chunk] = [
                    piece
                    for word in words_of(chunk, self._lowercase)
                    for piece in pieces_of(word, self._vocabulary, self._longest)
                ]
            found += self._cache[chunk]
        return found


def _at_punctuation(word: str) -> list[str]:
    parts, fresh = [], True
    for character in word:
        if is_space(character):  # the decomposition of an accent may contain a space
            fresh = True
        elif is_punctuation(character):
            parts.append(character)
            fresh = True
        elif fresh:
            parts.append(character)
            fresh = False
        else:
            parts[-1] += character
    return parts

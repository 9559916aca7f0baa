"""Tests that WordPiece gives Google's tokens, except for the exceptions that are named here.

The reference, full_tokenizer.py, follows the published description on Python's Unicode tables;
bertjax goes by the library `tokenizers`, as transformers does, on tables of the library's own.
"""

import random
import unicodedata

import numpy as np
import pytest

from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.wordpiece import MAX_WORD_CHARACTERS, WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

PRIVATE = "characters of private use: Google keeps them, the library drops them"
IDEOGRAPHS = "U+2B820 to U+2B91F: Google spaces these ideographs, the library leaves them in words"
CHANGED = "U+166D, 1734, 1885, 1886, 111C9, 11938: another category or parts in its tables"
NEWER = "marks, punctuation, format characters newer than the library's tables: letters to it"
UNKNOWN = "upper-case letters that Python's tables don't have yet: the library lower-cases them"
SIGMA = "a Greek word's last capital sigma: Google, by Python, makes it a final sigma"
LONG = "words of 101 to 200 characters: [UNK] in the library, as in transformers"

# Pieces of text for every rule.
ALPHABET = (
    "abcdeXYZ 019 .,;!?'\"()[]{}<>@#$%^&*+-=_~`|/\\ "
    "éÉèüÜñÑçÇåÅøØæÆßẞşŞıİłŁđĐžŽơƠǆǅǄﬁﬂ½²№™ſ "
    "αβγάέώΐΰΆΈΏσς абвйЙёЁїЇґ ѢѣӘә აბგ ԱԲա "
    "שלוםשָׁ عَرَبِيّ١٢٣ हिन्दीक्षि தமிழ் ไทยก็ ຂໍ ខ្មែរ မြန်မာ བོད་ "
    "日本語中文漢字㐀䶵豈更𠀀𪜀𫝀カタカナひらがなｶﾅー々〆 한국어 각각 "
    "😀👍🏽👩‍👩‍👧🇩🇪❤️☃️✈ e\u0301a\u0308o\u0302\u0301n\u0303\u0345\u20d7 "
    "\u00a0\u1680\u2000\u2003\u2009\u200a\u202f\u205f\u3000\u2028\u2029\t\n\r\x0b\x0c\x1c\x1d\x1f\x85"
    "\x00\x01\x07\x1b\x7f\x9f\u00ad\u200b\u200c\u200d\u200e\u2060\ufeff\ufffd"
    "‿⁀—–‐「」『』«»‹›“”‘’„…·¡¿§¶†‡•※、。！？：；（）［］｛｝～।॥؟،؛־׳៖༎ "
    "€£¥₿×÷±∞≠←→■★°©®"
)


def wordpiece(words, lowercase, seed=0):
    """A vocabulary with most characters of the words and some of the pairs."""
    draws = random.Random(seed)
    characters = sorted({character for word in words for character in word})
    pairs = sorted({word[i : i + 2] for word in words for i in range(len(word) - 1)})
    tokens = [c for c in characters if draws.random() < 0.95]
    tokens += ["##" + c for c in characters if draws.random() < 0.95]
    for pair in pairs:
        tokens += [t for t in (pair, "##" + pair) if draws.random() < 0.2]
    tokens = [*SPECIALS, *tokens]
    return WordPieceTokenizer(tokens, lowercase), tokens


def tokens_of(tokenizer, texts):
    return [list(map(tokenizer.token, ids)) for ids in tokenizer.encode_sentences(texts)]


@pytest.fixture(scope="module")
def full(load_helper):
    return load_helper("parity/full_tokenizer.py")


def reason(character, lowercase):
    """Returns the exception that a character belongs to, or None."""
    number, category = ord(character), unicodedata.category(character)
    if category == "Co":
        return PRIVATE
    if 0x2B820 <= number < 0x2B920:
        return IDEOGRAPHS
    if number in (0x166D, 0x1734, 0x1885, 0x1886, 0x111C9, 0x11938):
        return CHANGED
    if unicodedata.ucd_3_2_0.category(character) == "Cn" and (
        category in ("Cf", "Mn") or category[0] == "P"
    ):
        return NEWER
    if category == "Cn" and lowercase:
        return UNKNOWN
    return None


def reasons(text, lowercase):
    """Returns the exceptions that a text contains."""
    found = {reason(character, lowercase) for character in set(text)}
    if lowercase and "Σ" in text:
        found.add(SIGMA)
    if any(len(word) > MAX_WORD_CHARACTERS for word in text.split()):
        found.add(LONG)
    return found - {None}


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
def test_every_token_of_made_up_text(full, lowercase, hold):
    draws = random.Random(1)
    texts = [
        "".join(draws.choices(ALPHABET, k=draws.randint(0, 60))).replace(" ", " " * (n % 3))
        for n in range(6000)
    ]
    words = [word for text in texts for word in full.words_of(text, lowercase)]
    tokenizer, tokens = wordpiece(words, lowercase)
    reference = full.FullTokenizer(tokens, lowercase)
    expected = [reference.tokenize(text) for text in texts]
    found = tokens_of(tokenizer, texts)
    count = sum(map(len, expected))
    unknown = sum(token == "[UNK]" for row in expected for token in row) / count
    assert 0.02 < unknown < 0.5 and any(t.startswith("##") for row in expected for t in row)
    different = [n for n in range(len(texts)) if found[n] != expected[n]]
    assert not different, (texts[different[0]], found[different[0]], expected[different[0]])
    case = "uncased" if lowercase else "cased"
    note = f"{len(texts):,} texts, {count:,} tokens"
    hold(f"tokens, made-up text, {case}: texts that differ", len(different), 0, note)


def characters(every):
    """Returns all characters except letters, and a sample of the letters and the rest."""
    for number in range(0x110000):
        plain = unicodedata.category(chr(number)) in ("Lo", "Co", "Cn")
        if not 0xD800 <= number < 0xE000 and (not plain or number % every == 0):
            yield chr(number)


@pytest.mark.parametrize("lowercase", [True, False], ids=["uncased", "cased"])
@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_every_character(full, lowercase, every, hold):
    """The tokens of a?b show if ? is dropped, a space, a word of its own, a letter or an accent."""
    texts = [f"a{character}b" for character in characters(every)]
    expected = [full.words_of(text, lowercase) for text in texts]
    known = sorted({character for words in expected for word in words for character in word})
    tokens = [*SPECIALS, *known, *("##" + character for character in known)]
    tokenizer = WordPieceTokenizer(tokens, lowercase)
    counts, unexplained = {}, []
    for text, words, found in zip(texts, expected, tokens_of(tokenizer, texts), strict=True):
        pieces = [
            ("##" if place else "") + character
            for word in words
            for place, character in enumerate(word)
        ]
        if found == pieces:
            continue
        why = reason(text[1:-1], lowercase)
        counts[why] = counts.get(why, 0) + 1
        if why is None:
            unexplained.append(text)
    case = "uncased" if lowercase else "cased"
    hold(
        f"characters, {case}: unexplained differences",
        len(unexplained),
        0,
        f"{len(texts):,} characters; " + "; ".join(f"{n:,} {why}" for why, n in counts.items()),
    )
    assert {PRIVATE, IDEOGRAPHS, NEWER} <= set(counts)  # every exception occurs
    assert counts[NEWER] < 700


def test_a_final_sigma_is_the_librarys(full):
    tokens = [*SPECIALS, *"οδσς", *(f"##{c}" for c in "οδσς")]
    assert full.FullTokenizer(tokens, True).tokenize("ΟΔΟΣ") == ["ο", "##δ", "##ο", "##ς"]
    assert tokens_of(WordPieceTokenizer(tokens, True), ["ΟΔΟΣ"]) == [["ο", "##δ", "##ο", "##σ"]]


def test_long_words_are_the_librarys(full):
    tokens = [*SPECIALS, "a", "##a"]
    tokenizer, reference = WordPieceTokenizer(tokens, True), full.FullTokenizer(tokens, True)
    for length in (99, 100, 101, 200, 201):
        found, expected = tokens_of(tokenizer, ["a" * length])[0], reference.tokenize("a" * length)
        assert (found == expected) == (not 100 < length <= 200)


def test_the_reference_splits_as_it_is_described(full):
    """Tests the reference tokenizer against tokens that were written by hand."""
    tokens = ["un", "##aff", "##able", "want", "##want", "##ed", "wa", "runn", "##ing", ",", "日"]
    reference = full.FullTokenizer(tokens, True)
    assert reference.tokenize("UNwant\u00e9d,running 日 unaffable\x00") == [
        "un", "##want", "##ed", ",", "runn", "##ing", "日", "un", "##aff", "##able",
    ]  # fmt: skip
    assert full.words_of(" \tHeLLo!how  \n Are yoU?日本  ", True) == [
        "hello", "!", "how", "are", "you", "?", "日", "本",
    ]  # fmt: skip
    assert full.words_of("Ünï\u00adcode\u3000$5", False) == ["Ünïcode", "$", "5"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["uncased", "cased", "multilingual-cased"])
def test_every_token_of_real_text(name, full, data_dir, texts, hold):
    path = data_dir / "vocab" / f"bert-base-{name}-vocab.txt"
    tokens = path.read_text(encoding="utf-8").split("\n")
    lowercase = name == "uncased"
    tokenizer = load_tokenizer(path)
    reference = full.FullTokenizer([token for token in tokens if token], lowercase)
    ids = {token: number for number, token in enumerate(tokens)}
    different, counts, total = 0, {}, 0
    for text, found in zip(texts, tokenizer.encode_sentences(texts), strict=True):
        expected = [ids[token] for token in reference.tokenize(text)]
        total += len(expected)
        if np.array_equal(found, expected):
            continue
        why = reasons(text, lowercase)
        for each in why:
            counts[each] = counts.get(each, 0) + 1
        different += not why
    note = f"{len(texts):,} texts, {total:,} tokens"
    note += "".join(f"; {count:,} texts: {why}" for why, count in sorted(counts.items()))
    hold(f"tokens, novels, udhr, tweets, {name}: texts that differ", different, 0, note)
    assert total > 500_000 and sum(counts.values()) < 0.01 * len(texts)

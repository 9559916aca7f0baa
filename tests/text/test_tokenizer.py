"""Tests of tokenizers of both kinds: encoding, batches and loading."""

import pickle
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.errors import UserError
from bertjax.text import tokenizer_base
from bertjax.text.added_tokens import AddedToken
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.text.wordpiece import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "",
    " ",
    "The cat sat on the mat.",
    "  Naïve CAFÉ \t and\n hills ",
    "ﬁne […] ½ Ｆｕｌｌ ①",  # NFKC changes the number of characters
    "日本語 の テキスト 中文",
    "e\u0301te\u0301 İstanbul ß ẞ ǆ",
    "😀 👩‍👩‍👧 walked",
    "a\u200bb\u00adc\x01d",
    "[CLS] [MASK] [SEP] ##ing ▁the",
    "x" * 300,
]


@pytest.fixture(scope="session", params=["sentencepiece", "wordpiece"])
def trained(request, corpus_file, tmp_path_factory):
    """A trained tokenizer of each kind, and its directory."""
    output = tmp_path_factory.mktemp(request.param)
    size = 48 if request.param == "sentencepiece" else 90
    config = TokenizerConfig((str(corpus_file),), str(output), request.param, size)
    return train_tokenizer(config, lambda line: None), output


def wordpiece(*tokens, lowercase=True, strip_accents=None):
    return WordPieceTokenizer([*SPECIALS, *tokens], lowercase, strip_accents)


# Ids, offsets, special tokens


def test_the_special_tokens_are_the_first_five(trained):
    tokenizer, _ = trained
    assert [tokenizer.token(number) for number in range(5)] == SPECIALS
    ids = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id]
    assert [*ids, tokenizer.mask_id] == [0, 1, 2, 3, 4]
    assert tokenizer.special().nonzero()[0].tolist() == [0, 2, 3, 4]
    assert tokenizer.lowercase


def test_the_surfaces_of_the_tokens_make_up_the_text(trained):
    tokenizer, _ = trained
    for text in ("the cat dog sat on a mat", "and walked over hills."):
        put_together = ""
        for number in tokenizer.encode(text).ids[1:-1]:
            surface = tokenizer.surface(number)
            apart = surface.begins and not surface.continues
            put_together += " " * apart + surface.text
        assert put_together == f" {text}"
    assert [tokenizer.surface(number) for number in range(5)] == [None] * 5


def test_tokens_that_no_text_produces_have_no_surface():
    tokenizer = wordpiece("the", "##ing", ",", "##,", "[unused1]", "The", "日", "##日", "##")
    found = [tokenizer.surface(number) for number in range(5, tokenizer.vocab_size)]
    assert found == [
        ("the", True, False), ("ing", False, True), (",", True, True), None, None, None,
        ("日", True, True), None, None,
    ]  # fmt: skip
    assert wordpiece("The", lowercase=False).surface(5) == ("The", True, False)


def test_wordpiece_splits_by_the_longest_match():
    tokenizer = wordpiece("un", "##aff", "##able", "##a", "cafe", ",", "日")
    found = tokenizer.encode("Unaffable, CAFÉ日xyz")
    assert [tokenizer.token(number) for number in found.ids] == [
        "[CLS]", "un", "##aff", "##able", ",", "cafe", "日", "[UNK]", "[SEP]",
    ]  # fmt: skip
    assert found.token_type_ids == [0] * 9
    assert found.offsets == [
        (0, 0), (0, 2), (2, 5), (5, 9), (9, 10), (11, 15), (15, 16), (16, 19), (0, 0),
    ]  # fmt: skip


def test_wordpiece_words_beyond_100_characters_are_unknown():
    tokenizer = wordpiece("a", "##a")
    assert tokenizer.encode("a" * 100).ids.count(tokenizer.unk_id) == 0
    assert tokenizer.encode("a" * 101).ids[1:-1] == [tokenizer.unk_id]


def test_accents_can_be_kept_apart_from_case():
    tokens = ("été", "ete", "Été", "Ete")
    found = {
        (lower, strip): wordpiece(*tokens, lowercase=lower, strip_accents=strip)
        .encode("Été")
        .ids[1]
        for lower in (True, False)
        for strip in (None, True, False)
    }
    names = {key: [*SPECIALS, *tokens][number] for key, number in found.items()}
    assert names == {
        (True, None): "ete",
        (True, True): "ete",
        (True, False): "été",
        (False, None): "Été",
        (False, True): "Ete",
        (False, False): "Été",
    }


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_point_at_the_text_that_a_token_comes_from(trained, text):
    tokenizer, _ = trained
    found = tokenizer.encode(text)
    assert len(found.ids) == len(found.token_type_ids) == len(found.offsets)
    assert found.offsets[0] == found.offsets[-1] == (0, 0)
    inner = list(zip(found.ids, found.offsets, strict=True))[1:-1]
    for number, (start, end) in inner:
        assert 0 <= start <= end <= len(text)
        piece = tokenizer.token(number).removeprefix("##").removeprefix("▁")
        if not piece:
            assert start == end  # a piece of SentencePiece that is only a space
            continue
        assert start < end and not text[start].isspace()
        if number == tokenizer.unk_id:
            continue
        # The normalized slice contains the piece. They differ if a character becomes several.
        assert _plain(piece) in _plain(text[start:end])
    starts = [start for _, (start, _) in inner]
    assert starts == sorted(starts)


def _plain(text):
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cc", "Cf"))


def test_offsets_of_known_words_are_their_places(trained):
    tokenizer, _ = trained
    text = "  the ﬁ cat,  walked\n(Also) 😀 the"
    found = tokenizer.encode(text)
    covered = set()
    for start, end in found.offsets:
        covered.update(range(start, end))
    for word in ("the", "cat", "walked", "Also"):
        begin = text.index(word)
        assert set(range(begin, begin + len(word))) <= covered
        assert any(start == begin for start, _ in found.offsets[1:-1])
    assert not any(text[place].isspace() for place in covered)


def test_a_text_cannot_write_special_tokens(trained):
    tokenizer, _ = trained
    inner = tokenizer.encode("[CLS] a [MASK] [SEP] [PAD]").ids[1:-1]
    assert not tokenizer.special()[inner].any()
    assert not tokenizer.special()[tokenizer.batch(["[SEP]"])["input_ids"][0, 1:-1]].any()


def test_added_tokens_are_found_in_text():
    words = [*SPECIALS, "the", "cat", "[", "]", "e", "##1"]
    added = (AddedToken("[E1]"), AddedToken("covid", special=False, normalized=True))
    tokenizer = WordPieceTokenizer(words, True, added=added)
    assert tokenizer.vocab_size == 13 and tokenizer.token(11) == "[E1]"
    text = "[E1] the[MASK] COVIDcat [e1] [SEP]"
    found = tokenizer.encode(text, parse_mask=True)
    unknown = tokenizer.unk_id
    assert found.ids == [2, 11, 5, 4, 12, 6, 7, 9, 10, 8, 7, unknown, 8, 3]
    assert [text[slice(*place)] for place in found.offsets[1:6]] == [
        "[E1]", "the", "[MASK]", "COVID", "cat",
    ]  # fmt: skip
    # A special one is never masked and not shown; another one is text.
    assert np.flatnonzero(tokenizer.special()).tolist() == [0, 2, 3, 4, 11]
    assert tokenizer.decode([2, 11, 12, 6]) == "covid cat"
    assert tokenizer.surface(11) is None and tokenizer.surface(12) == ("covid", True, False)
    exact = WordPieceTokenizer(words, True, added=added[:1])
    texts = ["the cat", "a [E1]", "[e1]", "", "[E1]"]
    rows = [row.tolist() for row in exact.encode_sentences(texts)]
    assert rows == [[5, 6], [1, 11], [7, 9, 10, 8], [], [11]]
    assert rows == [exact.encode(text).ids[1:-1] for text in texts]
    hashes = {each.sha256 for each in (tokenizer, exact, WordPieceTokenizer(words, True))}
    assert len(hashes) == 3
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text).ids == tokenizer.encode(text).ids


def test_parse_mask_turns_a_literal_into_the_mask_token(trained):
    tokenizer, _ = trained
    text = "The [MASK] sat on [MASK]."
    found = tokenizer.encode(text, parse_mask=True)
    masks = [place for place, number in enumerate(found.ids) if number == tokenizer.mask_id]
    assert [text[slice(*found.offsets[place])] for place in masks] == ["[MASK]", "[MASK]"]
    rest = [number for number in found.ids if number != tokenizer.mask_id]
    assert tokenizer.decode(rest).replace(" ", "") == "thesaton."
    # The full stop continues the word before it.
    assert found.ids[-2] == tokenizer.encode("the cat.").ids[-2]
    batch = tokenizer.batch([text], parse_mask=True)
    assert batch["input_ids"][0].tolist() == found.ids


def test_pairs_have_types_and_offsets_of_their_own_text(trained):
    tokenizer, _ = trained
    single, other = tokenizer.encode("the cat"), tokenizer.encode("A dog sat")
    pair = tokenizer.encode("the cat", "A dog sat")
    assert pair.ids == single.ids + other.ids[1:]
    assert pair.offsets == single.offsets + other.offsets[1:]
    assert pair.token_type_ids == [0] * len(single.ids) + [1] * (len(other.ids) - 1)
    assert tokenizer.encode("the cat", "").ids == [*single.ids, tokenizer.sep_id]


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 20))
def test_truncation_drops_from_the_longer_text_one_token_at_a_time(first, second, budget):
    a, b = first, second
    while a + b > budget:  # _truncate_seq_pair of google-research/bert
        if a > b:
            a -= 1
        else:
            b -= 1
    assert tokenizer_base.truncated_lengths(first, second, budget) == (a, b)


def test_truncation_keeps_the_beginnings(trained):
    tokenizer, _ = trained
    long, short = "the cat sat on a mat and walked over hills", "a dog"
    first, second = tokenizer.encode(long).ids[1:-1], tokenizer.encode(short).ids[1:-1]
    found = tokenizer.encode(long, short, max_length=len(second) + 6)
    assert found.ids == [2, *first[:3], 3, *second, 3]
    assert tokenizer.encode(long, max_length=5).ids == [2, *first[:3], 3]
    assert tokenizer.encode(long, max_length=2).ids == [2, 3]
    with pytest.raises(UserError, match="max_length 1 "):
        tokenizer.encode(long, max_length=1)
    with pytest.raises(UserError, match=r"max_length 2 .* 3 special"):
        tokenizer.batch([long], [short], max_length=2)


# Batches


def test_a_batch_is_its_texts_encoded_and_padded(trained):
    tokenizer, _ = trained
    texts, pairs = TEXTS, list(reversed(TEXTS))
    for given_pairs in (None, pairs):
        batch = tokenizer.batch(texts, given_pairs, max_length=24)
        assert {name: array.dtype for name, array in batch.items()} == {
            "input_ids": np.int32,
            "attention_mask": np.int32,
            "token_type_ids": np.int32,
        }
        longest = 0
        for row, text in enumerate(texts):
            found = tokenizer.encode(text, given_pairs and given_pairs[row], 24)
            longest = max(longest, size := len(found.ids))
            assert batch["input_ids"][row].tolist()[:size] == found.ids
            assert batch["token_type_ids"][row].tolist()[:size] == found.token_type_ids
            assert batch["attention_mask"][row].tolist()[:size] == [1] * size
            assert (batch["input_ids"][row, size:] == tokenizer.pad_id).all()
            assert not batch["attention_mask"][row, size:].any()
            assert not batch["token_type_ids"][row, size:].any()
        assert batch["input_ids"].shape == (len(texts), longest)


def test_it_is_called_like_hugging_faces(trained):
    tokenizer, _ = trained

    def same(one, other):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])

    texts, pairs = ["the cat", "the cat sat on a mat"], ["a dog", "hills"]
    same(tokenizer("the cat"), tokenizer.batch(["the cat"]))
    same(tokenizer("the cat", "a dog"), tokenizer.batch(["the cat"], ["a dog"]))
    same(tokenizer(texts, padding=True), tokenizer.batch(texts))
    same(tokenizer(texts, pairs, padding="longest"), tokenizer.batch(texts, pairs))
    cut = {"truncation": True, "max_length": 6}
    same(
        tokenizer(texts, **cut, padding=True, return_tensors="np"), tokenizer.batch(texts, None, 6)
    )
    same(
        tokenizer(texts, pairs, **cut, padding="max_length"),
        tokenizer.batch(texts, pairs, 6, pad_to=6),
    )
    long = " ".join(["cat"] * 400)
    assert tokenizer(long)["input_ids"].shape[1] > 400  # nothing is truncated unasked
    for arguments, named, sentence in (
        ((texts,), {}, "rows differ in length, so they need padding"),
        ((texts,), {"padding": True, "truncation": True}, "need `max_length`"),
        ((texts,), {"padding": "max_length"}, "need `max_length`"),
        ((texts,), {"padding": "max_length", "max_length": 3}, "pad_to 3 is shorter"),
        ((texts, "a"), {}, "must be two strings"),
        (("a", texts), {}, "must be two strings"),
        (("a",), {"padding": "right"}, "padding is 'right': give one of True, False, 'longest'"),
        (("a",), {"truncation": "only_first"}, "truncation is 'only_first': give"),
        (("a",), {"return_tensors": "pt"}, "return_tensors is 'pt': give one of None, 'np'"),
    ):
        with pytest.raises(UserError, match=sentence):
            tokenizer(*arguments, **named)


def test_pad_to_fixes_the_width(trained):
    tokenizer, _ = trained
    assert tokenizer.batch(["the"], pad_to=40)["input_ids"].shape == (1, 40)
    assert tokenizer.batch([], pad_to=40)["input_ids"].shape == (0, 40)
    with pytest.raises(UserError, match="pad_to 3"):
        tokenizer.batch(["the cat sat on"], pad_to=3)


def test_mistakes_in_batches_are_named(trained):
    tokenizer, _ = trained
    with pytest.raises(UserError, match="list of strings"):
        tokenizer.batch("the cat")
    with pytest.raises(UserError, match="2 texts but 1 pairs"):
        tokenizer.batch(["a", "b"], ["c"])


def test_sentences_are_encoded_without_special_tokens(trained):
    tokenizer, _ = trained
    found = tokenizer.encode_sentences(tuple(TEXTS))
    assert all(isinstance(ids, np.ndarray) and ids.dtype == np.int32 for ids in found)
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text).ids[1:-1] for text in TEXTS]
    assert tokenizer.encode_sentences([]) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=4))
def test_wordpiece_chunks_are_encoded_as_the_whole_text(texts):
    tokenizer = wordpiece("a", "b", "##a", "##b", "é", "ab", "0", "##0", "日", "!")
    whole = [tokenizer.encode(text).ids[1:-1] for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_sentences(texts)] == whole


def test_the_cache_of_wordpiece_is_bounded(monkeypatch):
    monkeypatch.setattr("bertjax.text.wordpiece._MAX_CACHED_CHUNKS", 4)
    tokenizer = wordpiece("a", "b", "c", "d", "e", "f")
    for text in ("a b c", "c d", "d e f a", "a b c d e f"):
        expected = [5 + "abcdef".index(letter) for letter in text.split()]
        assert [ids.tolist() for ids in tokenizer.encode_sentences([text])] == [expected]
        assert len(tokenizer._cache) <= 6


def test_lone_surrogates_are_refused_with_a_sentence(trained):
    tokenizer, _ = trained
    for call in (
        lambda: tokenizer.encode("a\ud800"),
        lambda: tokenizer.batch(["fine", "a\ud800"]),
        lambda: tokenizer.encode_sentences(["fine", "a\ud800"]),
    ):
        with pytest.raises(UserError, match=r"lone surrogate .* at character 1"):
            call()


def test_decoding(trained):
    tokenizer, _ = trained
    found = tokenizer.encode("The cat sat.", "A dog")
    assert tokenizer.decode(found.ids).replace(" .", ".") == "the cat sat. a dog"
    shown = tokenizer.decode(np.array([*found.ids, 4, 0]), skip_special=False)
    assert shown.replace(" .", ".") == "[CLS] the cat sat. [SEP] a dog [SEP] [MASK] [PAD]"
    assert tokenizer.decode([]) == tokenizer.decode([0, 2, 3]) == ""
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(IndexError):
            tokenizer.decode([wrong])
        with pytest.raises(IndexError):
            tokenizer.token(wrong)


def test_word_starts(trained):
    tokenizer, _ = trained
    starts = tokenizer.word_starts()
    assert starts.dtype == bool and starts.shape == (tokenizer.vocab_size,)
    assert starts[tokenizer.special()].all()
    for number in range(5, tokenizer.vocab_size):
        token = tokenizer.token(number)
        begins = token.startswith("▁") if tokenizer.kind == "sentencepiece" else token[:2] != "##"
        assert starts[number] == begins
    words = "the cat walked over hills"
    ids = tokenizer.encode_sentences([words])[0]
    assert starts[ids].sum() == len(words.split())


# Files


def test_a_saved_tokenizer_is_the_same_one(trained, tmp_path):
    tokenizer, output = trained
    tokenizer.save(tmp_path / "copy")
    name = "spm.model" if tokenizer.kind == "sentencepiece" else "vocab.txt"
    for other in (
        load_tokenizer(output),
        load_tokenizer(str(tmp_path / "copy")),
        load_tokenizer(tmp_path / "copy" / name, kind=tokenizer.kind),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert other.sha256 == tokenizer.sha256
        assert other.kind == tokenizer.kind and other.lowercase == tokenizer.lowercase
        assert other.encode("the ﬁne cat").ids == tokenizer.encode("the ﬁne cat").ids
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(
        [name, "tokenizer_config.json"]
    )


def test_the_hash_is_of_vocabulary_and_normalization():
    hashes = {
        wordpiece("a", "b").sha256,
        wordpiece("b", "a").sha256,
        wordpiece("a", "b", lowercase=False).sha256,
        wordpiece("a", "b", strip_accents=False).sha256,
    }
    assert len(hashes) == 4
    assert wordpiece("a", "b", strip_accents=True).sha256 == wordpiece("a", "b").sha256


def test_settings_beside_a_vocabulary(tmp_path):
    vocabulary = "\n".join([*SPECIALS, "été", "ete"])
    (tmp_path / "vocab.txt").write_text(vocabulary + "\n", encoding="utf-8")
    assert load_tokenizer(tmp_path).lowercase
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": true, "strip_accents": false}'
    )
    assert load_tokenizer(tmp_path).encode("ÉTÉ").ids[1] == 5
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not load_tokenizer(tmp_path).lowercase
    assert load_tokenizer(tmp_path, lowercase=True).lowercase


def test_without_settings_the_share_of_capitals_decides_and_a_warning_says_so(tmp_path, caplog):
    path = tmp_path / "cased.txt"
    for tokens, lowercase in (
        (["the", "The", "[unused1]"], False),
        (["the", "[UNUSED]", "<S>", "<URL>", "[URL]"], True),
        ([*(f"x{number}" for number in range(95)), "URL"], True),
        ([*(f"x{number}" for number in range(95)), "URL", "USA"], False),
    ):
        path.write_text("\r\n".join([*SPECIALS, *tokens]))
        caplog.clear()
        tokenizer = load_tokenizer(path)
        assert tokenizer.lowercase is lowercase and tokenizer.vocab_size == 5 + len(tokens)
        assert (
            "cased.txt: nothing says whether the vocabulary is cased; it is taken as "
            + ("uncased" if lowercase else "cased")
            in caplog.text
        )
        # What is saved is the same for transformers, and still no more than a guess here.
        tokenizer.save(tmp_path / "saved")
        caplog.clear()
        saved = load_tokenizer(tmp_path / "saved")
        assert saved.sha256 == tokenizer.sha256
        assert "nothing says whether" in caplog.text and "remove do_lower_case_gu" in caplog.text
        caplog.clear()
        assert load_tokenizer(path, lowercase=True).lowercase and caplog.text == ""


def test_a_mark_and_spaces_of_editors_are_no_part_of_tokens(tmp_path):
    tokens = [*SPECIALS, "the", "cat", "\u3000"]
    path = tmp_path / "vocab.txt"
    path.write_text("\ufeff" + "".join(f" {token}\t \r\n" for token in tokens), encoding="utf-8")
    assert load_tokenizer(path).sha256 == WordPieceTokenizer(tokens, True).sha256
    path.write_text("\n".join([*tokens, " ", "on"]), encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab\.txt:9: an empty line"):
        load_tokenizer(path)


def test_tokens_that_look_like_line_ends_are_tokens(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join([*SPECIALS, "\u2028", "\x85", "a"]).encode() + b"\n")
    assert load_tokenizer(path).token(7) == "a"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\n".join([*SPECIALS, "a", "b", "a"]), r"vocab\.txt:8: 'a' is already on line 6"),
        ("\n".join([*SPECIALS, "a", "", "b"]), r"vocab\.txt:7: an empty line"),
        ("\n".join(SPECIALS[:3]), r"has no \[SEP\], \[MASK\]"),
        ("", r"has no \[PAD\]"),
        (b"\xff\xfe\x00", "neither a WordPiece vocabulary in UTF-8 nor a SentencePiece model"),
    ],
)
def test_bad_vocabularies_are_refused(tmp_path, content, reason):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "vocab.txt").write_bytes(data)
    with pytest.raises(UserError, match=reason):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, "[]", '{"do_lower_case": "yes"}', "9" * 5000, "\x00"]
)
def test_bad_settings_are_refused(tmp_path, content):
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIALS))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: "):
        load_tokenizer(tmp_path)


def test_the_wrong_kind_is_refused(trained, tmp_path):
    tokenizer, output = trained
    other = "wordpiece" if tokenizer.kind == "sentencepiece" else "sentencepiece"
    with pytest.raises(UserError, match=f"not the requested {other}"):
        load_tokenizer(output, kind=other)
    name, wrong = ("spm.model", "vocab.txt")
    if tokenizer.kind == "wordpiece":
        name, wrong = wrong, name
    (tmp_path / wrong).write_bytes((output / name).read_bytes())
    with pytest.raises(
        UserError, match=r"is a SentencePiece model, not|is not a SentencePiece model"
    ):
        load_tokenizer(tmp_path)
    with pytest.raises(
        UserError, match=r"is a SentencePiece model, not|is not a SentencePiece model"
    ):
        load_tokenizer(output / name, kind=other)


def test_directories_without_or_with_too_many_vocabularies(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "no")
    with pytest.raises(UserError, match=r"neither vocab\.txt nor spm\.model"):
        load_tokenizer(tmp_path)
    for name in ("vocab.txt", "spm.model"):
        (tmp_path / name).write_text("\n".join(SPECIALS))
    with pytest.raises(UserError, match="holds both"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, kind="wordpiece").vocab_size == 5


def test_damaged_models_never_crash(corpus_file, tmp_path):
    config = TokenizerConfig((str(corpus_file),), str(tmp_path / "out"), vocab_size=48)
    train_tokenizer(config, lambda line: None)
    data = (tmp_path / "out/spm.model").read_bytes()
    generator = random.Random(0)
    path = tmp_path / "spm.model"
    refused = 0
    for _ in range(60):
        damaged = bytearray(data[: generator.choice([len(data), generator.randrange(len(data))])])
        if damaged:
            damaged[generator.randrange(min(200, len(damaged)))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            load_tokenizer(path).encode("the cat")
        except UserError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 20


def test_importing_loads_no_heavy_library():
    program = (
        "import sys, bertjax.text.tokenizer, bertjax.text.corpus; "
        "print([name for name in ('jax', 'tokenizers', 'sentencepiece', 'sentencex', 'tensorflow') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# Real vocabularies


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "lowercase"),
    [
        ("bert-base-uncased-vocab.txt", True),
        ("bert-base-cased-vocab.txt", False),
        ("bert-base-multilingual-cased-vocab.txt", False),
    ],
)
def test_ids_are_those_of_hugging_faces_tokenizer(data_dir, name, lowercase):
    from tokenizers.implementations import BertWordPieceTokenizer

    path = data_dir / "vocab" / name
    tokenizer = load_tokenizer(path)
    assert tokenizer.lowercase == lowercase  # inferred from the vocabulary
    reference = BertWordPieceTokenizer(str(path), lowercase=lowercase)
    assert tokenizer.vocab_size == reference.get_vocab_size()
    texts = [text for text in TEXTS if "[CLS]" not in text]
    texts += (data_dir / "udhr").joinpath("eng.txt").read_text(encoding="utf-8").split("\n")
    for file in sorted((data_dir / "udhr").glob("*.txt"))[::25]:
        texts += file.read_text(encoding="utf-8").split("\n")[:20]
    assert len(texts) > 300
    plain = tokenizer.encode_sentences(texts)
    for text, ids in zip(texts, plain, strict=True):
        expected = reference.encode(text)
        found = tokenizer.encode(text)
        assert found.ids == expected.ids
        assert found.offsets == expected.offsets
        assert ids.tolist() == expected.ids[1:-1]


@pytest.mark.data
def test_sentencepiece_models_without_special_tokens_are_refused(data_dir):
    for path in sorted((data_dir / "sentencepiece").glob("*.model")):
        with pytest.raises(UserError, match=r"has no .*\[CLS\].*\[MASK\]"):
            load_tokenizer(path)

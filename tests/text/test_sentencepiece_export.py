"""Tests of exporting a SentencePiece model: the `tokenizers` library gives the same ids."""

import io
import struct
import tarfile
import unicodedata

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.errors import UserError
from bertjax.text import sentencepiece as ours
from bertjax.text.sentencepiece import SentencePieceTokenizer
from bertjax.text.tokenizer_base import SPECIALS

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "Élan",
    "vital",
    "coöperates",
    "with",
    "naïve",
    "São",
    "Paulo",
    "北京",
    "café",
    "fine",
]
TEXTS = [
    "",
    " ",
    "▁",
    "the▁cat",
    "  the   cat\tsat\non a mat ",
    "E\u0301LAN vital, cafe\u0301s; SÃO",
    "\ufb01ne \u00bd \uff21\uff22\uff23 \u2167",
    "北京 is 中国's",
    "x\u200by\ufeffz\u00ad\u2028\u3000",
    "😀 😀😀 the😀cat",
    "\u0130stanbul STRASSE stra\u00dfe \u03a3\u03c2\u03c3",
    "1,000.5% (a-b) [c] #d @e",
]
IDS = {name: number for number, name in enumerate(SPECIALS)}


def corpus():
    return [" ".join(WORDS[i % len(WORDS) :] + WORDS[: i % 7]) for i in range(300)]


@pytest.fixture(
    scope="module",
    params=[
        (True, False, "unigram"),
        (False, False, "unigram"),
        (True, False, "bpe"),
        (False, True, "bpe"),
        (True, True, "unigram"),
    ],
    ids=["uncased", "cased", "uncased-bpe", "cased-stripped-bpe", "uncased-stripped"],
)
def both(request):
    """Our tokenizer, and the library's tokenizer of the file that ours writes."""
    lowercase, strips, model_type = request.param
    tokenizer = ours.train(
        corpus(), 90, lowercase, 1.0, strip_accents=strips, model_type=model_type
    )
    text = tokenizer.files(export=True)["tokenizer.json"].decode()
    return tokenizer, tokenizers.Tokenizer.from_str(text)


def same(both, text):
    tokenizer, library = both
    own = [ids.tolist() for ids in tokenizer.encode_sentences([text])]
    assert own == [library.encode(text, add_special_tokens=False).ids], ascii(text)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_the_same_ids(both, text):
    same(both, text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*WORDS, *"aeéÉñÇß.,;!?'-#0½％京ア가яЖ😀 \t\n\u00a0\u3000"])).map(
        "".join
    )
)
def test_the_same_ids_of_any_text(both, text):
    same(both, text)


def test_special_tokens_and_pairs(both):
    tokenizer, library = both
    for text, pair in (("the cat sat", None), ("the cat", "on a mat")):
        own, theirs = tokenizer.encode(text, pair), library.encode(text, pair)
        assert own.ids == theirs.ids
        assert own.token_type_ids == theirs.type_ids
    own = tokenizer.encode("the cat [MASK] on a mat", parse_mask=True).ids
    assert own == library.encode("the cat [MASK] on a mat").ids
    assert library.decode(library.encode("the cat sat").ids) == "the cat sat"


def test_settings_name_the_special_tokens(both, tmp_path):
    both[0].save(tmp_path, export=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["spm.model", "tokenizer.json", "tokenizer_config.json"]
    assert '"mask_token": "[MASK]"' in (tmp_path / "tokenizer_config.json").read_text()


def trained(vocab_size=90, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        minloglevel=2,
        **ours.SPECIAL_PIECES,
        **options,
    )
    return SentencePieceTokenizer(model.getvalue(), IDS)


@pytest.mark.parametrize(
    "options",
    [
        {"add_dummy_prefix": False},
        {"byte_fallback": True, "vocab_size": 400},
        {"normalization_rule_name": "identity"},
        {"split_by_whitespace": False},
        {"model_type": "bpe", "split_by_whitespace": False},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 400},
    ],
    ids=str,
)
def test_other_models_too(options):
    tokenizer = trained(**options)
    library = tokenizers.Tokenizer.from_str(tokenizer.files(export=True)["tokenizer.json"].decode())
    for text in TEXTS:
        same((tokenizer, library), text)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "char"}, "a character model"),
        ({"user_defined_symbols": ["cat"]}, "'cat'"),
        ({"remove_extra_whitespaces": False}, "keeps spaces"),
        ({"treat_whitespace_as_suffix": True}, "spaces end a word"),
    ],
    ids=str,
)
def test_models_that_the_library_cannot_reproduce_are_refused(options, reason, tmp_path):
    tokenizer = trained(**options)
    with pytest.raises(UserError, match=reason):
        tokenizer.save(tmp_path, export=True)
    assert not list(tmp_path.iterdir())
    tokenizer.save(tmp_path)  # without `export`
    assert (tmp_path / "spm.model").exists()


def bpe_model(scores):
    """Returns the bytes of a BPE model with these and the special pieces, without normalization."""

    def field(number, data):
        return bytes((number << 3 | 2, len(data))) + data

    def piece(text, score, kind):
        score = b"\x15" + struct.pack("<f", score)
        return field(1, field(1, text.encode()) + score + bytes((3 << 3, kind)))

    special = [piece(name, 0.0, 2 if name == "[UNK]" else 3) for name in SPECIALS]
    normal = [piece(text, score, 1) for text, score in scores.items()]
    return b"".join([*special, *normal, field(2, bytes((3 << 3, 2)))])


def library_of(tokenizer):
    return tokenizers.Tokenizer.from_str(tokenizer.files(export=True)["tokenizer.json"].decode())


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab▁", min_size=2, max_size=6), unique=True, max_size=25),
    texts=st.lists(st.text("abc ", max_size=40), min_size=5, max_size=20),
)
def test_merges_reproduce_any_scores(pieces, texts):
    """Tests pieces that training never produces: ambiguous, in any order, unreachable."""
    scores = {text: -float(number) for number, text in enumerate([*pieces, "a", "b", "▁"])}
    tokenizer = SentencePieceTokenizer(bpe_model(scores), IDS)
    library = library_of(tokenizer)
    for text in texts:
        same((tokenizer, library), text)


def test_a_piece_has_the_one_merge_that_makes_it():
    """The merge of "aab" is a + ab, since ab precedes aa; "abba" ends as ab, b, a and has none."""
    scores = {"ab": 0.0, "aa": -1.0, "aab": -2.0, "bb": -3.0, "abba": -4.0, "a": -5.0, "b": -6.0}
    library = library_of(SentencePieceTokenizer(bpe_model({**scores, "▁": -7.0}), IDS))
    merges = library.to_str(pretty=False).split('"merges":')[1:]
    assert merges == ['[["a","b"],["a","a"],["a","ab"],["b","b"]]}}']


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"ab": -1.0, "ba": -1.0, "a": -2.0, "b": -3.0}, "several of its pieces have the same"),
        ({"ac": -1.0, "a": -2.0}, "'ac' contains 'c', which is not a piece"),
    ],
)
def test_scores_that_no_merges_follow_are_refused(scores, reason):
    with pytest.raises(UserError, match=reason):
        SentencePieceTokenizer(bpe_model(scores), IDS).files(export=True)


@pytest.mark.parametrize("lowercase", [True, False])
def test_without_accents_all_of_unicode_is_normalized_alike(lowercase):
    """Includes decomposed text and letters with several marks."""
    tokenizer = ours.train(corpus(), 60, lowercase, 1.0, strip_accents=True)
    library = library_of(tokenizer)
    planes = [chr(code) for code in range(1, 0x20000) if not 0xD800 <= code < 0xE000]
    texts = planes[::7] + [
        unicodedata.normalize(form, letter + first + second)
        for form in ("NFC", "NFD")
        for letter in "aEıøИ"
        for first in "\u0301\u0323\u0327"
        for second in "\u0308\u0304\u0318"
    ]
    for text, normal in zip(texts, tokenizer._library.normalize(texts), strict=True):
        theirs = library.normalizer.normalize_str(text)
        assert normal.replace("▁", " ").strip() == theirs, ascii(text)
    assert tokenizer._library.normalize("É İ ệ ﬁ 한 й") == (
        "▁e▁i▁e▁fi▁한▁и" if lowercase else "▁E▁I▁e▁fi▁한▁и"
    )


@pytest.mark.data
def test_real_texts_have_the_same_ids(both, data_dir):
    lines = [
        line
        for path in sorted((data_dir / "udhr").glob("*.txt"))[::8]
        for line in path.read_text(errors="replace").splitlines()
    ]
    assert len(lines) > 5_000
    with tarfile.open(data_dir / "pretrain" / "novels.tar.xz") as archive:
        for member in archive:  # the first novels
            if member.isfile():
                lines += archive.extractfile(member).read().decode().splitlines()
            if len(lines) > 40_000:
                break
    own = both[0].encode_sentences(lines)
    theirs = both[1].encode_batch_fast(lines, add_special_tokens=False)
    pairs = zip(lines, own, theirs, strict=True)
    assert [line for line, ids, encoding in pairs if ids.tolist() != encoding.ids] == []

"""A SentencePiece model as tokenizer.json: the same ids by the `tokenizers` library."""

import io

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.errors import UserError
from bertjax.text import sentencepiece as ours
from bertjax.text.pieces import SPECIALS
from bertjax.text.sentencepiece import SentencePieceTokenizer

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


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def both(request):
    """Ours, and the library's of the file that ours writes."""
    tokenizer = ours.train(corpus(), 90, request.param, 1.0)
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
        ({"model_type": "bpe"}, "a BPE model"),
        ({"model_type": "char"}, "a character model"),
        ({"user_defined_symbols": ["cat"]}, "'cat'"),
        ({"remove_extra_whitespaces": False}, "keeps spaces"),
        ({"treat_whitespace_as_suffix": True}, "spaces end a word"),
    ],
    ids=str,
)
def test_what_the_library_cannot_do_is_refused(options, reason, tmp_path):
    tokenizer = trained(**options)
    with pytest.raises(UserError, match=reason):
        tokenizer.save(tmp_path, export=True)
    assert not list(tmp_path.iterdir())
    tokenizer.save(tmp_path)  # for bertjax alone
    assert (tmp_path / "spm.model").exists()


@pytest.mark.data
def test_real_texts_have_the_same_ids(both, data_dir):
    lines = [
        line
        for path in sorted((data_dir / "udhr").glob("*.txt"))[::8]
        for line in path.read_text(errors="replace").splitlines()
    ]
    assert len(lines) > 5_000
    own = both[0].encode_sentences(lines)
    theirs = both[1].encode_batch_fast(lines, add_special_tokens=False)
    pairs = zip(lines, own, theirs, strict=True)
    assert [line for line, ids, encoding in pairs if ids.tolist() != encoding.ids] == []

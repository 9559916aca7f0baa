"""Tests of training a vocabulary: case, accents, unigram or BPE, and memory."""

import dataclasses
import hashlib
import random
import tracemalloc

import pytest

from bertjax.errors import UserError
from bertjax.text import tokenizer_training as module
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.text.wordpiece import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = ["Élan", "vital", "été", "São", "Paulo", "naïve", "Ångström,", "the cat sat on a mat"]


def quiet(line):
    pass


@pytest.fixture
def config(tmp_path):
    """Makes a configuration for a small text, with other fields by name."""
    generator = random.Random(0)
    syllables = ["ba", "ce", "di", "fo", "gu", "Ha", "lé", "mor", "nes", "pat"]
    words = ["".join(generator.choices(syllables, k=3)) for _ in range(200)]
    lines = [" ".join(generator.choices([*words, *NAMES], k=8)) for _ in range(600)]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")

    def make(output="out", **fields):
        return TokenizerConfig(
            (str(tmp_path / "a.txt"),),
            str(tmp_path / output),
            vocab_size=100,
            character_coverage=1.0,
            **fields,
        )

    return make


CHOICES = [(lower, strips) for lower in (True, False) for strips in (None, True, False)]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_case_and_accents_are_chosen_apart(config, kind):
    found, texts = {}, {}
    for lower, strips in CHOICES:
        cfg = config(f"{lower} {strips}", kind=kind, lowercase=lower, strip_accents=strips)
        tokenizer = train_tokenizer(cfg, quiet)
        found[lower, strips] = tokenizer.sha256
        encoded = tokenizer.encode("Élan, Ångström")
        texts[lower, strips] = tokenizer.decode(encoded.ids).replace(" ,", ",")
        assert [encoded.offsets[1][0], max(end for _, end in encoded.offsets)] == [0, 14]
        again = load_tokenizer(cfg.output)
        assert again.sha256 == tokenizer.sha256
        assert again.encode("Élan, Ångström") == encoded
    bare, kept = "Elan, Angstrom", "Élan, Ångström"
    default = bare.lower() if kind == "wordpiece" else kept.lower()
    assert texts == {
        (True, None): default,
        (True, True): bare.lower(),
        (True, False): kept.lower(),
        (False, None): kept,
        (False, True): bare,
        (False, False): kept,
    }
    # None equals one of the others; vocabularies that differ have different digests.
    same = kind == "wordpiece"
    assert found[True, None] == found[True, same]
    assert found[False, None] == found[False, False]
    assert len(set(found.values())) == 4


def test_loading_may_override_both(config):
    cfg = config(kind="wordpiece", lowercase=False)
    train_tokenizer(cfg, quiet)
    words = load_tokenizer(cfg.output, lowercase=True, strip_accents=False).words("Élan")
    assert words == ["élan"]
    assert load_tokenizer(cfg.output, strip_accents=True).words("Élan") == ["Elan"]


@pytest.mark.parametrize(
    ("lower", "strips", "digest"),
    [
        (True, None, "3f7157c2f5aa7f683e971e1c18b44f857d579bf83be5f25e93615f5bbf6215d7"),
        (False, None, "fbeba21b96274bc48e3dcb8d9c6131d007d48e869672900891a66e14851ed6da"),
        (True, False, "2ff29a2aa7039dfd86e4ae11bb093fc32191edf83422af355ecfa4859c6ac17b"),
        (False, True, "47797d2a149635f0a49a629c982ad49eeb169a36a46d738389708d353895168b"),
        (True, True, "3f7157c2f5aa7f683e971e1c18b44f857d579bf83be5f25e93615f5bbf6215d7"),
    ],
)
def test_digests_are_fixed(lower, strips, digest):
    assert WordPieceTokenizer([*SPECIALS, "the", "##s"], lower, strips).sha256 == digest


def test_bpe_is_another_vocabulary_of_the_same_text(config):
    unigram = train_tokenizer(config("unigram"), quiet)
    cfg = config("bpe", model_type="bpe")
    bpe = train_tokenizer(cfg, quiet)
    assert bpe.sha256 != unigram.sha256
    assert bpe.decode(bpe.encode("the cat sat on a mat").ids) == "the cat sat on a mat"
    assert [bpe.token(number) for number in range(5)] == SPECIALS
    assert load_tokenizer(cfg.output).sha256 == bpe.sha256
    with pytest.raises(UserError, match="characters alone need"):
        train_tokenizer(dataclasses.replace(cfg, output=cfg.output + "2", vocab_size=20), quiet)
    with pytest.raises(UserError, match=r"at most [0-9]+ tokens"):
        train_tokenizer(dataclasses.replace(cfg, output=cfg.output + "2", vocab_size=9000), quiet)


def test_an_output_of_other_settings_is_refused(config):
    cfg = config()
    train_tokenizer(cfg, quiet)
    for other in ({"model_type": "bpe"}, {"strip_accents": True}):
        with pytest.raises(UserError, match="already holds a tokenizer"):
            train_tokenizer(dataclasses.replace(cfg, **other), quiet)


def test_sampling_holds_only_the_sample_in_memory():
    """Samples a thousand sentences of 100 MB."""
    sentences = (f"{number:06d}" + "x" * 994 for number in range(100_000))
    tracemalloc.start()
    try:
        sample = module._sample(sentences, 1000)
        digest = module._digest(sample)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
    numbers = [int(sentence[:6]) for sentence in sample]
    assert len(numbers) == 1000 and numbers == sorted(set(numbers))
    assert 45_000 < sum(numbers) / 1000 < 55_000  # within 5 standard errors of 913
    assert digest == hashlib.sha256("\n".join(sample).encode()).hexdigest()

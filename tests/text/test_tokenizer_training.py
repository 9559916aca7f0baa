"""Tests of training a vocabulary: case, accents, unigram or BPE, and memory."""

import dataclasses
import hashlib
import json
import random
import subprocess
import sys
import tracemalloc

import pytest

from bertjax import files
from bertjax.errors import UserError
from bertjax.text import tokenizer_base
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


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "bpe"])
def test_case_and_accents_are_chosen_apart(config, kind):
    found, texts = {}, {}
    for lower, strips in CHOICES:
        cfg = config(f"{lower} {strips}", kind=kind, lowercase=lower, strip_accents=strips)
        if kind == "bpe":  # the bytes alone are 256 tokens
            cfg = dataclasses.replace(cfg, vocab_size=320)
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


def test_byte_level_bpe_has_no_unknown_text_and_is_the_same_every_time(config):
    cfg = dataclasses.replace(config("first", kind="bpe"), vocab_size=320)
    tokenizer = train_tokenizer(cfg, quiet)
    assert tokenizer.kind == "bpe" and tokenizer.vocab_size == 320
    assert [tokenizer.token(number) for number in range(5)] == SPECIALS
    program = (
        "import sys; from bertjax.text.tokenizer_training import *; "
        "print(train_tokenizer(TokenizerConfig((sys.argv[1],), sys.argv[2], kind='bpe', "
        "vocab_size=320), lambda line: None).sha256)"
    )
    other = subprocess.run(  # another process has other hash seeds
        [sys.executable, "-c", program, cfg.input[0], cfg.output + "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == tokenizer.sha256
    text = "日本 \U0001f600 the cat"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    words = tokenizer.encode_sentences(["the cat sat", "sat the cat"])
    assert sorted(words[0]) == sorted(words[1])  # the first word of a text is no other token
    dot, sat = tokenizer.encode_sentences(["the cat.", "sat"])
    masked = tokenizer.encode("[MASK] sat [MASK].", parse_mask=True)  # "[MASK] ." is another text
    assert masked.ids[1:-1] == [tokenizer.mask_id, *sat, tokenizer.mask_id, dot[-1]]
    assert masked.offsets[-2] == (17, 18)
    pair = tokenizer.encode("the cat", "on it")
    assert pair.ids.count(tokenizer.sep_id) == 2 and pair.token_type_ids[-1] == 1
    with pytest.raises(UserError, match="the bytes alone need 261"):
        train_tokenizer(dataclasses.replace(cfg, output=cfg.output + "3", vocab_size=260), quiet)
    with pytest.raises(UserError, match=r"at most [0-9]+ tokens"):
        train_tokenizer(dataclasses.replace(cfg, output=cfg.output + "3", vocab_size=9000), quiet)
    with pytest.raises(UserError, match="applies to SentencePiece only"):
        config(kind="bpe", model_type="bpe")


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


def test_training_gives_the_same_bytes_in_every_process(corpus_file, tmp_path):
    kinds = (
        ("sentencepiece", "unigram", 48, "spm.model"),
        ("sentencepiece", "bpe", 48, "spm.model"),
        ("wordpiece", "unigram", 90, "vocab.txt"),
    )
    program = (
        "import sys; from bertjax.text.tokenizer_training import *\n"
        f"for kind, model_type, size, _ in {kinds}:\n"
        "    output = f'{sys.argv[2]}/{kind}-{model_type}'\n"
        "    config = TokenizerConfig((sys.argv[1],), output, kind, size, model_type=model_type)\n"
        "    train_tokenizer(config, print)"
    )
    outputs = [tmp_path / str(run) for run in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(corpus_file), str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    for process in processes:
        out, error = process.communicate()
        assert process.returncode == 0 and error == "", error
        assert len(out.splitlines()) == 2 * len(kinds)
    for kind, model_type, _, name in kinds:
        found = {(output / f"{kind}-{model_type}" / name).read_bytes() for output in outputs}
        assert len(found) == 1, (kind, model_type)


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_cased_vocabularies_keep_case(kind, corpus_file, tmp_path):
    config = TokenizerConfig((str(corpus_file),), str(tmp_path), kind, 60, lowercase=False)
    tokenizer = train_tokenizer(config, quiet)
    assert not tokenizer.lowercase
    assert tokenizer.encode("The").ids != tokenizer.encode("the").ids
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_a_vocabulary_that_the_text_cannot_fill_names_the_largest(kind, corpus_file, tmp_path):
    output = tmp_path / "out"
    config = TokenizerConfig((str(corpus_file),), str(output), kind, 5000)
    with pytest.raises(UserError, match=r"at most [0-9]+ tokens") as caught:
        train_tokenizer(config, quiet)
    assert not output.exists()
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    tokenizer = train_tokenizer(dataclasses.replace(config, vocab_size=largest), quiet)
    assert tokenizer.vocab_size == largest


def test_a_vocabulary_that_cannot_hold_the_characters_is_refused(corpus_file, tmp_path):
    config = TokenizerConfig((str(corpus_file),), str(tmp_path), vocab_size=12)
    with pytest.raises(UserError, match=r"characters alone need [0-9]+"):
        train_tokenizer(config, quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff\n"])
@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_no_text_is_refused(kind, content, tmp_path):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    config = TokenizerConfig((str(tmp_path / "a.txt"),), str(tmp_path / "out"), kind)
    with pytest.raises(UserError, match=r"a\.txt: no text"):
        train_tokenizer(config, quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": 5},
        {"character_coverage": 0.5},
        {"max_sentences": 0},
        {"model_type": "bpe", "kind": "wordpiece"},
    ],
)
def test_impossible_settings_are_refused_by_name(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        TokenizerConfig(("a.txt",), "out", **fields)


def test_training_again_returns_the_existing_tokenizer(corpus_file, tmp_path):
    config = TokenizerConfig((str(corpus_file),), str(tmp_path), vocab_size=48)
    first = train_tokenizer(config, quiet)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    lines = []
    assert train_tokenizer(config, lines.append).sha256 == first.sha256
    assert len(lines) == 1 and "already holds" in lines[0]
    for other in (
        dataclasses.replace(config, vocab_size=47),
        dataclasses.replace(config, kind="wordpiece"),
        dataclasses.replace(config, max_sentences=100),
    ):
        with pytest.raises(UserError, match="already holds a tokenizer made from other text"):
            train_tokenizer(other, lines.append)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(UserError, match="already holds a tokenizer"):
        train_tokenizer(config, lines.append)
    (tmp_path / "training.json").unlink()
    assert before == before | {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_killed_training_leaves_no_vocabulary_and_can_be_run_again(
    corpus_file, tmp_path, monkeypatch
):
    config = TokenizerConfig((str(corpus_file),), str(tmp_path), vocab_size=48)
    real = files.write_atomically

    def die_at_the_vocabulary(path, data):
        if path.name == "spm.model":
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_base, "write_atomically", die_at_the_vocabulary)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config, quiet)
    with pytest.raises(UserError, match="neither"):
        load_tokenizer(tmp_path)
    assert train_tokenizer(config, quiet).vocab_size == 48


def test_an_output_that_cannot_be_a_directory_is_refused(corpus_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output, says in ((tmp_path / "file", "is a file"), (tmp_path / "file/x", "lies under")):
        config = TokenizerConfig((str(corpus_file),), str(output), vocab_size=48)
        with pytest.raises(UserError, match=says):
            train_tokenizer(config, quiet)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_vocabulary_beside_its_text_is_not_read_as_text(corpus_file, tmp_path):
    directory = tmp_path / "corpus"
    directory.mkdir()
    (directory / "text.txt").write_bytes(corpus_file.read_bytes())
    lines = []
    for _ in range(2):
        config = TokenizerConfig((str(directory),), str(directory), "wordpiece", vocab_size=60)
        train_tokenizer(config, lines.append)
    assert (directory / "vocab.txt").exists() and "nothing to do" in lines[-1]


def test_the_sample_is_even_and_in_order():
    numbers = [int(sentence) for sentence in module._sample(map(str, range(10_000)), 500)]
    assert len(numbers) == 500 and numbers == sorted(set(numbers))
    halves = sum(number < 5000 for number in numbers)
    assert 200 < halves < 300  # expected 250, standard deviation 11
    assert module._sample(["a", "b"], 500) == ["a", "b"]


def test_very_long_lines_are_trained_on(tmp_path):
    # The library would silently drop a sentence of more than some thousand bytes.
    words = random.Random(0).choices(["walked", "over", "hills"], k=20_000)
    (tmp_path / "a.txt").write_text(" ".join(words) + "\n" + "z" * 20_000 + "\n")
    config = TokenizerConfig((str(tmp_path / "a.txt"),), str(tmp_path / "out"), vocab_size=22)
    tokenizer = train_tokenizer(config, quiet)
    tokens = [tokenizer.token(number).strip("▁") for number in range(5, 22)]
    assert "z" in tokens and any(
        len(token) > 1 and token in "walked over hills" for token in tokens
    )


def test_jsonl_is_trained_on(make_sentences, tmp_path):
    rows = [json.dumps({"text": " ".join(make_sentences(50, seed))}) for seed in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    config = TokenizerConfig((str(tmp_path / "*.jsonl"),), str(tmp_path / "out"), vocab_size=48)
    assert train_tokenizer(config, quiet).vocab_size == 48

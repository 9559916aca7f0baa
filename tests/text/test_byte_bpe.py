import json
import pickle

import numpy as np
import pytest
import tokenizers

import bertjax as bj
from bertjax.text import byte_bpe_files

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MODERN = ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"]
TEXTS = ["the cat sat on the mat.", "two  spaces and a\ttab", "Élan, 日本 and <s> [SEP]"]


@pytest.fixture(scope="module")
def library():
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXTS * 3, vocab_size=300, special_tokens=ROBERTA, show_progress=False
    )
    return trained


@pytest.fixture
def roberta(library, tmp_path):
    library.save_model(str(tmp_path))
    return tmp_path


@pytest.fixture
def modern(tmp_path):
    """A tokenizer.json as ModernBERT's: specials after the vocabulary, and other added tokens."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.normalizer = tokenizers.normalizers.NFC()
    trained.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(TEXTS * 3, trainer)
    trained.add_tokens([tokenizers.AddedToken("  ", normalized=True)])
    trained.add_special_tokens([tokenizers.AddedToken(t, lstrip=t == "[MASK]") for t in MODERN])
    ids = [(name, trained.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    trained.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    trained.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_ids_are_those_of_the_library(roberta, library):
    tokenizer = bj.load_tokenizer(roberta)
    assert tokenizer.kind == "bpe" and tokenizer.vocab_size == library.get_vocab_size()
    plain = tokenizers.ByteLevelBPETokenizer.from_file(
        str(roberta / "vocab.json"), str(roberta / "merges.txt")
    )  # it does not search for special tokens either
    for text, ids in zip(TEXTS, tokenizer.encode_sentences(TEXTS), strict=True):
        assert ids.tolist() == plain.encode(text).ids
        assert tokenizer.decode(ids) == text
    assert not set(np.concatenate(tokenizer.encode_sentences(["<s></s><mask>"]))) & {0, 2, 4}


def test_the_pair_of_a_roberta_has_two_separators_and_one_type(roberta):
    tokenizer = bj.load_tokenizer(roberta)
    first, second = (ids.tolist() for ids in tokenizer.encode_sentences(["the cat", "on it"]))
    encoding = tokenizer.encode("the cat", "on it")
    assert encoding.ids == [0, *first, 2, 2, *second, 2]
    assert set(encoding.token_type_ids) == {0}
    assert len(encoding.offsets) == len(encoding.ids)
    batch = tokenizer.batch(["the cat", "the"], ["on it", "mat"], max_length=7)
    assert batch["input_ids"].shape[1] == 7 and not batch["token_type_ids"].any()
    for row in batch["input_ids"]:
        assert (row == 2).sum() == 3 and (np.diff(np.flatnonzero(row == 2)) == 1).sum() == 1
    with pytest.raises(bj.UserError, match="can't hold the 4 special tokens"):
        tokenizer.batch(["a"], ["b"], max_length=3)


def test_offsets_leave_out_the_space_before_a_word(roberta):
    tokenizer = bj.load_tokenizer(roberta)
    for text in TEXTS[:1]:
        encoding = tokenizer.encode(text)
        pieces = [text[begin:end] for begin, end in encoding.offsets[1:-1]]
        assert "".join(pieces) == text.replace(" ", "")


def test_a_mask_takes_the_space_before_it(roberta):
    tokenizer = bj.load_tokenizer(roberta)
    ids = tokenizer.encode("the cat [MASK] on", parse_mask=True).ids
    before, after = (each.tolist() for each in tokenizer.encode_sentences(["the cat", " on"]))
    assert ids == [0, *before, 4, *after, 2]
    assert tokenizer.decode(ids, skip_special=False) == "<s> the cat <mask> on </s>"


def test_words_have_a_space_before_them(roberta):
    tokenizer = bj.load_tokenizer(roberta)
    words = tokenizer.encode_words(["the", "cat"])
    assert np.concatenate(words).tolist() == tokenizer.encode_sentences([" the cat"])[0].tolist()
    starts = tokenizer.word_starts()
    assert all(starts[ids[0]] and not starts[ids[1:]].any() for ids in words)


def test_it_is_saved_and_pickled(roberta, modern, tmp_path):
    for directory in (roberta, modern / "tokenizer.json"):
        tokenizer = bj.load_tokenizer(directory)
        tokenizer.save(tmp_path / "saved", export=True)
        for again in (
            bj.load_tokenizer(tmp_path / "saved"),
            pickle.loads(pickle.dumps(tokenizer)),
        ):
            assert again.sha256 == tokenizer.sha256
            assert again.encode(TEXTS[0], TEXTS[1]) == tokenizer.encode(TEXTS[0], TEXTS[1])


def test_a_modernbert_has_one_separator_and_its_own_added_tokens(modern):
    tokenizer = bj.load_tokenizer(modern)
    names = [tokenizer.token(number) for number in range(280, tokenizer.vocab_size)]
    assert names == ["  ", *MODERN]
    assert tokenizer.encode("a  b").ids.count(280) == 1
    first, second = (ids.tolist() for ids in tokenizer.encode_sentences(["the", "cat"]))
    encoding = tokenizer.encode("the", "cat")
    assert encoding.ids == [281, *first, 282, *second, 282]
    assert set(encoding.token_type_ids) == {0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: fields["model"]["vocab"].pop("Ġ"), "no token has the id"),
        (lambda fields: fields["model"]["vocab"].update(x="1"), "write a whole number"),
        (lambda fields: fields.update(post_processor=None), "post_processor doesn't put"),
        (lambda fields: fields["model"].update(merges=[["a", "zzz"]]), "not a tokenizer"),
        (lambda fields: fields["added_tokens"].pop(), "which stands for"),
    ],
)
def test_a_damaged_file_is_one_sentence(modern, change, said):
    file = modern / "tokenizer.json"
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))
    with pytest.raises(bj.UserError, match=said):
        bj.load_tokenizer(modern)


def test_other_classes_and_missing_merges_are_refused(roberta):
    (roberta / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(bj.UserError, match="tokenizer_class is 'GPT2Tokenizer'"):
        bj.load_tokenizer(roberta)
    (roberta / "tokenizer_config.json").unlink()
    with pytest.raises(bj.UserError, match="is a byte-level BPE vocabulary, not the requested"):
        bj.load_tokenizer(roberta / "vocab.json", kind="wordpiece")
    (roberta / byte_bpe_files.MERGES).write_text("a b c\n")
    with pytest.raises(bj.UserError, match="'a b c' is not two tokens"):
        bj.load_tokenizer(roberta)
    (roberta / byte_bpe_files.MERGES).unlink()
    with pytest.raises(bj.UserError, match=r"merges\.txt: no such file"):
        bj.load_tokenizer(roberta)

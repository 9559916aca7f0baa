import copy
import json
import pathlib

import pytest

from bertjax.errors import UserError
from bertjax.text.added_tokens import AddedToken
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.text.wordpiece import WordPieceTokenizer

# Saved by transformers 5.24 with make_tokenizer.py in the same directory, which also printed IDS.
GOLDEN = pathlib.Path(__file__).parent / "golden"
IDS = {
    "": [2, 3],
    "The cat sat on a cat.": [2, 5, 6, 7, 8, 9, 6, 27, 3],
    "Unaffable, ÉTÉ - cats!": [2, 10, 11, 12, 26, 15, 30, 6, 13, 28, 3],
    "日本 b日 [b] a\u200bb\tc": [2, 19, 20, 21, 19, 31, 21, 32, 9, 22, 23, 3],
    "12: the cat's ete; zzz": [2, 24, 25, 33, 5, 6, 29, 1, 14, 1, 1, 3],
}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def fields():
    return json.loads((GOLDEN / "tokenizer.json").read_text(encoding="utf-8"))


def write(directory, fields, settings=None):
    (directory / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    if settings is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def write_vocabulary(directory, *tokens, settings=None):
    text = "\n".join([*SPECIALS, *tokens]) + "\n"
    (directory / "vocab.txt").write_text(text, encoding="utf-8")
    if settings is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))


# What transformers saved


@pytest.mark.parametrize("path", [GOLDEN, GOLDEN / "tokenizer.json"])
def test_files_saved_by_transformers_give_its_ids(path):
    tokenizer = load_tokenizer(path, kind="wordpiece")
    assert {text: tokenizer.encode(text).ids for text in IDS} == IDS
    assert tokenizer.encode("the cat", "a cat").ids == [2, 5, 6, 3, 9, 6, 3]
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (True, False)
    assert [tokenizer.token(number) for number in (34, 35)] == ["[E1]", "[/E1]"]


def test_it_is_the_tokenizer_of_the_same_vocab_txt(tmp_path):
    tokenizer = load_tokenizer(GOLDEN)
    tokenizer.save(tmp_path)
    assert (tmp_path / "vocab.txt").exists() and not (tmp_path / "tokenizer.json").exists()
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strips", [None, True, False])
def test_case_and_accents_are_those_of_its_normalizer(fields, tmp_path, lowercase, strips):
    fields["normalizer"].update(lowercase=lowercase, strip_accents=strips)
    write(tmp_path, fields)
    added = (AddedToken("[E1]"), AddedToken("[/E1]"))
    expected = WordPieceTokenizer(list(fields["model"]["vocab"]), lowercase, strips, added)
    assert load_tokenizer(tmp_path).sha256 == expected.sha256
    assert load_tokenizer(tmp_path, lowercase=not lowercase).lowercase is not lowercase


def test_the_settings_have_the_last_word_unless_their_class_reads_none(fields, tmp_path):
    fields["normalizer"].update(lowercase=False, strip_accents=False)
    settings = {"do_lower_case": True, "strip_accents": None}
    write(tmp_path, fields, {**settings, "tokenizer_class": "BertTokenizerFast"})
    found = load_tokenizer(tmp_path)
    assert (found.lowercase, found.strip_accents) == (True, None)
    for name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        write(tmp_path, fields, {**settings, "tokenizer_class": name})
        found = load_tokenizer(tmp_path)
        assert (found.lowercase, found.strip_accents) == (False, False)
        # The casing is not inferred from vocab.txt either.
        found.save(tmp_path / name)
        write(tmp_path / name, fields, {"tokenizer_class": name})
        assert load_tokenizer(tmp_path / name).sha256 == found.sha256
        (tmp_path / name / "tokenizer.json").unlink()
        with pytest.raises(UserError, match=rf"tokenizer_class is '{name}'.* there is none"):
            load_tokenizer(tmp_path / name)


def test_the_order_in_the_file_does_not_matter(fields, tmp_path):
    vocabulary = fields["model"]["vocab"]
    fields["model"]["vocab"] = dict(reversed(vocabulary.items()))
    fields["added_tokens"].reverse()
    write(tmp_path, fields, {"strip_accents": False})
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(GOLDEN).sha256


def test_the_older_form_of_the_post_processor_is_read(fields, tmp_path):
    fields["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    write(tmp_path, fields)
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(GOLDEN).sha256


def test_a_wordpiece_of_2020_has_no_type(fields, tmp_path):
    del fields["model"]["type"]
    write(tmp_path, fields, {"strip_accents": False})
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(GOLDEN).sha256
    del fields["model"]["max_input_chars_per_word"]  # as a BPE of that year
    write(tmp_path, fields)
    with pytest.raises(UserError, match="its model is missing"):
        load_tokenizer(tmp_path)


def test_beside_a_vocab_txt_it_says_the_casing_that_no_setting_does(fields, tmp_path, caplog):
    (tmp_path / "vocab.txt").write_text("\n".join(fields["model"]["vocab"]), encoding="utf-8")
    for lowercase in (True, False):
        fields["normalizer"].update(lowercase=lowercase, strip_accents=not lowercase)
        write(tmp_path, fields)
        found = load_tokenizer(tmp_path)
        assert (found.lowercase, found.strip_accents) == (lowercase, not lowercase)
        write(tmp_path, fields, {"do_lower_case": not lowercase, "strip_accents": None})
        found = load_tokenizer(tmp_path)
        assert (found.lowercase, found.strip_accents) == (not lowercase, None)
        (tmp_path / "tokenizer_config.json").unlink()
    # transformers reads the casing of the settings alone, so where these have none it is said.
    assert [
        record.getMessage().partition("(")[2].partition(")")[0] for record in caplog.records
    ] == [
        "lowercase true, strip_accents false",
        "lowercase false, strip_accents true",
    ]


def put(*keys):
    """Returns a change that sets the item at a path, given by all arguments but the last."""
    *path, last, value = keys

    def change(fields):
        for key in path:
            fields = fields[key]
        fields[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("model", "type", "BPE"), "its model is BPE, but only"),
        (put("model", None), "its model is missing"),
        (put("model", "unk_token", "<unk>"), "model's unk_token is '<unk>'"),
        (put("model", "continuing_subword_prefix", "@@"), "prefix is '@@'"),
        (put("model", "max_input_chars_per_word", 200), "word is 200"),
        (put("model", "vocab", []), "holds no vocabulary"),
        (put("model", "vocab", "the", 99), r"'cat' has id 6, but the next id is 5"),
        (put("model", "vocab", "the", 6), r"has id 6, but the next id is 5"),
        (put("model", "vocab", "the", -1), r"'the' has id -1, but the next id is 0"),
        (put("model", "vocab", "the", "5"), r"the id of 'the' is '5'"),
        (put("model", "vocab", "[UNK]", True), r"the id of '\[UNK\]' is True"),
        (put("normalizer", None), "its normalizer is missing"),
        (put("normalizer", "type", "Sequence"), "its normalizer is Sequence"),
        (put("normalizer", "clean_text", False), "clean_text is False"),
        (put("normalizer", "handle_chinese_chars", False), "handle_chinese_chars is False"),
        (put("normalizer", "lowercase", "yes"), "lowercase is 'yes'"),
        (put("normalizer", "strip_accents", 1), "strip_accents 1"),
        (put("pre_tokenizer", "type", "Whitespace"), "its pre_tokenizer is Whitespace"),
        (put("post_processor", None), r"post_processor doesn't put \[CLS\]"),
        (put("post_processor", "single", []), r"post_processor doesn't put \[CLS\]"),
        (put("post_processor", "pair", 3, "Sequence", "type_id", 0), "post_processor"),
        (put("post_processor", {"type": "BertProcessing", "cls": ["a", 2]}), "post_processor"),
        (put("added_tokens", 0, "id", 7), r"added_tokens gives '\[PAD\]' the id 7.* has id 0"),
        (put("added_tokens", 6, "id", 40), r"'\[/E1\]' has id 40, but the next id is 35"),
        (put("added_tokens", 6, "special", 1), r"special of '\[/E1\]' is 1: write true"),
        (put("added_tokens", 6, "id", None), "added_tokens are not objects with ids"),
        (put("added_tokens", 6, "content", ""), "added_tokens has a token ''"),
        (put("added_tokens", ["[E1]"]), "added_tokens are not objects with ids"),
    ],
)
def test_rules_other_than_berts_are_refused_by_name(fields, tmp_path, change, reason):
    change(fields)
    write(tmp_path, fields)
    with pytest.raises(UserError, match=rf"tokenizer\.json: .*{reason}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("token", ["", "a\nb", "a\r", "a\ud800"])
def test_tokens_that_no_vocab_txt_could_hold_are_refused(fields, tmp_path, token):
    del fields["added_tokens"][5:]
    vocabulary = fields["model"]["vocab"]
    vocabulary[token] = len(vocabulary)
    write(tmp_path, fields)
    with pytest.raises(UserError, match=r"tokenizer\.json: the token '.*' is empty"):
        load_tokenizer(tmp_path)


def test_a_special_token_that_is_missing_is_named(fields, tmp_path):
    vocabulary = fields["model"]["vocab"]
    vocabulary["mask"] = vocabulary.pop("[MASK]")
    del fields["added_tokens"][4]
    write(tmp_path, fields)
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_damaged_files_are_refused(tmp_path, data):
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(UserError, match=r"tokenizer\.json: (not JSON|holds no JSON object)"):
        load_tokenizer(tmp_path)


def test_any_value_of_the_wrong_type_is_refused_in_a_sentence(fields, tmp_path):
    def places(node, path=()):
        yield path
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, dict | list):
                yield from places(value, (*path, key))
            else:
                yield (*path, key)

    for token in list(fields["model"]["vocab"])[8:]:
        del fields["model"]["vocab"][token]
    del fields["added_tokens"][2:]
    write(tmp_path, fields)
    assert load_tokenizer(tmp_path).vocab_size == 8
    refused = 0
    for path in list(places(fields))[1:]:
        for value in (None, 3, "x", [None], {"x": None}):
            changed = copy.deepcopy(fields)
            put(*path, value)(changed)
            write(tmp_path, changed)
            try:
                load_tokenizer(tmp_path)
            except UserError:
                refused += 1
    assert refused > 200


def test_beside_a_vocab_txt_it_holds_the_same_vocabulary(fields, tmp_path):
    load_tokenizer(GOLDEN).save(tmp_path)
    fields["normalizer"]["lowercase"] = False  # as in some released models
    write(tmp_path, fields)
    assert load_tokenizer(tmp_path).sha256 == load_tokenizer(GOLDEN).sha256
    del fields["added_tokens"][6]
    write(tmp_path, fields)
    with pytest.raises(UserError, match=r"has '\[/E1\]', and the other file .* does not add it"):
        load_tokenizer(tmp_path)
    del fields["model"]["vocab"][":"]
    write(tmp_path, fields)
    for path in (tmp_path, tmp_path / "vocab.txt"):
        with pytest.raises(UserError, match=r"holds another vocabulary than vocab\.txt beside it"):
            load_tokenizer(path)


def test_it_is_not_a_sentencepiece_model():
    with pytest.raises(UserError, match=r"holds a wordpiece .*not the requested sentencepiece"):
        load_tokenizer(GOLDEN, kind="sentencepiece")
    with pytest.raises(UserError, match=r"is not a SentencePiece model"):
        load_tokenizer(GOLDEN / "tokenizer.json", kind="sentencepiece")


def test_training_does_not_write_beside_it(fields, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 20)
    write(tmp_path, fields)
    config = TokenizerConfig((str(tmp_path / "a.txt"),), str(tmp_path), "wordpiece", 20)
    with pytest.raises(UserError, match="already holds a tokenizer"):
        train_tokenizer(config, lambda line: None)


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "BertTokenizer", "do_basic_tokenize": True, "never_split": None},
        {"tokenizer_class": "DistilBertTokenizerFast", "cls_token": "[CLS]"},
        {"tokenizer_class": None, "mask_token": {"content": "[MASK]", "lstrip": False}},
        {"added_tokens_decoder": {"4": {"content": "[MASK]", "special": True}}},
    ],
)
def test_settings_that_change_nothing_are_taken(tmp_path, settings):
    write_vocabulary(tmp_path, "the", settings=settings)
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 0}')
    assert load_tokenizer(tmp_path).encode("The").ids == [2, 5, 3]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class is 'BertJapaneseTokeni"),
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class is "),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is false"),
        ({"sep_token": "</s>"}, "sep_token is '</s>'"),
        ({"sep_token": {"content": "</s>"}}, "sep_token is '</s>'"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder must map ids"),
        ({"added_tokens_decoder": {"4": "[MASK]"}}, "added_tokens_decoder must map ids"),
        (
            {"added_tokens_decoder": {"5": {"content": "[MASK]", "special": True}}},
            r"gives '\[MASK\]' the id 5, but .* has id 4",
        ),
        (
            {"added_tokens_decoder": {"7": {"content": "[E1]", "special": True}}},
            r"'\[E1\]' has id 7, but the next id is 6",
        ),
        ({"added_tokens_decoder": {"x": {"content": "[E1]"}}}, "id of '\\[E1\\]' is 'x'"),
        ({"added_tokens_decoder": {"5": {"content": []}}}, r"has a token \[\]"),
        ({"additional_special_tokens": [3]}, "additional_special_tokens names 3"),
    ],
)
def test_settings_that_change_ids_are_refused(tmp_path, settings, reason):
    write_vocabulary(tmp_path, "the", settings=settings)
    with pytest.raises(UserError, match=rf"tokenizer_config\.json: .*{reason}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"zebra": 7}', "'zebra' has id 7, but the next id is 6"),
        ('{"zebra": "6"}', "the id of 'zebra' is '6'"),
        ('{"the": 6}', "'the' the id 6, but .* has id 5"),
        ("[]", "holds no JSON object"),
    ],
)
def test_added_tokens_that_the_vocabulary_lacks_are_refused(tmp_path, content, reason):
    write_vocabulary(tmp_path, "the")
    (tmp_path / "added_tokens.json").write_text(content)
    with pytest.raises(UserError, match=rf"added_tokens\.json.*{reason}"):
        load_tokenizer(tmp_path)

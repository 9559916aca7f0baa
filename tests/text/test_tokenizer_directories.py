import json
import pathlib

import pytest

from bertjax.errors import UserError
from bertjax.text.tokenizer import load_tokenizer

# Written by make_directories.py in the same directory.
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/directories.json").read_text())
REFUSED = {
    "config.json of BertJapaneseTokenizer": r"config.json: tokenizer_class is 'BertJapanese",
    "refused: Japanese by class": "tokenizer_config.json: tokenizer_class is 'BertJapanese",
    "refused: Japanese by settings": 'word_tokenizer_type is "mecab", but only BERT',
    "refused: Japanese characters": 'subword_tokenizer_type is "character", but only BERT',
    "refused: RoFormer": "tokenizer_class is 'RoFormerTokenizer'",
    "refused: no Chinese characters": "tokenize_chinese_chars is false",
    "refused: no basic tokenizer": "do_basic_tokenize is false",
    "refused: never split": 'never_split is ["<S>"]',
    "refused: split specials": "split_special_tokens is true",
    "refused: custom code": "auto_map names code",
    "refused: other special tokens": "cls_token is '<s>'",
}


@pytest.fixture(scope="session")
def made(load_helper):
    return load_helper("text/tokenizer_directories.py")


def write(directory, files):
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def ids_of(tokenizer, inputs):
    return [tokenizer.encode(*texts).ids for texts in inputs]


def test_every_directory_gives_the_ids_of_transformers_or_is_refused(made, tmp_path, caplog):
    refused, guessed, compared = {}, [], 0
    singles = [texts[0] for texts in made.INPUTS if len(texts) == 1]
    for number, (name, files) in enumerate(made.directories()):
        caplog.clear()
        try:
            tokenizer = load_tokenizer(write(tmp_path / str(number), files))
        except UserError as error:
            refused[name] = str(error)
            continue
        guessed += [name] * len(caplog.records)
        ids = ids_of(tokenizer, made.INPUTS)
        # transformers makes a byte-order mark a part of the first token.
        chosen = GOLDEN["directories"][name.replace(" mark ", " lf ")]
        assert ids == GOLDEN["ids"][chosen], name
        compared += 1
        rows = [row.tolist() for row in tokenizer.encode_sentences(singles)]
        assert rows == [row[1:-1] for row in ids[: len(rows)]], name
        tokenizer.save(tmp_path / f"{number} saved")
        saved = load_tokenizer(tmp_path / f"{number} saved")
        assert saved.sha256 == tokenizer.sha256 and ids_of(saved, made.INPUTS) == ids, name
    assert refused.keys() == REFUSED.keys()
    assert [name for name in refused if REFUSED[name] not in refused[name]] == []
    alone = [name for name in GOLDEN["directories"] if name.startswith("vocab.txt")]
    assert guessed == [name for name in alone if name.endswith(" alone")]
    assert compared > 290

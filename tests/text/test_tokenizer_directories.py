import json
import pathlib
import random

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


VALUES = (None, True, 3, -1, 2**70, "x", "", [], {}, [None], "\ud800")


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
    refused, guessed, compared, followed = {}, [], 0, []
    singles = [texts[0] for texts in made.INPUTS if len(texts) == 1]
    for number, (name, files) in enumerate(made.directories()):
        caplog.clear()
        try:
            tokenizer = load_tokenizer(write(tmp_path / str(number), files))
        except UserError as error:
            refused[name] = str(error)
            continue
        ids = ids_of(tokenizer, made.INPUTS)
        if "its casing is followed" in caplog.text:  # transformers reads no casing there
            assert ids != GOLDEN["ids"][GOLDEN["directories"][name]], name
            followed.append(name)
            continue
        guessed += [name] * len(caplog.records)
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
    assert len(followed) == 8 and all(" of tokenizer.json " in name for name in followed)


def test_any_other_value_in_the_files_is_refused_in_a_sentence(made, tmp_path):
    """Changes one value of one JSON file of any directory; what is read can be saved and read."""
    generator, directories = random.Random(0), list(made.directories())
    refused = 0
    for number in range(400):
        _, files = generator.choice(directories)
        if not (names := [name for name in files if name.endswith(".json")]):
            continue
        name = generator.choice(names)
        changed = json.loads(files[name])
        places = list(places_of(changed))
        if not places:
            continue
        parent, key = generator.choice(places)
        parent[key] = generator.choice(VALUES)
        files = {**files, name: json.dumps(changed).encode()}
        try:
            tokenizer = load_tokenizer(write(tmp_path / str(number), files))
        except UserError:
            refused += 1
            continue
        tokenizer.encode("a [E1] cat")
        tokenizer.save(tmp_path / f"{number} saved")
        assert load_tokenizer(tmp_path / f"{number} saved").sha256 == tokenizer.sha256
    assert 100 < refused < 390


def places_of(node):
    """Yields (object or list, key) of every value below a node."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, dict | list):
            yield from places_of(value)

"""Fixtures that write data directories and corpora."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from bertjax.data import shards
from bertjax.data.pairs import Pair

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="session")
def encode_pair():
    """Encodes an example as a record."""

    def encode(pair, *, wide):
        a, b = (side.astype(shards.id_dtype(wide)).tobytes() for side in (pair.a, pair.b))
        return shards.encode_bytes(a, b, is_random=pair.is_random, wide=wide)

    return encode


@pytest.fixture
def make_data(tmp_path, encode_pair):
    """Writes a data directory with given examples, without `prepare`; returns its path."""

    def make(train, held_out=(), *, per_file=7, name="data", **fields):
        directory = epath.Path(tmp_path / name)
        directory.mkdir(exist_ok=True)
        files = {}
        for split, pairs in (("train", train), ("held_out", held_out)):
            files[split] = tuple(
                shards.write_records(
                    directory / f"{split}-{start:05d}.array_record",
                    [encode_pair(pair, wide=False) for pair in pairs[start:][:per_file]],
                )
                for start in range(0, len(pairs), per_file)
            )
        manifest = shards.Manifest(
            **{
                "format_version": shards.FORMAT_VERSION,
                "vocab_size": 100,
                "tokenizer_sha256": "0" * 64,
                "pad_id": 0,
                "unk_id": 1,
                "cls_id": 2,
                "sep_id": 3,
                "mask_id": 4,
                "max_seq_length": 16,
                "seed": 1,
                "dupe_factor": 1,
                "short_seq_prob": 0.1,
                "held_out": 0.1,
                "language": "en",
                "block_mib": 64,
                "blocks": 1,
                "files": files,
                "corpus": (shards.CorpusFile("a.txt", 10, "0" * 64),),
                "documents": 2,
                "sentences": 2,
                "words": 2,
                "tokens": 2,
                "padding": 0.0,
                "label_1_share": 0.5,
                "unigram_entropy": None,
                "majority": 0.5,
                "segments": "next_sentence",
                **fields,
            }
        )
        (directory / shards.MANIFEST).write_text(manifest.to_json())
        return directory

    return make


@pytest.fixture
def some_pairs():
    """Makes examples with ids from 5 to 99. The first id of A counts them."""

    def make(count, seed=0):
        rng = np.random.default_rng(seed)
        return [
            Pair(
                np.concatenate([[5 + number % 90], rng.integers(5, 100, rng.integers(0, 6))]),
                rng.integers(5, 100, rng.integers(1, 7)),
                bool(number % 3 == 0),
            )
            for number in range(count)
        ]

    return make


@pytest.fixture
def vocabulary(tmp_path):
    """The directory of a WordPiece tokenizer with the words w0 ... w999."""
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join([*SPECIALS, *(f"w{i}" for i in range(1000))]))
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true}')  # no guess
    return directory


@functools.cache
def random_texts(documents, sentences, words, files, seed):
    """Returns the texts of `make_corpus`."""
    rng = np.random.default_rng(seed)
    texts = [[] for _ in range(files)]
    number = 0
    for document in range(documents):
        lines = []
        for _ in range(rng.integers(*sentences, endpoint=True)):
            ids = [number // 1000 % 1000, number % 1000]
            ids += rng.integers(0, 1000, rng.integers(*words, endpoint=True)).tolist()
            lines.append(" ".join(f"w{i}" for i in ids))
            number += 1
        texts[document * files // documents].append("\n".join(lines))
    return ["\n\n".join(text) + "\n" for text in texts]


@pytest.fixture
def make_corpus(tmp_path):
    """Writes .txt files of random words. The first two words of a sentence identify it."""

    def make(documents, *, sentences=(3, 12), words=(4, 20), files=1, seed=0, name="corpus"):
        directory = tmp_path / name
        directory.mkdir()
        for file, text in enumerate(random_texts(documents, sentences, words, files, seed)):
            (directory / f"{file:02d}.txt").write_text(text)
        return directory

    return make


@pytest.fixture
def differing():
    """Compares two directories; returns the names of files that differ or are in one only."""

    def compare(first, second):
        def files(root):
            root = Path(root)
            return {
                str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }

        one, other = files(first), files(second)
        return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))

    return compare


@dataclasses.dataclass
class Lines:
    """A `log` that keeps its lines."""

    lines: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def log():
    return Lines()


@functools.cache
def invented_text():
    """Returns a text that looks like English, and its words.

    The text is a dict of four files with 40 documents each. A document is a list of lines.
    """
    rng = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in "bcdfghklmnprstvw" for vowel in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(800)]

    def sentence():
        chosen = rng.choice(words, rng.integers(4, 28)).tolist()
        return " ".join([chosen[0].capitalize(), *chosen[1:]]) + "."

    text = {
        f"{number}.txt": [[sentence() for _ in range(rng.integers(20, 50))] for _ in range(40)]
        for number in range(4)
    }
    return text, sorted(set(words))


@pytest.fixture(scope="session")
def english():
    """A text that looks like English, and its words; see `invented_text`."""
    return invented_text()


@pytest.fixture
def write_corpus(tmp_path):
    """Writes a text, a dict of files with lists of documents, to a directory; returns it."""

    def write(text, name="corpus"):
        directory = tmp_path / name
        directory.mkdir()
        for file, documents in text.items():
            joined = "\n\n".join("\n".join(lines) for lines in documents)
            (directory / file).write_text(f"{joined}\n")
        return directory

    return write


@pytest.fixture
def repeated_corpus(english, write_corpus, tmp_path):
    """A small corpus with every line twice, and its vocabulary file."""
    text, words = english
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIALS, ".", *words]))
    documents = [[line for line in lines for _ in range(2)] for lines in text["0.txt"]]
    return write_corpus({"a.txt": documents}), vocabulary

import json
import random
import re

import pytest

from bertjax.demo import passages
from bertjax.demo.documentation import Passage
from bertjax.demo.passages import TaskSizes
from bertjax.errors import UserError

SIZES = TaskSizes(
    **{"classes": 3, "train": 30, "few": 5, "fewest": 2, "dev": 6, "test": 8},
    **{"pairs": 60, "dev_pairs": 10},
)


def documentation(packages=("jax", "numpy", "tiny", "scipy"), files=24):
    """Files of several docstrings; every sentence has a word that no other file has."""
    generator = random.Random(0)
    made = []
    for place, package in enumerate(packages):
        for file in range(2 if package == "tiny" else files):
            for number in range(12):
                words = [f"{package[0]}{generator.randrange(60)}" for _ in range(14)]
                mark = f"mark{place}z{file}q{number}"
                text = f"The {mark} of {package} is {' '.join(words)}. It is used by {package}."
                made.append(Passage(package, f"{package}/file{file}.py", text))
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def written(directory):
    return passages.write_corpus(documentation(), directory, SIZES)


@pytest.fixture
def rows(written, directory):
    """Reads the rows of a split."""
    return lambda split: list(
        map(json.loads, (directory / f"{split}.jsonl").read_text().splitlines())
    )


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("A NumPy array, as numpy.ndarray.", "A package array, as package.ndarray."),
        ("np.mean, snp and np_mean", "package.mean, snp and package"),
        ("JAX's jaxlib; a jnp.array", "package's package; a package.array"),
        ("scikit-learn, Scikit learn", "package, package"),
        ("TensorFlow Datasets and tf.data", "package and package.data"),
        ("from Hugging Face by hf_hub", "from package by package"),
        ("CPython runs python3", "package runs package"),
        ("perhaps a shelf of tufts", "perhaps a shelf of tufts"),
    ],
)
def test_names_and_their_variants_are_masked(text, masked):
    names = ["numpy", "jax", "sklearn", "tensorflow_datasets", "huggingface_hub", "python"]
    assert list(passages.mask_names([text], names)) == [masked]


def test_no_name_is_left_in_labeled_passages(rows):
    for split in ("train", "few", "fewest", "dev", "test"):
        for row in rows(split):
            words = row["text"].lower().split()
            assert not {"jax", "numpy", "scipy", "jax.", "numpy.", "scipy."} & set(words)


def test_dev_and_test_files_are_absent_from_the_text_and_from_training(directory, rows):
    seen = (directory / "text.txt").read_text().split()
    labeled = " ".join(row["text"] for row in rows("train")).split()

    def files(words):
        return {word.split("q")[0] for word in words if word.startswith("mark")}

    held = {
        split: files(" ".join(row["text"] for row in rows(split)).split())
        for split in ("dev", "test")
    }
    assert held["dev"] and held["test"]
    assert not held["dev"] & held["test"]
    for split in held.values():
        assert not split & files(seen)
        assert not split & files(labeled)
    assert files(labeled) <= files(seen)


def test_sizes_balance_and_few_is_a_part_of_train(written, rows):
    assert written.labels == ("jax", "numpy", "scipy")  # tiny has too little
    for split, count in zip(
        ("train", "few", "fewest", "dev", "test"), (30, 5, 2, 6, 8), strict=True
    ):
        counts = [sum(row["label"] == label for row in rows(split)) for label in written.labels]
        assert counts == [count] * 3
        assert written.rows[split] == 3 * count
    train = {row["text"] for row in rows("train")}
    few = {row["text"] for row in rows("few")}
    assert {row["text"] for row in rows("fewest")} < few < train


def test_a_pair_is_two_passages_of_one_file_and_dev_pairs_are_of_files_held_out(
    written, directory, rows
):
    def files(text):
        return set(re.findall(r"mark\w+?q", text))

    seen = files((directory / "text.txt").read_text())
    for split, count in (("pairs", 60), ("dev_pairs", 10)):
        assert written.rows[split] == len(rows(split)) == count
        for row in rows(split):
            assert row["text"] != row["pair"]
            (one,), (other,) = files(row["text"]), files(row["pair"])
            assert one == other and (one in seen) == (split == "pairs")
    assert len({(row["text"], row["pair"]) for row in rows("pairs")}) == 60


def test_a_document_is_from_one_file(written, directory):
    documents = [
        document.splitlines() for document in (directory / "text.txt").read_text().split("\n\n")
    ]
    assert len(documents) == written.documents
    assert written.files + written.held_out_files == 24 * 3 + 2
    for document in documents:
        marks = re.findall(r"mark\w+q\d+", " ".join(document))
        assert len({mark.split("q")[0] for mark in marks}) == 1
    assert written.words == len((directory / "text.txt").read_text().split())
    assert (
        "numpy" in (directory / "text.txt").read_text()
    )  # pre-training reads the text as it was written


def test_a_document_is_a_docstring_and_short_ones_join_the_one_before():
    docstrings = [["a"], ["b", "c", "d"], ["e", "f"], ["g", "h", "i"], [], ["j", "k", "l"], ["m"]]
    documents = passages._documents(docstrings)
    assert ["".join(document) for document in documents] == ["abcdef", "ghi", "jklm"]


def test_same_documentation_gives_the_same_bytes_and_another_seed_others(
    written, directory, tmp_path
):
    again = passages.write_corpus(documentation(), tmp_path / "again", SIZES)
    assert again.sha256 == written.sha256
    assert (tmp_path / "again/text.txt").read_bytes() == (directory / "text.txt").read_bytes()
    assert passages.write_corpus(documentation(), tmp_path / "b", SIZES, 1).sha256 != again.sha256


def test_too_little_documentation_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(UserError, match="needs two packages with about 20 passages"):
        passages.write_corpus(documentation(("jax",)), tmp_path / "corpus", SIZES)
    assert not (tmp_path / "corpus").exists()

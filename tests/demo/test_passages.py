import json
import random
import re

import pytest

from bertjax.demo import passages
from bertjax.demo.documentation import Passage
from bertjax.demo.passages import TaskSizes
from bertjax.errors import UserError

SIZES = TaskSizes(classes=3, train=30, few=5, dev=6, test=8)


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
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    return passages.write_corpus(documentation(), directory, SIZES)


def rows(corpus, split):
    return [json.loads(line) for line in corpus.tasks[split].read_text().splitlines()]


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


def test_no_name_is_left_in_labelled_passages(written):
    for path in written.tasks.values():
        for line in path.read_text().splitlines():
            words = json.loads(line)["text"].lower().split()
            assert not {"jax", "numpy", "scipy", "jax.", "numpy.", "scipy."} & set(words)


def test_dev_and_test_files_are_absent_from_the_text_and_from_training(written):
    seen = written.text.read_text().split()
    labelled = " ".join(row["text"] for row in rows(written, "train")).split()

    def files(words):
        return {word.split("q")[0] for word in words if word.startswith("mark")}

    held = {
        split: files(" ".join(row["text"] for row in rows(written, split)).split())
        for split in ("dev", "test")
    }
    assert held["dev"] and held["test"]
    assert not held["dev"] & held["test"]
    for split in held.values():
        assert not split & files(seen)
        assert not split & files(labelled)
    assert files(labelled) <= files(seen)


def test_sizes_balance_and_few_is_a_part_of_train(written):
    assert written.labels == ("jax", "numpy", "scipy")  # tiny has too little
    for split, most in (("train", 30), ("few", 5), ("dev", 6), ("test", 8)):
        counts = [
            sum(row["label"] == label for row in rows(written, split)) for label in written.labels
        ]
        assert counts == [most] * 3
        assert written.rows[split] == 3 * most
    train = {row["text"] for row in rows(written, "train")}
    assert {row["text"] for row in rows(written, "few")} < train


def test_a_document_is_of_one_file(written):
    documents = [document.splitlines() for document in written.text.read_text().split("\n\n")]
    assert len(documents) == written.documents
    assert written.files + written.held_out_files == 24 * 3 + 2
    for document in documents:
        marks = re.findall(r"mark\w+q\d+", " ".join(document))
        assert len({mark.split("q")[0] for mark in marks}) == 1
    assert written.words == len(written.text.read_text().split())
    assert "numpy" in written.text.read_text()  # pre-training reads the text as it was written


def test_a_document_is_a_docstring_and_short_ones_join_the_one_before():
    docstrings = [["a"], ["b", "c", "d"], ["e", "f"], ["g", "h", "i"], [], ["j", "k", "l"], ["m"]]
    documents = passages._documents(docstrings)
    assert ["".join(document) for document in documents] == ["abcdef", "ghi", "jklm"]


def test_same_documentation_gives_the_same_bytes_and_another_seed_others(written, tmp_path):
    again = passages.write_corpus(documentation(), tmp_path / "again", SIZES)
    assert again.sha256 == written.sha256
    assert again.text.read_bytes() == written.text.read_bytes()
    assert passages.write_corpus(documentation(), tmp_path / "b", SIZES, 1).sha256 != again.sha256


def test_too_little_documentation_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(UserError, match="too little"):
        passages.write_corpus(documentation(("jax",)), tmp_path / "corpus", SIZES)
    assert not (tmp_path / "corpus").exists()

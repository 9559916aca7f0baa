"""The demo's text and task: installed documentation to pre-train on, and "whose is this passage?".

In labelled passages the names of the packages are masked. Dev and test passages come from source
files of which nothing else is used: neither the vocabulary, nor pre-training, nor the labelled
training rows have seen a word of them.
"""

import dataclasses
import functools
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from bertjax.demo.documentation import Passage
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.text.sentences import split_sentences

PLACEHOLDER = "package"
"""What stands where a package was named."""

_NAMES: dict[str, tuple[str, ...]] = {
    "PIL": ("pil", "pillow"),
    "fontTools": ("fonttool", "ttlib"),
    "huggingface_hub": ("hugging face", "huggingface", "hf"),
    "jax": ("jax", "jnp"),
    "matplotlib": ("matplotlib", "mpl", "pyplot", "plt", "pylab"),
    "numpy": ("numpy", "np"),
    "optax": ("optax",),
    "orbax": ("orbax", "ocp"),
    "python": ("python", "pypy"),
    "scipy": ("scipy",),
    "sklearn": ("sklearn", "scikit learn", "scikit"),
    "tensorflow_datasets": ("tensorflow datasets", "tensorflow", "tfds", "tf"),
}
"""What packages are also called, in lower case; others by their import name alone."""
# "numpy" is found within a word (numpy_dtype, NumPy's), "np" only where no letter touches it.
_WITHIN_A_WORD = 5

_FEWEST_WORDS, _MOST_WORDS = 36, 56
_MOST_PER_FILE = 12
# A docstring of fewer sentences is no document of its own: it would give pre-training little but
# random pairs. It and its neighbour in the same file are one.
_FEWEST_SENTENCES = 3
_WORD = re.compile(r"\w+")
_SPLITS = ("train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class TaskSizes:
    """How many labelled passages there are a class, and how many classes."""

    classes: int = 8
    """Most classes: the packages with the most text."""
    train: int = 100
    """Most training passages a class."""
    few: int = 32
    """Training passages a class where labels are few: the first of the others."""
    dev: int = 50
    """Most dev passages a class."""
    test: int = 120
    """Most test passages a class."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What `write_corpus` wrote."""

    text: epath.Path
    """One sentence a line, a blank line between docstrings: Google's format."""
    tasks: dict[str, epath.Path]
    """Labelled rows in JSON Lines: train, few, dev, test."""
    labels: tuple[str, ...]
    """The packages to tell apart."""
    words: int
    """Of the text."""
    documents: int
    """Of the text."""
    files: int
    """Source files that the text is from."""
    held_out_files: int
    """Source files of dev and test, absent from the text."""
    rows: dict[str, int]
    """Number of labelled rows: train, few, dev, test."""
    sha256: str
    """Of the text and of the labelled rows."""


def write_corpus(
    passages: Sequence[Passage], directory: epath.PathLike, sizes: TaskSizes, seed: int = 0
) -> Corpus:
    """Writes the text to pre-train on and the labelled rows.

    Args:
        passages: as `text.documentation.installed_documentation` gives them.
        directory: is filled with text.txt, train.jsonl, few.jsonl, dev.jsonl, test.jsonl.
        sizes: of the task.
        seed: of the choice of files and passages.

    Raises:
        UserError: too little documentation for a task of at least two packages.
    """
    directory = epath.Path(directory)
    files = _read_files(passages)
    splits = {
        package: split
        for package in _by_words(files)
        if (split := _split_package(package, files[package], sizes, seed)) is not None
    }
    labels = tuple(sorted(list(splits)[: sizes.classes]))
    if len(labels) < 2:
        raise UserError(
            "The documentation installed here is too little for the demo's task (two packages of "
            f"some {4 * sizes.few:,} passages at least): install bertjax's dependencies with their "
            "sources."
        )
    held_out = {file for label in labels for file in splits[label].held_out}
    rows = {
        split: _rows(labels, splits, split, getattr(sizes, split), seed)
        for split in ("train", "few", "dev", "test")
    }
    kept = [
        file
        for package in files
        for file in files[package]
        if file.documents and file.name not in held_out
    ]
    text = "\n".join("\n".join(document) + "\n" for file in kept for document in file.documents)
    contents = {"text.txt": text}
    contents |= {f"{split}.jsonl": _json_lines(lines) for split, lines in rows.items()}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(content.encode())
        write_atomically(directory / name, content.encode())
    return Corpus(
        text=directory / "text.txt",
        tasks={split: directory / f"{split}.jsonl" for split in rows},
        labels=labels,
        words=len(text.split()),
        documents=sum(len(file.documents) for file in kept),
        files=len(kept),
        held_out_files=len(held_out),
        rows={split: len(lines) for split, lines in rows.items()},
        sha256=digest.hexdigest(),
    )


def mask_names(texts: Iterable[str], packages: Iterable[str]) -> Iterator[str]:
    """Puts "package" where a package is named, by its import name or another usual one."""
    names = {name for package in packages for name in _NAMES.get(package, (package.lower(),))}
    phrases = [re.escape(name).replace(r"\ ", "[ _-]") for name in sorted(names) if " " in name]
    long = [
        re.escape(name) for name in sorted(names) if len(name) >= _WITHIN_A_WORD or name == "jax"
    ]
    short = [re.escape(name) for name in sorted(names) if len(name) < _WITHIN_A_WORD]
    phrase = re.compile("|".join(phrases) or "(?!)", re.IGNORECASE)
    part = re.compile(
        "|".join([*long, f"(?<![a-z])(?:{'|'.join(short) or '(?!)'})(?![a-z])"]), re.IGNORECASE
    )

    @functools.cache  # a text has few different words: this is ten times as fast as one expression
    def masked(word: str) -> str:
        return PLACEHOLDER if part.search(word) else word

    for text in texts:
        yield _WORD.sub(lambda match: masked(match[0]), phrase.sub(PLACEHOLDER, text))


@dataclasses.dataclass(frozen=True)
class _File:
    name: str
    documents: tuple[tuple[str, ...], ...]
    """Sentences to pre-train on, as they were written."""
    passages: tuple[str, ...]
    """Passages of some words to tell apart, the packages' names masked."""


@dataclasses.dataclass(frozen=True)
class _Split:
    passages: dict[str, list[str]]
    """train, dev, test, each in the order in which they are taken."""
    held_out: tuple[str, ...]
    """The files of dev and test."""


def _read_files(passages: Sequence[Passage]) -> dict[str, list[_File]]:
    """The files of each package, the names of the packages with enough text masked."""
    words: dict[str, int] = {}
    for passage in passages:
        words[passage.package] = words.get(passage.package, 0) + passage.text.count(" ") + 1
    # The name of a small package ("click", "rich") is an English word and no answer of the task.
    common = sorted(words, key=lambda package: -words[package])[:16]
    masked = mask_names((passage.text for passage in passages), {*common, *_NAMES})
    texts: dict[tuple[str, str], list[tuple[list[str], list[str]]]] = {}
    for passage, without_names in zip(passages, masked, strict=True):
        docstring = (split_sentences(passage.text), split_sentences(without_names))
        texts.setdefault((passage.package, passage.file), []).append(docstring)
    files: dict[str, list[_File]] = {}
    for (package, name), docstrings in texts.items():
        documents = _documents(sentences for sentences, _ in docstrings)
        joined = _join(sentence for _, sentences in docstrings for sentence in sentences)
        files.setdefault(package, []).append(_File(name, documents, tuple(joined)))
    return files


def _documents(docstrings: Iterable[list[str]]) -> tuple[tuple[str, ...], ...]:
    """The docstrings of a file, short ones joined to the one before."""
    documents: list[list[str]] = []
    for sentences in docstrings:
        if documents and min(len(sentences), len(documents[-1])) < _FEWEST_SENTENCES:
            documents[-1].extend(sentences)
        elif sentences:
            documents.append(list(sentences))
    return tuple(map(tuple, documents))


def _join(sentences: Iterable[str]) -> list[str]:
    """Sentences joined to passages of 36 words or more; what is over 56 words is cut off."""
    passages, current = [], []
    for sentence in sentences:
        current += sentence.split()
        if len(current) >= _FEWEST_WORDS:
            passages.append(" ".join(current[:_MOST_WORDS]))
            current = []
    return passages


def _by_words(files: dict[str, list[_File]]) -> list[str]:
    def words(package: str) -> int:
        return sum(len(passage) for file in files[package] for passage in file.passages)

    return sorted(files, key=lambda package: (-words(package), package))


def _split_package(package: str, files: list[_File], sizes: TaskSizes, seed: int) -> _Split | None:
    """Files to test, dev, then train, in a random order; None if the package has too few."""
    generator = random.Random(f"files {seed} {package}")
    ordered = sorted(files, key=lambda file: file.name)
    generator.shuffle(ordered)
    total = sum(min(len(file.passages), _MOST_PER_FILE) for file in ordered)
    shares = {"test": 0.2 * total, "dev": 0.1 * total}
    passages: dict[str, list[str]] = {split: [] for split in _SPLITS}
    held_out: list[str] = []
    for file in ordered:
        chosen = list(file.passages)
        generator.shuffle(chosen)
        chosen = chosen[:_MOST_PER_FILE]
        split = "train"
        for each in ("test", "dev"):
            if len(passages[each]) < min(getattr(sizes, each), shares[each]):
                split = each
                break
        passages[split] += chosen
        if split != "train":
            held_out.append(file.name)
    if len(passages["train"]) < 2 * sizes.few or len(passages["dev"]) < sizes.few // 2:
        return None
    for each in passages.values():
        generator.shuffle(each)
    return _Split(passages, tuple(held_out))


def _rows(
    labels: Sequence[str], splits: dict[str, _Split], split: str, most: int, seed: int
) -> list[dict[str, str]]:
    source = "train" if split == "few" else split
    rows = [
        {"text": text, "label": label}
        for label in labels
        for text in splits[label].passages[source][:most]
    ]
    random.Random(f"{seed} {split}").shuffle(rows)
    return rows


def _json_lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

"""The demo's text to pre-train on, and its task: which package is a passage from?

The names of packages are masked in labeled passages. Dev and test passages come from source files
of their own: the vocabulary, pre-training and the labeled training rows use no word of them.
"""

import functools
import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from etils import epath

from bertjax.demo.documentation import Passage
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.text.sentences import split_sentences

PLACEHOLDER = "package"
"""Replaces the names of packages."""

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
"""Names of packages in lower case; a package that is missing here has its import name only."""
# "numpy" matches within a word (numpy_dtype, NumPy's), "np" only where no letter touches it.
_WITHIN_A_WORD = 5

_MIN_WORDS, _MAX_WORDS = 36, 56
_MAX_PER_FILE = 12
_ROUNDS = 2  # of pairing the passages of a file
_MAX_PAIRED = 40  # passages of a file that a round pairs
# A shorter docstring would give pre-training little but random pairs, so it joins its neighbor in
# the same file.
_MIN_SENTENCES = 3
_WORD = re.compile(r"\w+")


class TaskSizes(NamedTuple):
    """Maximum numbers of classes and of labeled passages a class."""

    classes: int = 8  # the packages with the most text
    train: int = 100
    few: int = 32  # training passages where labels are few: the first ones of `train`
    fewest: int = 8  # the first ones of `few`
    dev: int = 50
    test: int = 120
    pairs: int = 12_000  # pairs of passages of one file, in all
    dev_pairs: int = 200


class Corpus(NamedTuple):
    """Describes what `write_corpus` wrote."""

    labels: tuple[str, ...]  # the packages to tell apart
    words: int
    documents: int
    files: int  # source files of the text
    held_out_files: int  # source files of dev and test, absent from the text
    rows: dict[str, int]  # numbers of rows: train, few, fewest, dev, test, pairs, dev_pairs
    sha256: str  # hash of the text and of all rows


def write_corpus(
    passages: Sequence[Passage], directory: epath.PathLike, sizes: TaskSizes, seed: int = 0
) -> Corpus:
    """Writes the text to pre-train on and the labeled rows of `passages` to `directory`.

    text.txt has a sentence a line and a blank line between docstrings (Google's format);
    train.jsonl, few.jsonl, fewest.jsonl, dev.jsonl and test.jsonl have the fields text and label.
    pairs.jsonl and dev_pairs.jsonl have text and pair, two passages of one source file; those of
    dev_pairs.jsonl are of the files of dev and test. The seed chooses files and passages. Raises
    `UserError` if fewer than two packages have enough passages.
    """
    directory = epath.Path(directory)
    files = _read_files(passages)
    splits = _split_largest(files, sizes, seed)
    labels = tuple(sorted(splits))
    if len(labels) < 2:
        raise UserError(
            "The demo's task needs two packages with about "
            f"{4 * sizes.few:,} passages of documentation each, and fewer are installed here: "
            "install bertjax's dependencies with their sources."
        )
    held_out = {file for label in labels for file in splits[label].held_out}
    every = [file for package in files.values() for file in package]
    kept = [file for file in every if file.documents and file.name not in held_out]
    text = "\n".join("\n".join(document) + "\n" for file in kept for document in file.documents)
    contents, rows = {"text.txt": text}, {}
    chosen = {
        split: [
            {"text": passage, "label": label}
            for label in labels
            for passage in splits[label].passages[split][: getattr(sizes, split)]
        ]
        for split in ("train", "few", "fewest", "dev", "test")
    }
    held_out_files = [file for file in every if file.name in held_out]
    chosen["pairs"] = _pairs(kept, sizes.pairs, seed)
    chosen["dev_pairs"] = _pairs(held_out_files, sizes.dev_pairs, seed)
    for split, own in chosen.items():
        random.Random(f"{seed} {split}").shuffle(own)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in own]
        contents[f"{split}.jsonl"] = "".join(lines)
        rows[split] = len(lines)
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(content.encode())
        write_atomically(directory / name, content.encode())
    return Corpus(
        labels=labels,
        words=len(text.split()),
        documents=sum(len(file.documents) for file in kept),
        files=len(kept),
        held_out_files=len(held_out),
        rows=rows,
        sha256=digest.hexdigest(),
    )


def mask_names(texts: Iterable[str], packages: Iterable[str]) -> Iterator[str]:
    """Replaces the names of packages, import names and other usual ones, by "package"."""
    names = {name for package in packages for name in _NAMES.get(package, (package.lower(),))}
    phrases = [name.replace(" ", "[ _-]") for name in sorted(names) if " " in name]
    long = [name for name in sorted(names) if len(name) >= _WITHIN_A_WORD or name == "jax"]
    short = [name for name in sorted(names) if len(name) < _WITHIN_A_WORD]
    phrase = re.compile("|".join(phrases) or "(?!)", re.IGNORECASE)
    part = re.compile(
        "|".join([*long, f"(?<![a-z])(?:{'|'.join(short) or '(?!)'})(?![a-z])"]), re.IGNORECASE
    )

    @functools.cache  # a text has few different words: ten times as fast as one expression
    def masked(word: str) -> str:
        return PLACEHOLDER if part.search(word) else word

    for text in texts:
        yield _WORD.sub(lambda match: masked(match[0]), phrase.sub(PLACEHOLDER, text))


class _File(NamedTuple):
    name: str
    documents: list[list[str]]  # sentences to pre-train on, unchanged
    passages: list[str]  # to tell apart, the names of packages masked


class _Split(NamedTuple):
    passages: dict[str, list[str]]  # {split: passages in the order of their use}
    held_out: list[str]  # files of dev and test


def _read_files(passages: Sequence[Passage]) -> dict[str, list[_File]]:
    """The files of each package; the names of packages with enough text are masked."""
    words: dict[str, int] = {}
    for passage in passages:
        words[passage.package] = words.get(passage.package, 0) + passage.text.count(" ") + 1
    # A small package ("click", "rich") is no answer of the task, and its name is an English word.
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
        files.setdefault(package, []).append(_File(name, documents, joined))
    return files


def _documents(docstrings: Iterable[list[str]]) -> list[list[str]]:
    """The docstrings of a file; short ones are joined to the one before."""
    documents: list[list[str]] = []
    for sentences in docstrings:
        if documents and min(len(sentences), len(documents[-1])) < _MIN_SENTENCES:
            documents[-1].extend(sentences)
        elif sentences:
            documents.append(list(sentences))
    return documents


def _join(sentences: Iterable[str]) -> list[str]:
    """Joins sentences to passages of 36 words or more; truncates them to 56 words."""
    passages, current = [], []
    for sentence in sentences:
        current += sentence.split()
        if len(current) >= _MIN_WORDS:
            passages.append(" ".join(current[:_MAX_WORDS]))
            current = []
    return passages


def _split_largest(files: dict[str, list[_File]], sizes: TaskSizes, seed: int) -> dict[str, _Split]:
    """Splits the packages with the most text, of those that have enough passages."""
    lengths = {
        package: sum(len(passage) for file in own for passage in file.passages)
        for package, own in files.items()
    }
    splits = (
        (package, split)
        for package in sorted(files, key=lambda package: (-lengths[package], package))
        if (split := _split_package(package, files[package], sizes, seed)) is not None
    )
    return dict(itertools.islice(splits, sizes.classes))


def _split_package(package: str, files: list[_File], sizes: TaskSizes, seed: int) -> _Split | None:
    """Assigns files in a random order to test, dev, then train; None if they are too few."""
    generator = random.Random(f"files {seed} {package}")
    ordered = sorted(files, key=lambda file: file.name)
    generator.shuffle(ordered)
    total = sum(min(len(file.passages), _MAX_PER_FILE) for file in ordered)
    wanted = {"test": min(sizes.test, 0.2 * total), "dev": min(sizes.dev, 0.1 * total)}
    passages: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    held_out: list[str] = []
    for file in ordered:
        chosen = list(file.passages)
        generator.shuffle(chosen)
        chosen = chosen[:_MAX_PER_FILE]
        too_few = (split for split in wanted if len(passages[split]) < wanted[split])
        split = next(too_few, "train")
        passages[split] += chosen
        if split != "train":
            held_out.append(file.name)
    if len(passages["train"]) < 2 * sizes.few or len(passages["dev"]) < sizes.few // 2:
        return None
    for each in passages.values():
        generator.shuffle(each)
    labeled = passages["train"]
    return _Split({**passages, "few": labeled, "fewest": labeled}, held_out)


def _pairs(files: Iterable[_File], most: int, seed: int) -> list[dict[str, str]]:
    """Pairs different passages of a file, each with one or two others; draws at most `most`."""
    generator = random.Random(f"pairs {seed}")
    pairs = []
    for file in files:
        passages = list(dict.fromkeys(file.passages))
        for _ in range(_ROUNDS):
            generator.shuffle(passages)
            own = passages[:_MAX_PAIRED]
            pairs += zip(own[::2], own[1::2], strict=False)
    pairs = list(dict.fromkeys(pairs))
    chosen = generator.sample(pairs, min(most, len(pairs)))
    return [{"text": text, "pair": pair} for text, pair in chosen]

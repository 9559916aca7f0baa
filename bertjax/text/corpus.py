"""Reads raw text, from files (chosen by their names) and TFDS data sets, as documents: tuples of
sentences."""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.text import compressed, tfds_source
from bertjax.text.sentences import split_sentences
from bertjax.text.tfds_source import TfdsSplit

Source = epath.Path | TfdsSplit
"""A text file, or a split of a TFDS data set."""

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
"""Extensions of JSON Lines."""

# The extensions of files that are read from a directory, compressed or not, beside WikiExtractor's
# wiki_00 and Spark's part-00000. A .json in a directory is more likely a configuration.
_EXTENSIONS = (".txt", *JSON_LINES)
# Longer lines are refused: a document is held in memory with its sentences and tokens.
MAX_LINE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"
_UNNAMED = re.compile(r"wiki_\d+|part-\d+")
_OBJECT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')
_HEAD_BYTES = 4096


def expand_inputs(
    patterns: Sequence[str],
    leave_out: Sequence[epath.Path] = (),
    *,
    text_feature: str = "text",
    tfds_data_dir: epath.PathLike | None = None,
) -> tuple[Source, ...]:
    """Expands paths, patterns and data set names to sources, sorted and without duplicates.

    Args:
        patterns: files with any name; directories; patterns with * or ?; and
            tfds:NAME[/CONFIG][:VERSION][:SPLIT]. A directory stands for its .txt, .jsonl, .ndjson
            and .jsonlines files, and WikiExtractor's wiki_00 and Spark's part-00000 files, at any
            depth, compressed or not, except below names that begin with a dot. Files may be local
            or remote (gs://).
        leave_out: files to skip because they are not text.
        text_feature: the name of the text feature of a data set.
        tfds_data_dir: the directory of data sets. None selects the default of TFDS.

    Raises:
        UserError: there is no pattern, or one matches nothing; see also `tfds_source.find`.
    """
    if not patterns:
        raise UserError("No input: give text files (.txt, .jsonl), directories or patterns.")
    sources: dict[str, Source] = {}
    others = {path.resolve() for path in leave_out}
    for pattern in map(str, patterns):
        if pattern.startswith(tfds_source.PREFIX):
            split = tfds_source.find(pattern, text_feature, tfds_data_dir)
            sources[str(split)] = split
            continue
        found = [path for path in _expand(pattern) if path.resolve() not in others]
        if not found:
            raise UserError(
                f"{pattern}: nothing matches; give a file, a pattern, or a directory that holds "
                f"{', '.join(_EXTENSIONS)} files."
            )
        sources.update((str(path), path) for path in found)
    return tuple(sources[name] for name in sorted(sources))


def files_of(sources: Sequence[Source]) -> list[epath.Path]:
    """Returns the sources that are files."""
    return [source for source in sources if isinstance(source, epath.Path)]


def read_documents(
    source: TfdsSplit | epath.PathLike,
    language: str = "en",
    fields: Sequence[str] = ("text",),
    *,
    json_lines: bool | None = None,
) -> Iterator[tuple[str, ...]]:
    """Yields the documents of a source, each as its sentences. No document or sentence is empty.

    A JSON Lines file (`is_json_lines`) has one object {"text": ...} per line; other keys are
    ignored. `fields` names other keys, each of which is a document; a.b is the key b of the object
    a. Its texts, and the texts of a data set, are split into sentences. Any other file has
    Google's format: one sentence per line and a blank line between documents
    (`create_pretraining_data.py` in google-research/bert). `json_lines` tells which format a part
    of a file has. Files may be compressed.

    Files may have a byte order mark, and LF or CRLF line ends. Memory is bounded by the longest
    document.

    Raises:
        UserError: the file cannot be opened, is damaged or truncated, or a line (named as
            file:line) is not UTF-8, contains a NUL character, is longer than `MAX_LINE_BYTES`, or
            is not such an object.
    """
    if isinstance(source, TfdsSplit):
        return read_examples(source, language)
    path = epath.Path(source)
    json_lines = is_json_lines(path) if json_lines is None else json_lines
    return _read_json_lines(path, language, fields) if json_lines else _read_text(path)


def find_line(source: TfdsSplit | epath.PathLike, beginning: str) -> int | None:
    """Returns the number, from 1, of the first line that contains the beginning of a sentence.

    The result is None if no line does, and for a data set, which has no lines.
    """
    if isinstance(source, TfdsSplit):
        return None
    path = epath.Path(source)
    is_json = is_json_lines(path)
    for number, line in _lines(path):
        if is_json and line.strip():
            line = " ".join(_text_of(line, f"{path}:{number}").split())
        if beginning in line:
            return number
    return None


def read_examples(
    split: TfdsSplit, language: str = "en", start: int = 0, stop: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Yields the documents of examples `start` to `stop` of a data set; see `read_documents`."""
    for number, data in enumerate(split.texts(start, stop), start):
        text = _decoded(data, f"{split}: example {number:,}", "text")
        if sentences := tuple(split_sentences(text, language)):
            yield sentences


def is_json_lines(path: epath.Path) -> bool:
    """Whether a file is read as JSON Lines: by its name (.jsonl, .json, .ndjson, .jsonlines), or by
    its first line."""
    if compressed.text_name(path).lower().endswith((".json", *JSON_LINES)):
        return True
    with compressed.open_text(path) as file:
        return begins_as_object(file.read(_HEAD_BYTES))


def begins_as_object(text: bytes) -> bool:
    """Whether a text begins with a JSON object that has a key."""
    return _OBJECT.match(text.removeprefix(_BOM)) is not None


def _expand(pattern: str) -> Iterator[epath.Path]:
    path = location(pattern)
    if path.is_dir():
        yield from filter(is_named_text, files_in(path))
    elif path.exists():
        yield path
    elif "**" in pattern:
        raise UserError(f"{pattern}: instead of **, a directory stands for its files at any depth.")
    elif wildcards := [pattern.find(character) for character in "*?[" if character in pattern]:
        parent, slash, _ = pattern[: min(wildcards)].rpartition("/")
        base = epath.Path((parent or "/") if slash else ".")
        if base.is_dir():
            for match in base.glob(pattern[len(parent) + len(slash) :]):
                yield from filter(is_named_text, files_in(match)) if match.is_dir() else [match]


def files_in(directory: epath.Path, above: tuple[pathlib.Path, ...] = ()) -> Iterator[epath.Path]:
    """Yields the files of a directory at any depth, skipping names that begin with a dot.

    A link to a directory `above` it is skipped too.
    """
    above = (*above, pathlib.Path(directory).resolve())  # epath's `resolve` follows no links
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif pathlib.Path(path).resolve() not in above:
            yield from files_in(path, above)


def is_named_text(path: epath.Path) -> bool:
    """Whether the name of a file in a directory marks it as text."""
    name = compressed.text_name(path).lower()
    return name.endswith(_EXTENSIONS) or _UNNAMED.fullmatch(name) is not None


def _read_text(path: epath.Path) -> Iterator[tuple[str, ...]]:
    lines: list[str] = []
    for number, line in _lines(path):
        sentence = line.strip()
        if number == 1 and sentence.startswith("<doc id="):
            raise UserError(
                f"{path}:1: WikiExtractor's <doc> format is not supported; run it with --json."
            )
        if sentence:
            lines.append(sentence)
        elif lines:
            yield tuple(lines)
            lines = []
    if lines:
        yield tuple(lines)


def _read_json_lines(
    path: epath.Path, language: str, fields: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    name = str(path)  # once: it takes longer than parsing a line
    for number, line in _lines(path):
        if line.strip():
            for field in fields:
                text = _text_of(line, f"{name}:{number}", field)
                if sentences := tuple(split_sentences(text, language)):
                    yield sentences


def _text_of(line: str, where: str, field: str = "text") -> str:
    example = f'write {{"{field}": "..."}} on one line'
    try:
        row = json.loads(line)
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; {example}.") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number too long"
        raise UserError(f"{where}: not JSON ({reason}); {example}.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; {example}.")
    text: Any = row
    for key in [field] if field in row else field.split("."):
        if not isinstance(text, dict) or key not in text:
            raise UserError(f'{where}: has no "{field}"; {example}.')
        text = text[key]
    if not isinstance(text, str):
        raise UserError(f'{where}: "{field}" is {type(text).__name__}, not a string.')
    if "\0" in text:
        raise UserError(f'{where}: "{field}" contains a NUL character; remove it.')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f'{where}: "{field}" contains half a character (a lone \\ud800-\\udfff escape); write '
            "it again from the original text."
        ) from None
    return text


def _lines(path: epath.Path) -> Iterator[tuple[int, str]]:
    """Yields line numbers, from 1, and lines without their ends."""
    number = 0
    with compressed.open_text(path) as file:
        for block in _blocks(file):
            block = block if number else block.removeprefix(_BOM)
            for line in _lines_of(block, path, number + 1):
                number += 1
                yield number, line.rstrip("\r")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yields blocks of whole lines; of a line that is too long, its beginning."""
    held, size = [], 0
    while data := file.read(_BLOCK_BYTES):
        end = data.rfind(b"\n") + 1
        if not end and size + len(data) > MAX_LINE_BYTES:
            end = len(data)
        if end:
            yield b"".join((*held, data[:end]))
            held, size, data = [], 0, data[end:]
        held.append(data)
        size += len(data)
    if size:
        yield b"".join(held)


def _lines_of(block: bytes, path: epath.Path, first: int) -> Iterator[str]:
    """Yields the lines of a block; `first` is the number of the first one."""
    rows = block.removesuffix(b"\n")
    try:
        text = rows.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text and len(block) <= MAX_LINE_BYTES:
        yield from text.split("\n")
        return
    for number, row in enumerate(rows.split(b"\n"), first):  # finds the faulty line
        if len(row) >= MAX_LINE_BYTES:
            raise UserError(
                f"{path}:{number}: longer than {MAX_LINE_BYTES >> 20} MiB; split it into "
                "documents, each on its own line."
            )
        yield _decoded(row, f"{path}:{number}", "line")


def _decoded(data: bytes, where: str, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {data[error.start]:#04x} at byte {error.start + 1} of the "
            f"{what}); convert the file to UTF-8."
        ) from None
    if "\0" in text:
        raise UserError(f"{where}: contains a NUL character; give plain text.")
    return text

"""Raw text in: documents, which are tuples of sentences, from files and from data sets of TFDS."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.text import compressed, tfds_source
from bertjax.text import sentences as sentences_lib
from bertjax.text.tfds_source import TfdsSplit

__all__ = [
    "Source",
    "expand_inputs",
    "find_line",
    "read_documents",
]

Source = epath.Path | TfdsSplit
"""What documents are read from: a file of text, or a split of a data set."""

EXTENSIONS = (".txt", ".jsonl")
"""The files that are read where a directory is given, compressed or not (a .json there is rather a
configuration); beside them what WikiExtractor writes, wiki_00."""

LONGEST_LINE = 1 << 28
"""Bytes; a document is held in memory, as are its sentences and its tokens."""

_BLOCK_BYTES = 1 << 18
_BOM = b"\xef\xbb\xbf"
_EXTRACTED = re.compile(r"wiki_\d+")


def expand_inputs(
    patterns: Sequence[str],
    leave_out: Sequence[epath.Path] = (),
    *,
    text_feature: str = "text",
    tfds_data_dir: epath.PathLike | None = None,
) -> tuple[Source, ...]:
    """What paths, patterns and names of data sets stand for, sorted, each once.

    Args:
        patterns: files of any name; directories, of which every .txt and .jsonl file at any depth
            is taken, compressed or not, and every file that WikiExtractor names (wiki_00), unless
            its name, or a directory's on the way, begins with a dot; patterns with * or ?; and
            tfds:NAME[/CONFIG][:VERSION][:SPLIT]. Files may be local or remote (gs://).
        leave_out: files that are no text although they lie there.
        text_feature: what is read of an example of a data set.
        tfds_data_dir: where data sets lie; None: where TFDS puts them.

    Raises:
        UserError: no pattern, or one that matches nothing; see `tfds_source.find`.
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
                f"{', '.join(EXTENSIONS)} files."
            )
        sources.update((str(path), path) for path in found)
    return tuple(sources[name] for name in sorted(sources))


def files_of(sources: Sequence[Source]) -> list[epath.Path]:
    """Those of the sources that are files."""
    return [source for source in sources if isinstance(source, epath.Path)]


def read_documents(
    source: TfdsSplit | epath.PathLike, language: str = "en"
) -> Iterator[tuple[str, ...]]:
    """Reads the documents of a source, one at a time, as their sentences: none of them is empty.

    JSON Lines (`is_json_lines`): one object a line, {"text": ...}, whose other keys are ignored;
    the text is split into sentences, as the texts of a data set are. Any other file: Google's
    format, one sentence a line and a blank line between documents (`create_pretraining_data.py` in
    google-research/bert). Files may be compressed (`compressed.py`).

    All are strict UTF-8; files with or without a byte order mark, with LF or CRLF. Memory is
    bounded by the longest document.

    Raises:
        UserError: the file can't be opened, is damaged or cut off, or a line (named as file:line)
            is not UTF-8, holds a NUL character, is longer than `LONGEST_LINE`, or is not such an
            object.
    """
    if isinstance(source, TfdsSplit):
        return read_examples(source, language)
    path = epath.Path(source)
    if is_json_lines(path):
        return _read_json_lines(path, language)
    return _read_text(path)


def find_line(source: TfdsSplit | epath.PathLike, beginning: str) -> int | None:
    """The number, from 1, of the first line of a file in which a sentence begins so; None if none
    does, or of a data set, which has no lines.

    Args:
        source: what `read_documents` reads.
        beginning: of one of its sentences.
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
    """The documents of the examples from `start` up to `stop`, or all; see `read_documents`."""
    for number, data in enumerate(split.texts(start, stop), start):
        text = _decoded(data, f"{split}: example {number:,}", "text")
        if sentences := tuple(sentences_lib.split_sentences(text, language)):
            yield sentences


def is_json_lines(path: epath.Path) -> bool:
    """Whether a file is read as JSON Lines: .jsonl, .json, and a wiki_00 that begins with {."""
    name = compressed.text_name(path).lower()
    if _EXTRACTED.fullmatch(name):
        with compressed.open_text(path) as file:
            return file.read(64).removeprefix(_BOM).lstrip().startswith(b"{")
    return name.endswith((".jsonl", ".json"))


def _expand(pattern: str) -> Iterator[epath.Path]:
    path = location(pattern)
    if path.is_dir():
        yield from filter(is_named_text, files_in(path))
    elif path.exists():
        yield path
    elif "**" in pattern:
        raise UserError(f"{pattern}: ** is not read; name a directory for its files at any depth.")
    elif wildcards := [pattern.find(character) for character in "*?[" if character in pattern]:
        parent, slash, _ = pattern[: min(wildcards)].rpartition("/")
        base = epath.Path((parent or "/") if slash else ".")
        if base.is_dir():
            for match in base.glob(pattern[len(parent) + len(slash) :]):
                yield from filter(is_named_text, files_in(match)) if match.is_dir() else [match]


def files_in(directory: epath.Path) -> Iterator[epath.Path]:
    """The files at any depth, without those whose name, or a directory's, begins with a dot."""
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from files_in(path)
        else:
            yield path


def is_named_text(path: epath.Path) -> bool:
    """Whether a file in a directory is taken for text, by its name."""
    name = compressed.text_name(path).lower()
    return name.endswith(EXTENSIONS) or _EXTRACTED.fullmatch(name) is not None


def _read_text(path: epath.Path) -> Iterator[tuple[str, ...]]:
    lines: list[str] = []
    for number, line in _lines(path):
        sentence = line.strip()
        if number == 1 and sentence.startswith("<doc id="):
            raise UserError(
                f"{path}:1: the <doc> format of WikiExtractor; run it with --json instead."
            )
        if sentence:
            lines.append(sentence)
        elif lines:
            yield tuple(lines)
            lines = []
    if lines:
        yield tuple(lines)


def _read_json_lines(path: epath.Path, language: str) -> Iterator[tuple[str, ...]]:
    place = str(path)
    for number, line in _lines(path):
        if not line.strip():
            continue
        text = _text_of(line, f"{place}:{number}")
        if sentences := tuple(sentences_lib.split_sentences(text, language)):
            yield sentences


def _text_of(line: str, where: str) -> str:
    example = 'write {"text": "..."} on one line'
    try:
        row = json.loads(line)
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; {example}.") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number too long"
        raise UserError(f"{where}: not JSON ({reason}); {example}.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: holds no JSON object; {example}.")
    if "text" not in row:
        raise UserError(f'{where}: has no "text"; {example}.')
    text = row["text"]
    if not isinstance(text, str):
        raise UserError(f'{where}: "text" is {type(text).__name__}, not a string.')
    if "\0" in text:
        raise UserError(f'{where}: "text" holds a NUL character; take it out.')
    if not text.isascii() and _has_surrogate(text):
        raise UserError(
            f'{where}: "text" holds half a character (a lone \\ud800-\\udfff escape); write it '
            "again from the original text."
        )
    return text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _lines(path: epath.Path) -> Iterator[tuple[int, str]]:
    """Line number from 1, and the line without its end."""
    place = str(path)
    number = 0
    with compressed.open_text(path) as file:
        for block in _blocks(file):
            if number == 0:
                block = block.removeprefix(_BOM)
            for line in _lines_of(block, place, number + 1):
                number += 1
                yield number, line.rstrip("\r")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Some whole lines at a time, or the beginning of one that is too long."""
    held, size = [], 0
    while data := file.read(_BLOCK_BYTES):
        end = data.rfind(b"\n") + 1
        if not end and size + len(data) > LONGEST_LINE:
            end = len(data)
        if end:
            yield b"".join((*held, data[:end]))
            held, size, data = [], 0, data[end:]
        held.append(data)
        size += len(data)
    if size:
        yield b"".join(held)


def _lines_of(block: bytes, place: str, first: int) -> Iterator[str]:
    """The lines of a block, of which `first` is the number of the first one."""
    rows = block.removesuffix(b"\n")
    try:
        text = rows.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text and len(block) <= LONGEST_LINE:
        yield from text.split("\n")
        return
    for number, row in enumerate(rows.split(b"\n"), first):  # something is wrong: where?
        if len(row) >= LONGEST_LINE:
            raise UserError(
                f"{place}:{number}: longer than {LONGEST_LINE >> 20} MiB; divide it into "
                "documents, each on a line of its own."
            )
        yield _decoded(row, f"{place}:{number}", "line")


def _decoded(data: bytes, where: str, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {data[error.start]:#04x} at byte {error.start + 1} of the "
            f"{what}); convert it to UTF-8 first."
        ) from None
    if "\0" in text:
        raise UserError(f"{where}: holds a NUL character; give plain text.")
    return text

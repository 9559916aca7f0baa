"""Raw text in: documents, which are tuples of sentences, from text files and JSON Lines.

`installed_documentation`, the corpus that needs no download, has a file of its own.
"""

import json
from collections.abc import Iterator, Sequence

from etils import epath

from bertjax import places
from bertjax.errors import UserError
from bertjax.text import sentences as sentences_lib
from bertjax.text.documentation import Passage, installed_documentation

__all__ = [
    "Passage",
    "expand_inputs",
    "find_line",
    "installed_documentation",
    "read_documents",
]

EXTENSIONS = (".txt", ".jsonl")
"""The files that are read where a directory is given (a .json there is rather a configuration)."""

_BOM = b"\xef\xbb\xbf"


def expand_inputs(
    patterns: Sequence[str], leave_out: Sequence[epath.Path] = ()
) -> tuple[epath.Path, ...]:
    """The files that paths and patterns name, sorted, each once.

    Args:
        patterns: files of any name; directories, of which every .txt and .jsonl file at any depth
            is taken unless its name, or a directory's on the way, begins with a dot; and patterns
            with *, ** or ?. Local or remote (gs://).
        leave_out: files that are no text although they lie there.

    Raises:
        UserError: no pattern, or one that matches no file.
    """
    if not patterns:
        raise UserError("No input: give text files (.txt, .jsonl), directories or patterns.")
    files: dict[str, epath.Path] = {}
    others = {path.resolve() for path in leave_out}
    for pattern in patterns:
        found = [path for path in _expand(str(pattern)) if path.resolve() not in others]
        if not found:
            raise UserError(
                f"{pattern}: nothing matches; give a file, a pattern, or a directory that holds "
                f"{', '.join(EXTENSIONS)} files."
            )
        files.update((str(path), path) for path in found)
    return tuple(files[name] for name in sorted(files))


def read_documents(path: epath.PathLike, language: str = "en") -> Iterator[tuple[str, ...]]:
    """Reads the documents of one file, one at a time, as their sentences: none of them is empty.

    .jsonl and .json: one JSON object a line, {"text": ...}, whose other keys are ignored; the text
    is split into sentences. Any other name: Google's format, one sentence a line and a blank line
    between documents (`create_pretraining_data.py` in google-research/bert).

    Both are strict UTF-8, with or without a byte order mark, with LF or CRLF. Memory is bounded by
    the longest document.

    Raises:
        UserError: the file can't be opened, or a line (named as file:line) is not UTF-8, holds a
            NUL character, or is not such an object.
    """
    path = epath.Path(path)
    if path.suffix.lower() in (".jsonl", ".json"):
        return _read_json_lines(path, language)
    return _read_text(path)


def find_line(path: epath.PathLike, beginning: str) -> int | None:
    """The number, from 1, of the first line in which a sentence begins so; None if none does.

    Args:
        path: a file that `read_documents` reads.
        beginning: of one of its sentences.
    """
    path = epath.Path(path)
    is_json = path.suffix.lower() in (".jsonl", ".json")
    for number, line in _lines(path):
        if is_json and line.strip():
            line = " ".join(_text_of(line, f"{path}:{number}").split())
        if beginning in line:
            return number
    return None


def _expand(pattern: str) -> Iterator[epath.Path]:
    path = places.location(pattern)
    if path.is_dir():
        yield from _walk(path)
    elif path.exists():
        yield path
    elif "**" in pattern:
        raise UserError(f"{pattern}: ** is not read; name a directory for its files at any depth.")
    elif wildcards := [pattern.find(character) for character in "*?[" if character in pattern]:
        parent, slash, _ = pattern[: min(wildcards)].rpartition("/")
        base = epath.Path((parent or "/") if slash else ".")
        if base.is_dir():
            for match in base.glob(pattern[len(parent) + len(slash) :]):
                yield from _walk(match) if match.is_dir() else [match]


def _walk(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix.lower() in EXTENSIONS:
            yield path


def _read_text(path: epath.Path) -> Iterator[tuple[str, ...]]:
    lines: list[str] = []
    for _, line in _lines(path):
        sentence = line.strip()
        if sentence:
            lines.append(sentence)
        elif lines:
            yield tuple(lines)
            lines = []
    if lines:
        yield tuple(lines)


def _read_json_lines(path: epath.Path, language: str) -> Iterator[tuple[str, ...]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        text = _text_of(line, f"{path}:{number}")
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
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}).") from None
    with file:
        for number, data in enumerate(file, start=1):
            if number == 1:
                data = data.removeprefix(_BOM)
            try:
                line = data.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: not UTF-8 (byte {data[error.start]:#04x} at byte "
                    f"{error.start + 1} of the line); convert the file to UTF-8 first."
                ) from None
            if "\0" in line:
                raise UserError(f"{path}:{number}: holds a NUL character; give plain text.")
            yield number, line.rstrip("\r\n")

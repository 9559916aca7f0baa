"""Cuts a corpus into ranges of its files, and reads the documents of a range.

The size of ranges does not depend on the number of processes. Ranges begin at positions of the
text, compressed or not, so both give the same documents the same ids. A compressed file can only be
read from its beginning, so one process reads all of its ranges in order.
"""

import contextlib
import dataclasses
import itertools
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.text import compressed, corpus
from bertjax.text.compressed import Window
from bertjax.text.corpus import Source
from bertjax.text.tfds_source import TfdsSplit

_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileRange:
    """A range of a source.

    For a file, it holds the documents that begin from byte `start` of the text to byte `stop`. For
    a data set, it holds the examples `start` to `stop`.
    """

    number: int
    """Index of the source in the corpus."""
    source: Source
    start: int
    stop: int | None
    """None for the end of the source."""
    max_search_bytes: int = 1 << 62
    """How far to search for the beginning of a document, after `start` and after `stop`. If there
    is none, the range is empty, or its last document ends at a line end."""

    @property
    def is_whole(self) -> bool:
        """Whether the range is all of its source."""
        return self.start == 0 and self.stop is None


Ranges = tuple[FileRange, ...]
"""The ranges whose documents go to one token file."""


def cut(sources: Sequence[Source], sizes: Sequence[int], range_bytes: int) -> list[Ranges]:
    """Cuts a corpus into elements of about `range_bytes`; small sources share an element.

    `sizes` are the bytes of text in the sources, the same whether they are compressed or not.
    """
    result: list[Ranges] = []
    together, room = [], range_bytes
    for number, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        if size > room and together:
            result.append(tuple(together))
            together, room = [], range_bytes
        if size > range_bytes:
            starts = _starts(source, size, range_bytes)
            for start, stop in zip(starts, [*starts[1:], None], strict=True):
                result.append((FileRange(number, source, start, stop),))
        else:
            together.append(FileRange(number, source, 0, None))
            room -= size
    if together:
        result.append(tuple(together))
    return result


def _starts(source: Source, size: int, range_bytes: int) -> Sequence[int]:
    if isinstance(source, TfdsSplit):
        count = min(-(-size // range_bytes), source.examples)
        return [source.examples * number // count for number in range(count)]
    return range(0, size, range_bytes)


def groups(ranges: Sequence[Ranges]) -> list[list[int]]:
    """Groups the indices of `ranges`: one process has to read a group in order.

    The ranges of a compressed file are a group. Any other element is a group of its own.
    """

    def key(index: int) -> tuple[bool, int]:
        first = ranges[index][0]
        at_once = first.is_whole or isinstance(first.source, TfdsSplit) or is_plain(first.source)
        return (True, index) if at_once else (False, first.number)

    return [list(group) for _, group in itertools.groupby(range(len(ranges)), key)]


def is_plain(source: Source) -> bool:
    """Whether a source is a file that can be read from any position."""
    return not isinstance(source, TfdsSplit) and not compressed.is_compressed(source)


def open_window(group: Sequence[Ranges]) -> contextlib.AbstractContextManager[Window | None]:
    """Opens the compressed file that a group of several elements reads; otherwise gives None."""
    source = group[0][0].source
    if len(group) == 1 or isinstance(source, TfdsSplit):
        return contextlib.nullcontext()
    return Window(source)


def read_range(
    file_range: FileRange, language: str, window: Window | None = None
) -> Iterator[tuple[str, ...]]:
    """Yields the documents of a range.

    `language` names the rules that split running text into sentences. `window` is open on the
    file if that is compressed and has several ranges.
    """
    source = file_range.source
    if isinstance(source, TfdsSplit):
        yield from corpus.read_examples(source, language, file_range.start, file_range.stop)
        return
    if file_range.is_whole:
        yield from corpus.read_documents(source, language)
        return
    json_lines = corpus.is_json_lines(source)
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        # The range is copied to a file, because corpus.py reads whole files.
        copy = epath.Path(directory) / ("range.jsonl" if json_lines else "range.txt")
        if window is not None:
            window.forget(file_range.start)
        opened = source.open("rb") if window is None else contextlib.nullcontext(window)
        with opened as file, copy.open("wb") as target:
            start, stop = _extent(file_range, file, json_lines)
            file.seek(start)
            end = math.inf if stop is None else stop
            while data := file.read(int(min(_READ_BYTES, end - file.tell()))):
                target.write(data)
        try:
            yield from corpus.read_documents(copy, language, json_lines=json_lines)
        except UserError as error:
            raise _at_original_line(error, copy, source, start) from None


def extent(file_range: FileRange) -> tuple[int, int]:
    """Returns the first byte of the documents of a plain file's range, and one past the last."""
    if isinstance(file_range.source, TfdsSplit):
        raise TypeError("a data set has examples, not bytes")
    with file_range.source.open("rb") as file:
        start, stop = _extent(file_range, file, corpus.is_json_lines(file_range.source))
    return start, file_range.source.stat().length if stop is None else stop


def _extent(file_range: FileRange, file: Any, json_lines: bool) -> tuple[int, int | None]:
    """Returns the same as `extent` for an open file, with None for its end."""
    boundary = re.compile(rb"\n" if json_lines else rb"\n\r?\n")
    start = _next_document(file, file_range.start, boundary, file_range.max_search_bytes)
    if start is None:
        return file_range.start, file_range.start
    if file_range.stop is None:
        return start, None
    stop = _next_document(file, file_range.stop, boundary, file_range.max_search_bytes)
    if stop is None:
        file.seek(start)
        data = file.read(file_range.stop + file_range.max_search_bytes - start)
        stop = start + data.rfind(b"\n") + 1
    return start, max(start, stop)


def _next_document(
    file: Any, position: int, boundary: re.Pattern[bytes], max_bytes: int
) -> int | None:
    """Returns where the first boundary at or after `position` ends, None if it is farther than
    `max_bytes`. A document also begins at position 0."""
    if position == 0:
        return 0
    file.seek(position)
    held = b""
    while max_bytes > 0:
        data = file.read(min(_READ_BYTES, max_bytes))
        held += data
        if match := boundary.search(held):
            return position + match.end()
        if not data:
            return position + len(held)
        max_bytes -= len(data)
        # A boundary may extend over two reads: keep the bytes that could begin it.
        position += len(held) - min(2, len(held))
        held = held[-2:]
    return None


def _at_original_line(
    error: UserError, copy: epath.Path, path: epath.Path, start: int
) -> UserError:
    """Returns the error of a copied range with the file and line of the original."""
    lines = 0
    with compressed.open_text(path) as file:
        while start > 0 and (data := file.read(min(_READ_BYTES, start))):
            lines += data.count(b"\n")
            start -= len(data)
    place = re.compile(re.escape(f"{copy}:") + r"(\d+)")
    return UserError(place.sub(lambda match: f"{path}:{int(match[1]) + lines}", str(error)))

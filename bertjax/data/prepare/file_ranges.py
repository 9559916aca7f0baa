"""A corpus is cut into tasks of a fixed size, whatever the number of processes; their documents.

Parts are cut at positions of the text, compressed or not, so that both give the same documents the
same ids. Nobody can begin to read a compressed file in its middle: its parts are read one after the
other, in one process.
"""

import contextlib
import dataclasses
import itertools
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

_SCAN_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a source. Of a file: from the first document that begins at byte `start` of its
    text or after it, to the first one that begins at byte `stop` or after it. Of a data set: the
    examples from `start` up to `stop`."""

    number: int
    """Place of the source in the corpus."""
    source: Source
    start: int
    stop: int | None
    """None: to the end."""
    farthest: int = 1 << 62
    """How many bytes after `start` and `stop` to look for a document's beginning. Where there is
    none, the part holds nothing, or its last document is cut at the end of a line."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its source."""
        return self.start == 0 and self.stop is None


Task = tuple[Part, ...]
"""What leaves one segment."""


def make_tasks(sources: Sequence[Source], sizes: Sequence[int], part_bytes: int) -> list[Task]:
    """Cuts a corpus into tasks of about `part_bytes`: small sources together, large ones in parts.

    Args:
        sources: the corpus.
        sizes: bytes of text in each of them, the same whether it is compressed or not.
        part_bytes: text of a task.
    """
    tasks: list[Task] = []
    together: list[Part] = []
    room = part_bytes
    for number, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        if size > room and together:
            tasks.append(tuple(together))
            together, room = [], part_bytes
        if size > part_bytes:
            starts = _starts(source, size, part_bytes)
            stops = [*starts[1:], None]
            parts = (Part(number, source, *ends) for ends in zip(starts, stops, strict=True))
            tasks.extend((part,) for part in parts)
            continue
        together.append(Part(number, source, 0, None))
        room -= size
    if together:
        tasks.append(tuple(together))
    return tasks


def _starts(source: Source, size: int, part_bytes: int) -> Sequence[int]:
    if isinstance(source, TfdsSplit):
        count = min(-(-size // part_bytes), source.examples)
        return [source.examples * number // count for number in range(count)]
    return range(0, size, part_bytes)


def groups(tasks: Sequence[Task]) -> list[list[int]]:
    """Groups the numbers of tasks: those of a group are done in their order by one process.

    Such are the parts of a compressed file, which nobody can begin to read in its middle.
    """

    def key(number: int) -> tuple[bool, int]:
        part = tasks[number][0]
        is_file = not isinstance(part.source, TfdsSplit)
        is_entered = is_file and not part.is_whole and not is_plain(part.source)
        return is_entered, part.number if is_entered else number

    return [list(group) for _, group in itertools.groupby(range(len(tasks)), key)]


def is_plain(source: Source) -> bool:
    """Whether it is a file of which any place can be read at once."""
    return not isinstance(source, TfdsSplit) and not compressed.is_compressed(source)


def window_on(tasks: Sequence[Task]) -> contextlib.AbstractContextManager[Window | None]:
    """What the tasks of a group read their compressed file by, if it has several."""
    source = tasks[0][0].source
    if len(tasks) == 1 or isinstance(source, TfdsSplit):
        return contextlib.nullcontext()
    return Window(source)


def read_part(part: Part, language: str, window: Window | None = None) -> Iterator[tuple[str, ...]]:
    """The documents of a part; `window` is on its file, if that is compressed and has others."""
    if isinstance(part.source, TfdsSplit):
        yield from corpus.read_examples(part.source, language, part.start, part.stop)
        return
    if part.is_whole:
        yield from corpus.read_documents(part.source, language)
        return
    json_lines = corpus.is_json_lines(part.source)
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        # A copy of the stretch, so that corpus.py needs to know nothing of stretches.
        copy = epath.Path(directory) / ("part.jsonl" if json_lines else "part.txt")
        with contextlib.ExitStack() as stack, copy.open("wb") as target:
            if window is None:
                file = stack.enter_context(part.source.open("rb"))
            else:
                window.forget(part.start)
                file = window
            start, stop = _extent(part, file, json_lines)
            file.seek(start)
            while data := file.read(
                _SCAN_BYTES if stop is None else min(_SCAN_BYTES, stop - file.tell())
            ):
                target.write(data)
        try:
            yield from corpus.read_documents(copy, language)
        except UserError as error:
            raise _at_original_line(error, copy, part.source, start) from None


def extent(part: Part) -> tuple[int, int]:
    """The first byte of the documents of a part of a plain file, and one past the last."""
    if isinstance(part.source, TfdsSplit):
        raise TypeError("a data set has examples, not bytes")
    size = part.source.stat().length
    with part.source.open("rb") as file:
        start, stop = _extent(part, file, corpus.is_json_lines(part.source))
    return start, size if stop is None else stop


def _extent(part: Part, file: Any, json_lines: bool) -> tuple[int, int | None]:
    """As `extent`, in an open file; None: to the end."""
    boundary = re.compile(rb"\n" if json_lines else rb"\n\r?\n")
    start = _boundary(file, part.start, boundary, part.farthest)
    if start is None:
        return part.start, part.start
    if part.stop is None:
        return start, None
    stop = _boundary(file, part.stop, boundary, part.farthest)
    if stop is None:
        file.seek(start)
        data = file.read(part.stop + part.farthest - start)
        stop = start + data.rfind(b"\n") + 1
    return start, max(start, stop)


def _boundary(file: Any, position: int, pattern: re.Pattern[bytes], farthest: int) -> int | None:
    """Where the first document begins whose preceding boundary begins at `position` or after it;
    None if that boundary is not in the next `farthest` bytes."""
    if position == 0:
        return 0
    file.seek(position)
    held = b""
    while farthest > 0:
        data = file.read(min(_SCAN_BYTES, farthest))
        held += data
        if match := pattern.search(held):
            return position + match.end()
        if not data:
            return position + len(held)
        farthest -= len(data)
        # A boundary may lie across two reads: keep what could be its beginning.
        position += len(held) - min(2, len(held))
        held = held[-2:]
    return None


def _at_original_line(
    error: UserError, copy: epath.Path, path: epath.Path, start: int
) -> UserError:
    """The error of a copied stretch, with the file and line of the original."""
    lines = 0
    with compressed.open_text(path) as file:
        while start > 0 and (data := file.read(min(_SCAN_BYTES, start))):
            lines += data.count(b"\n")
            start -= len(data)

    def renamed(match: re.Match[str]) -> str:
        return f"{path}:{int(match[1]) + lines}"

    return UserError(re.sub(re.escape(f"{copy}:") + r"(\d+)", renamed, str(error)))

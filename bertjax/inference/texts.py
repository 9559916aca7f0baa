"""Lines of text, a chunk at a time, decoded and checked."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks import tables
from bertjax.text.compressed import open_text

Line = str | bytes

CHUNK = 1024
"""Lines to read before the first answer, so that batches have rows of similar length."""


def chunks(lines: Iterable[Line], size: int | None = None) -> Iterator[dict[str, Line]]:
    """Yields chunks of up to `size` lines (None: CHUNK): {the name of a line in errors: line}.

    A byte-order mark before the first line is left out. Raises `UserError` if there is no line.
    """
    chunk: dict[str, Line] = {}
    number = 0
    for number, line in enumerate(lines, start=1):
        if number == 1:
            if isinstance(line, str):
                line = line.removeprefix("\ufeff")
            else:
                line = line.removeprefix(b"\xef\xbb\xbf")
        chunk[f"Line {number}"] = line
        if len(chunk) == (size or CHUNK):
            yield chunk
            chunk = {}
    if not number:
        raise UserError("The input is empty: write at least one line.")
    if chunk:
        yield chunk


@contextlib.contextmanager
def open_lines(path: str | None) -> Iterator[Iterable[bytes]]:
    """Yields the lines of a file, which may be compressed; None: of standard input."""
    if path is None:
        yield sys.stdin.buffer
        return
    with open_text(location(path)) as file:
        yield file


def read_line(line: Line, where: str, *, max_length: int | None = tables.MAX_FIELD) -> str:
    """Returns the text of a line without its end.

    Args:
        line: text, or bytes of UTF-8.
        where: its name in errors.
        max_length: maximum number of characters, or None.

    Raises:
        UserError: it is not UTF-8, or a tokenizer can't read it.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {error.object[error.start]:#04x} is not UTF-8; convert the text, for "
            "example with iconv."
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    return tables.check_text(text, where, max_length=max_length)

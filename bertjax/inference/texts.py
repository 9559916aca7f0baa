"""Lines of text, checked and numbered, a chunk at a time."""

from collections.abc import Iterable, Iterator

from bertjax.tasks import tables

CHUNK = 1024
"""Lines to read before the first answer, so that batches have rows of similar length."""


def chunks(
    lines: Iterable[str], size: int | None = None, *, max_length: int | None = tables.MAX_FIELD
) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the first line, checked lines without their ends) of chunks.

    A chunk has up to `size` lines (None: CHUNK) of up to `max_length` characters (None: any).
    """
    chunk: list[str] = []
    first = 1
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        chunk.append(tables.check_text(text, f"Line {number}", max_length=max_length))
        if len(chunk) == (size or CHUNK):
            yield first, chunk
            first, chunk = number + 1, []
    if chunk:
        yield first, chunk

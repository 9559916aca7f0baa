"""Reads the corpus once for the size and digest of its text, which identify it."""

import hashlib
import itertools
from collections.abc import Callable, Sequence

from bertjax import signals
from bertjax.data.prepare.workers import Workers
from bertjax.data.shards import CorpusFile
from bertjax.errors import UserError
from bertjax.text import compressed
from bertjax.text.corpus import Source
from bertjax.text.tfds_source import TfdsSplit

_READ_BYTES = 1 << 20
# A data set is read in pieces of this many examples, by several processes.
_EXAMPLES_PER_CALL = 20_000


def stored_bytes(sources: Sequence[Source]) -> int:
    """Returns the size of sources on disk, an estimate of the work before they are read."""
    return sum(
        source.stored_bytes if isinstance(source, TfdsSplit) else source.stat().length
        for source in sources
    )


def survey(
    sources: Sequence[Source], workers: Workers, log: Callable[[str], None]
) -> list[CorpusFile]:
    """Returns the name of each source, and the size and SHA-256 of its text.

    For a compressed file, they are those of the text in it. The digest of a data set is made from
    the digests of its pieces. Raises `UserError` if a source cannot be read, or a compressed file
    is damaged.
    """
    pieces = [_pieces(source) for source in sources]
    calls = list(itertools.chain(*pieces))
    measured = iter(workers.run(measure, calls, progress="Reading", log=log))
    result = []
    for source, own in zip(sources, pieces, strict=True):
        sizes, digests = zip(*itertools.islice(measured, len(own)), strict=True)
        digest = digests[0]
        if isinstance(source, TfdsSplit):
            digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        result.append(CorpusFile(source.name, sum(sizes), digest))
    return result


def _pieces(source: Source) -> list[tuple[Source, int, int | None]]:
    if not isinstance(source, TfdsSplit):
        return [(source, 0, None)]
    starts = range(0, max(source.examples, 1), _EXAMPLES_PER_CALL)
    return [(source, start, min(start + _EXAMPLES_PER_CALL, source.examples)) for start in starts]


def measure(source: Source, start: int, stop: int | None) -> tuple[int, str]:
    """Returns the size and SHA-256 of a file's text, or of examples of a data set.

    Raises `UserError` if the source cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    if isinstance(source, TfdsSplit):
        for text in source.texts(start, stop):
            digest.update(len(text).to_bytes(8, "little"))  # marks where a text ends
            digest.update(text)
            size += len(text)
        return size, digest.hexdigest()
    try:
        with compressed.open_text(source) as file:
            while data := file.read(_READ_BYTES):
                signals.check()
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise UserError(f"{source}: can't be read ({error.strerror or error}).") from None
    return size, digest.hexdigest()

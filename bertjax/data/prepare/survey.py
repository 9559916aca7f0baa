"""Pass 0 of preparing: how much text the sources hold, and its digest, which names the corpus."""

import hashlib
import itertools
from collections.abc import Callable, Sequence

from bertjax.data.prepare.workers import Workers
from bertjax.data.shards import CorpusFile
from bertjax.errors import UserError
from bertjax.text import compressed
from bertjax.text.corpus import Source
from bertjax.text.tfds_source import TfdsSplit

_READ_BYTES = 1 << 20
# A data set is read by as many processes as there are, so much at a time.
_EXAMPLES = 20_000


def stored_bytes(sources: Sequence[Source]) -> int:
    """What sources take on disk, which says how much work they are before they are read."""
    return sum(
        source.stored_bytes if isinstance(source, TfdsSplit) else source.stat().length
        for source in sources
    )


def survey(
    sources: Sequence[Source], workers: Workers, log: Callable[[str], None]
) -> list[CorpusFile]:
    """Reads all sources once.

    Returns:
        For each its name, the bytes of its text and their SHA-256: of a compressed file those of
        the text that it holds; of a data set one made from those of its examples.

    Raises:
        UserError: a source can't be read, or a compressed file is damaged.
    """
    stretches = [_stretches(source) for source in sources]
    tasks = [task for tasks in stretches for task in tasks]
    measured = iter(workers.run(measure, tasks, what="Reading", log=log))
    return [
        _corpus_file(source, list(itertools.islice(measured, len(tasks))))
        for source, tasks in zip(sources, stretches, strict=True)
    ]


def _stretches(source: Source) -> list[tuple[Source, int, int | None]]:
    if not isinstance(source, TfdsSplit):
        return [(source, 0, None)]
    starts = range(0, max(source.examples, 1), _EXAMPLES)
    return [(source, start, min(start + _EXAMPLES, source.examples)) for start in starts]


def _corpus_file(source: Source, measured: Sequence[tuple[int, str]]) -> CorpusFile:
    sizes, digests = zip(*measured, strict=True)
    if isinstance(source, TfdsSplit):
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
        return CorpusFile(source.name, sum(sizes), digest)
    return CorpusFile(source.name, *measured[0])


def measure(source: Source, start: int, stop: int | None) -> tuple[int, str]:
    """Bytes and SHA-256 of the text of a file, or of some examples of a data set.

    Raises:
        UserError: it can't be read.
    """
    digest, size = hashlib.sha256(), 0
    if isinstance(source, TfdsSplit):
        for text in source.texts(start, stop):
            digest.update(len(text).to_bytes(8, "little"))  # where one ends and the next begins
            digest.update(text)
            size += len(text)
        return size, digest.hexdigest()
    try:
        with compressed.open_text(source) as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise UserError(f"{source}: can't be read ({error.strerror or error}).") from None
    return size, digest.hexdigest()

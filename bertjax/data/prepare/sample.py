"""A sample of a text, gone through pass 1 of preparing, and what it says of the whole.

The text is cut into stretches of equal size, and one is drawn from each of as many neighbourhoods
of equal size; of a small text, all are. A stretch holds the documents that begin in it, so that
long and short ones are drawn alike.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.pairs import FlatDocuments
from bertjax.data.prepare import file_ranges
from bertjax.data.prepare.segments import read_blocks, segment_totals, write_segment
from bertjax.text.tokenizer import Tokenizer

STRETCH_BYTES = 1 << 16
# A document is looked for, and read beyond its stretch, no farther than this.
_FARTHEST = 1 << 20
# On a slow disk or machine fewer stretches are read.
_SECONDS = 5.0


class Quantity(NamedTuple):
    """An estimate and its standard error."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was drawn: of each stretch one number in every array, [stretches] float64."""

    total: int
    """Bytes of the whole text."""
    share: float
    """Of all stretches."""
    sizes: np.ndarray
    """Bytes of the stretch."""
    bytes: np.ndarray
    """Bytes of the documents that begin in it."""
    documents: np.ndarray
    sentences: np.ndarray
    words: np.ndarray
    ids: np.ndarray
    seconds: np.ndarray
    """That pass 1 took."""
    text: FlatDocuments
    """The documents of all stretches, in their order."""

    def scaled(self, values: np.ndarray) -> Quantity:
        """What the whole text has of something that is in proportion to its bytes.

        Args:
            values: how much of it the documents of each stretch have, [stretches].
        """
        return self._ratio(values, self.bytes)

    @property
    def all_documents(self) -> Quantity:
        """The documents of the whole text. By the stretches, as of long ones less may be read."""
        return self._ratio(self.documents, self.sizes)

    def _ratio(self, values: np.ndarray, sizes: np.ndarray) -> Quantity:
        # The ratio estimator and its standard error: Cochran, Sampling Techniques (1977), 6.4.
        whole = self.total / max(1.0, sizes.sum())
        residuals = values - sizes * (values.sum() / max(1.0, sizes.sum()))
        variance = (residuals**2).sum() * len(sizes) / max(1, len(sizes) - 1)
        error = whole * math.sqrt(variance * (1 - self.share))
        return Quantity(float(values.sum() * whole), float(error))


def take(
    paths: Sequence[epath.Path],
    sizes: Sequence[int],
    tokenizer: Tokenizer,
    directory: epath.Path,
    *,
    stretches: int,
    seed: int,
    language: str,
    clock: Callable[[], float],
) -> Sample:
    """Draws stretches and tokenises them, as pass 1 does; stops early after five seconds.

    Args:
        paths: the text files.
        sizes: their bytes.
        tokenizer: of the text.
        directory: local and empty; segments are left there.
        stretches: the most to draw.
        seed: of the drawing.
        language: of .jsonl files.
        clock: tells seconds.

    Raises:
        UserError: bad input, named by file and line.
    """
    drawn, share = _draw(paths, sizes, stretches, seed)
    rows: list[tuple[float, ...]] = []
    segments = []
    started = clock()
    for size, task in drawn:
        begun = clock()
        if len(rows) > 1 and begun - started > _SECONDS:
            break
        segment = directory / f"{len(rows)}.segment"
        write_segment(segment, task, tokenizer, seed=seed, blocks=1, language=language)
        seconds = clock() - begun
        read = sum(stop - start for start, stop in map(file_ranges.extent, task))
        totals = segment_totals(segment)
        counts = (totals.documents, totals.sentences, totals.words, totals.ids)
        rows.append((size, read, *counts, seconds))
        segments.append(segment)
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    text = read_blocks(segments, [0], held_out=False, cutoff=0, dtype=dtype)
    names = ("sizes", "bytes", "documents", "sentences", "words", "ids", "seconds")
    columns = np.array(rows, float).reshape(len(rows), len(names)).T
    return Sample(
        total=sum(sizes),
        share=share * len(rows) / max(1, len(drawn)),
        text=text,
        **dict(zip(names, columns, strict=True)),
    )


def _draw(
    paths: Sequence[epath.Path], sizes: Sequence[int], most: int, seed: int
) -> tuple[list[tuple[int, file_ranges.Task]], float]:
    """(bytes, parts of files) of stretches, and the share of all stretches that they are.

    Any first ones of them are spread over the whole text, as all are.
    """
    total = sum(sizes)
    count = -(-total // STRETCH_BYTES)
    numbers = np.arange(count)
    if count > most:
        bounds = np.arange(most + 1) * count // most
        numbers = np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])
    # In the order of the reversed bits of their place: 0, 1/2, 1/4, 3/4, 1/8 of the way ...
    bits = (len(numbers) - 1).bit_length()
    order = sorted(range(len(numbers)), key=lambda place: f"{place:0{bits}b}"[::-1])
    ends = np.cumsum(sizes)
    drawn = []
    for number in numbers[order].tolist():
        begin, end = number * STRETCH_BYTES, min(total, (number + 1) * STRETCH_BYTES)
        first, last = np.searchsorted(ends, (begin, end - 1), side="right").tolist()
        task = []
        for file in range(first, last + 1):
            offset = int(ends[file]) - sizes[file]
            stop = end - offset if end < ends[file] else None
            task.append(
                file_ranges.Part(file, paths[file], max(0, begin - offset), stop, _FARTHEST)
            )
        drawn.append((end - begin, tuple(task)))
    return drawn, len(drawn) / max(1, count)

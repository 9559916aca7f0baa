"""Draws a sample of a text, runs pass 1 on it, and scales its numbers to the whole text.

The text is divided into equal stretches, and one excerpt is drawn from each; a small text is read
as a whole. The documents that begin in an excerpt belong to it, so short and long ones are drawn
alike.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.pairs import FlatDocuments
from bertjax.data.prepare import file_ranges, token_store
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.file_ranges import FileRange, Ranges
from bertjax.text.tokenizer import Tokenizer

EXCERPT_BYTES = 1 << 16
# How far to look for the beginning of a document, and to read beyond an excerpt.
_MAX_SEARCH_BYTES = 1 << 20


class Quantity(NamedTuple):
    """An estimate and its standard error."""

    value: float
    error: float

    def times(self, factor: "Quantity") -> "Quantity":
        """Multiplies by an independent estimate."""
        error = math.hypot(self.error * factor.value, self.value * factor.error)
        return Quantity(self.value * factor.value, error)

    def __str__(self) -> str:
        if not self.error:
            return f"{round(self.value):,}"
        return f"{float(f'{self.value:.4g}'):,.0f} ± {float(f'{self.error:.2g}'):,.0f}"


@dataclasses.dataclass(frozen=True)
class Sample:
    """The excerpts that were drawn. Each array has one number per excerpt, float64."""

    total_bytes: int
    """The size of the whole text."""
    text: FlatDocuments
    """The documents of all excerpts, in their order."""
    sizes: np.ndarray
    """Bytes of the excerpts."""
    bytes: np.ndarray
    """Bytes of the documents that begin in them."""
    file_bytes: np.ndarray
    """Bytes of their token files."""
    documents: np.ndarray
    sentences: np.ndarray
    ids: np.ndarray
    words: np.ndarray
    seconds: np.ndarray
    """Duration of pass 1."""

    def scaled(self, values: np.ndarray) -> Quantity:
        """Estimates the total of what is proportional to bytes, from its amount in each excerpt."""
        return self._ratio(values, self.bytes)

    @property
    def all_documents(self) -> Quantity:
        """The number of documents. It is scaled by excerpts, as long documents may be cut short."""
        return self._ratio(self.documents, self.sizes)

    def _ratio(self, values: np.ndarray, sizes: np.ndarray) -> Quantity:
        # The ratio estimator and its standard error: Cochran, Sampling Techniques (1977), 6.4.
        scale = self.total_bytes / max(1.0, sizes.sum())
        share = len(sizes) / max(1, -(-self.total_bytes // EXCERPT_BYTES))
        residuals = values - sizes * (values.sum() / max(1.0, sizes.sum()))
        variance = (residuals**2).sum() * len(sizes) / max(1, len(sizes) - 1)
        error = scale * math.sqrt(variance * (1 - share))
        return Quantity(float(values.sum() * scale), float(error))


def take(
    config: PrepareConfig,
    tokenizer: Tokenizer,
    paths: Sequence[epath.Path],
    sizes: Sequence[int],
    directory: epath.Path,
    max_excerpts: int,
    clock: Callable[[], float],
) -> Sample:
    """Draws excerpts and runs pass 1 on them; see `estimate.of_text` for the arguments.

    Raises `UserError` that names bad input by file and line.
    """
    rows, files = [], []
    options = {"seed": config.seed, "blocks": 1, "language": config.language}
    for size, ranges in _draw(paths, sizes, max_excerpts, config.seed):
        begun = clock()
        file = directory / f"{len(rows)}{token_store.SUFFIX}"
        token_store.write_tokens(file, ranges, tokenizer, **options)
        seconds = clock() - begun
        read = sum(stop - start for start, stop in map(file_ranges.extent, ranges))
        _, *totals = token_store.read_totals(file)
        rows.append((size, read, file.stat().length, *totals, seconds))
        files.append(file)
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    text = token_store.read_blocks(files, [0], held_out=False, cutoff=0, dtype=dtype)
    return Sample(sum(sizes), text, *np.array(rows, float).reshape(len(rows), 8).T)


def _draw(
    paths: Sequence[epath.Path], sizes: Sequence[int], max_excerpts: int, seed: int
) -> Iterator[tuple[int, Ranges]]:
    """Yields the bytes and the ranges of excerpts."""
    total = sum(sizes)
    count = -(-total // EXCERPT_BYTES)
    numbers = np.arange(count)
    if count > max_excerpts:
        bounds = np.arange(max_excerpts + 1) * count // max_excerpts
        numbers = np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])
    ends = np.cumsum(sizes)
    for number in numbers.tolist():
        begin, end = number * EXCERPT_BYTES, min(total, (number + 1) * EXCERPT_BYTES)
        first, last = np.searchsorted(ends, (begin, end - 1), side="right").tolist()
        ranges = []
        for file in range(first, last + 1):
            offset = int(ends[file]) - sizes[file]
            start, stop = max(0, begin - offset), end - offset if end < ends[file] else None
            ranges.append(FileRange(file, paths[file], start, stop, _MAX_SEARCH_BYTES))
        yield end - begin, tuple(ranges)

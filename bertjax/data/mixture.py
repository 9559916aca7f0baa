"""The training stream: the global batch of a step is a pure function of (seed, step).

Several corpora, and steps with several lengths, have exact shares.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.order import EPOCHS, INTERLEAVE, in_epochs, interleave
from bertjax.data.packing import PackedReader
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError


class Source(NamedTuple):
    """The examples of one corpus in one bucket, or its packed rows."""

    corpus: int
    examples: np.ndarray | None
    """Their indices in the corpus, uint32; None for all examples."""
    size: int
    weight: int
    """The share of the rows is proportional to this weight, among all sources."""


class Bucket(NamedTuple):
    """The rows of one length T."""

    length: int
    sources: tuple[Source, ...]

    @property
    def weight(self) -> int:
        """The share of the steps is proportional to this weight."""
        return sum(source.weight for source in self.sources)


def one_bucket(readers: Sequence[ShardReader], weights: Sequence[int]) -> tuple[Bucket, ...]:
    """Puts all examples into rows of max_seq_length.

    No corpus is empty. Its share of the examples is proportional to its positive weight.
    """
    sizes = zip(map(len, readers), weights, strict=True)
    sources = tuple(Source(i, None, size, weight) for i, (size, weight) in enumerate(sizes))
    return (Bucket(readers[0].manifest.max_seq_length, sources),)


def length_buckets(
    readers: Sequence[ShardReader], weights: Sequence[int], lengths: Sequence[int]
) -> tuple[Bucket, ...]:
    """Puts every example into the shortest rows that hold it; reads all shards once.

    A bucket's share of the steps is its share of the examples in the mixture, so that every example
    comes as often as without buckets. There are no empty buckets. `readers` and `weights` are those
    of `one_bucket`; `lengths` are ascending, and max_seq_length is always added. Raises `UserError`
    if the lengths are not ascending or not between 1 and max_seq_length; see also
    `ShardReader.lengths`.
    """
    longest = readers[0].manifest.max_seq_length
    bounds = [*lengths, longest] if lengths[-1] < longest else [*lengths]
    if bounds != sorted({*bounds}) or bounds[0] < 1 or bounds[-1] > longest:
        raise UserError(
            f"`length_buckets` {' '.join(map(str, lengths))}: give ascending lengths of up to "
            f"{longest}, the max_seq_length of the shards."
        )
    common = math.lcm(*map(len, readers))
    sources: list[list[Source]] = [[] for _ in bounds]
    for number, (reader, weight) in enumerate(zip(readers, weights, strict=True)):
        # Reading an example that is too long raises an error that names it.
        found = np.minimum(np.searchsorted(bounds, reader.lengths()), len(bounds) - 1)
        for bucket, own in enumerate(sources):
            examples = np.flatnonzero(found == bucket).astype(np.uint32)
            if size := len(examples):
                own.append(Source(number, examples, size, weight * (common // len(reader)) * size))
    filled = [Bucket(bound, tuple(own)) for bound, own in zip(bounds, sources, strict=True) if own]
    return tuple(filled)


def packed_bucket(readers: Sequence[PackedReader], weights: Sequence[int]) -> tuple[Bucket, ...]:
    """Puts packed rows into one bucket; each corpus has its share of the examples, not the rows.

    `readers` come from `packing.pack`, and `weights` are those of `one_bucket`.
    """
    examples = [len(each.reader) for each in readers]
    common = math.lcm(*examples)
    sources = tuple(
        Source(number, None, len(reader), weight * (common // examples[number]) * len(reader))
        for number, (reader, weight) in enumerate(zip(readers, weights, strict=True))
    )
    return (Bucket(readers[0].manifest.max_seq_length, sources),)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStream:
    """The endless training stream of corpora and buckets, whose shares hold for every prefix.

    All rows of a step are from one bucket, and each corpus has its share of that bucket. Every
    source has epochs of its own: each example once per epoch, each epoch in another order. A batch
    may hold the end of one epoch and the beginning of the next. What is said of examples here is
    true of packed rows if the readers are of packed rows.
    """

    readers: Sequence[ShardReader] | Sequence[PackedReader]
    """The examples of each corpus, or its packed rows."""
    buckets: Sequence[Bucket]
    """Those of these readers, from `one_bucket`, `length_buckets` or `packed_bucket`."""
    _: dataclasses.KW_ONLY
    seed: int
    batch_size: int
    """Rows of the global batch over all devices."""
    ramp: tuple[tuple[int, int], ...] = ()
    """(end, rows) of the first steps, which have fewer rows; for a single bucket."""

    @classmethod
    def of(cls, reader: ShardReader, *, seed: int, batch_size: int) -> "TrainStream":
        """Makes the stream of one corpus in rows of max_seq_length."""
        return cls([reader], one_bucket([reader], [1]), seed=seed, batch_size=batch_size)

    @property
    def lengths(self) -> list[tuple[int, float]]:
        """The rows' lengths T, and their shares of the steps."""
        total = sum(bucket.weight for bucket in self.buckets)
        return [(bucket.length, bucket.weight / total) for bucket in self.buckets]

    def epochs(self, steps: int) -> list[float]:
        """Returns how often so many steps see the examples of each corpus."""
        return self.epochs_of_rows(self._rows_before(steps))

    def epochs_of_rows(self, rows: int) -> list[float]:
        """Returns how often so many rows hold the examples of each corpus."""
        total, found = sum(bucket.weight for bucket in self.buckets), [0.0] * len(self.readers)
        for source in (each for bucket in self.buckets for each in bucket.sources):
            found[source.corpus] = rows * source.weight / total / source.size
        return found

    def bucket(self, step: int) -> int:
        """Returns the index of the bucket of a step."""
        return self._bucket(step)[0]

    def examples(self, step: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the examples in rows, [n], of the global batch of a step, which begins at 0.

        Returns:
            The corpus and the index in it, each int64 [n].
        """
        number, earlier = self._bucket(step)
        sources = self.buckets[number].sources
        positions = self._rows_before(earlier) + np.asarray(rows, np.int64)
        chosen, draws = interleave(positions, [source.weight for source in sources])
        corpus, indices = np.empty_like(draws), np.empty_like(draws)
        for place, source in enumerate(sources):
            here = chosen == place
            order = number * len(self.readers) + source.corpus
            drawn = in_epochs(draws[here], source.size, self.seed, order)
            corpus[here] = source.corpus
            indices[here] = drawn if source.examples is None else source.examples[drawn]
        return corpus, indices

    def rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Reads rows of the global batch of a step, as its readers do; T is the bucket's."""
        corpus, indices = self.examples(step, rows)
        length = self.buckets[self.bucket(step)].length
        if len(self.readers) == 1:
            return _cut(self.readers[0].rows(indices), length)
        batch = {}
        for number, reader in enumerate(self.readers):
            here = corpus == number
            for name, own in _cut(reader.rows(indices[here]), length).items():
                whole = batch.setdefault(name, np.empty((len(here), *own.shape[1:]), own.dtype))
                whole[here] = own
        return batch

    def order_fingerprint(self) -> str:
        """Returns a SHA-256: equal fingerprints mean equal batches at every step."""
        sample = [numbers.tolist() for numbers in self.examples(0, np.arange(64))]
        names = [reader.identity for reader in self.readers]
        shares = [
            (bucket.length, [(each.corpus, each.size, each.weight) for each in bucket.sources])
            for bucket in self.buckets
        ]
        rows = (self.batch_size, *self.ramp)
        facts = (INTERLEAVE, EPOCHS, self.seed, rows, names, shares, sample)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _rows_before(self, steps: int) -> int:
        """Returns the number of rows of the first steps."""
        found = begin = 0
        for end, rows in (*self.ramp, (steps, self.batch_size)):
            found += rows * max(0, min(steps, end) - begin)
            begin = end
        return found

    def _bucket(self, step: int) -> tuple[int, int]:
        """Returns the bucket of a step, and the number of earlier steps with the same bucket."""
        chosen, earlier = interleave(np.array([step]), [bucket.weight for bucket in self.buckets])
        return int(chosen[0]), int(earlier[0])


def _cut(batch: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    return {name: own[:, :length] if own.ndim == 2 else own for name, own in batch.items()}

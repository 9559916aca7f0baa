"""The training stream of several corpora, and of steps of several lengths, in exact shares."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.order import EPOCHS, INTERLEAVE, in_epochs, interleave
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError


class Part(NamedTuple):
    """Examples of one corpus that fall into one bucket."""

    corpus: int
    examples: np.ndarray | None
    """Their indices in the corpus, uint32; None: all of them."""
    size: int
    weight: int
    """What the part's share of the examples is in proportion to, among all parts."""


class Bucket(NamedTuple):
    """The rows of one length T."""

    length: int
    parts: tuple[Part, ...]

    @property
    def weight(self) -> int:
        """What the bucket's share of the steps is in proportion to."""
        return sum(part.weight for part in self.parts)


def one_bucket(readers: Sequence[ShardReader], weights: Sequence[int]) -> tuple[Bucket, ...]:
    """All examples in rows of max_seq_length.

    Args:
        readers: the examples of each corpus, none of them empty.
        weights: what the corpora's shares of the examples are in proportion to, positive.
    """
    parts = [
        Part(number, None, len(reader), weight)
        for number, (reader, weight) in enumerate(zip(readers, weights, strict=True))
    ]
    return (Bucket(readers[0].manifest.max_seq_length, tuple(parts)),)


def length_buckets(
    readers: Sequence[ShardReader], weights: Sequence[int], lengths: Sequence[int]
) -> tuple[Bucket, ...]:
    """Every example in the shortest rows that hold it; reads all of the shards once.

    A bucket's share of the steps is its share of the examples, as the weights mix them, so that
    every example comes as often as it would without buckets. Buckets that would be empty are not
    made.

    Args:
        readers: the examples of each corpus, none of them empty.
        weights: what the corpora's shares of the examples are in proportion to, positive.
        lengths: the rows' lengths, ascending; max_seq_length is always one more.

    Raises:
        UserError: the lengths are not ascending, the first is too short for any example, or the
            last is longer than max_seq_length; or see `ShardReader.lengths`.
    """
    longest = readers[0].manifest.max_seq_length
    bounds = [*lengths, longest] if lengths[-1] < longest else [*lengths]
    if bounds != sorted({*bounds}) or bounds[0] < 1 or bounds[-1] > longest:
        raise UserError(
            f"length_buckets {' '.join(map(str, lengths))}: give ascending lengths of up to "
            f"{longest}, the max_seq_length of the shards."
        )
    common = math.lcm(*map(len, readers))
    parts: list[list[Part]] = [[] for _ in bounds]
    for number, (reader, weight) in enumerate(zip(readers, weights, strict=True)):
        # What is longer than it may be is named when it is read.
        found = np.minimum(np.searchsorted(bounds, reader.lengths()), len(bounds) - 1)
        for place, own in enumerate(parts):
            examples = np.flatnonzero(found == place).astype(np.uint32)
            if size := len(examples):
                own.append(Part(number, examples, size, weight * (common // len(reader)) * size))
    filled = [Bucket(bound, tuple(own)) for bound, own in zip(bounds, parts, strict=True) if own]
    return tuple(filled)


class MixedStream:
    """The endless training stream of corpora and buckets, each with its share of every stretch.

    A step has rows of one bucket, of whose examples each corpus has its share. Every part is gone
    through as `TrainStream` goes through a corpus: every example once an epoch of the part, every
    epoch in another order, and a batch may hold the end of one epoch and the beginning of the next.
    """

    def __init__(
        self,
        readers: Sequence[ShardReader],
        buckets: Sequence[Bucket],
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        """A stream of global batches.

        Args:
            readers: the examples of each corpus.
            buckets: of these readers, see `one_bucket` and `length_buckets`.
            seed: what the order depends on, at least 0.
            batch_size: rows of the global batch, at least 1, whatever the number of devices.
        """
        self.readers = tuple(readers)
        self.buckets = tuple(buckets)
        self.seed = seed
        self.batch_size = batch_size

    @property
    def lengths(self) -> list[tuple[int, float]]:
        """The lengths T of steps, and their shares of the steps."""
        total = sum(bucket.weight for bucket in self.buckets)
        return [(bucket.length, bucket.weight / total) for bucket in self.buckets]

    def bucket(self, step: int) -> int:
        """The number of the bucket that `step` has."""
        return self._bucket(step)[0]

    def examples(self, step: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which examples are rows `rows` of the global batch of `step`.

        Args:
            step: from 0.
            rows: positions in the global batch, 0..batch_size-1, [n].

        Returns:
            The corpus and the index in it, each int64 [n].
        """
        number, earlier = self._bucket(step)
        parts = self.buckets[number].parts
        places = earlier * self.batch_size + np.asarray(rows, np.int64)
        chosen, draws = interleave(places, [part.weight for part in parts])
        corpus, indices = np.empty_like(draws), np.empty_like(draws)
        for place, part in enumerate(parts):
            here = chosen == place
            order = number * len(self.readers) + part.corpus
            drawn = in_epochs(draws[here], part.size, self.seed, order)
            corpus[here] = part.corpus
            indices[here] = drawn if part.examples is None else part.examples[drawn]
        return corpus, indices

    def rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows `rows` of the global batch of `step`, as `ShardReader.rows`, but as long as the
        bucket's rows are."""
        corpus, indices = self.examples(step, rows)
        length = self.buckets[self.bucket(step)].length
        batch: dict[str, np.ndarray] = {}
        for number, reader in enumerate(self.readers):
            here = corpus == number
            for name, part in reader.rows(indices[here]).items():
                part = part[:, :length] if part.ndim == 2 else part
                whole = batch.setdefault(name, np.empty((len(here), *part.shape[1:]), part.dtype))
                whole[here] = part
        return batch

    def order_fingerprint(self) -> str:
        """SHA-256 of what fixes the order: equal fingerprints mean equal batches at every step."""
        sample = [numbers.tolist() for numbers in self.examples(0, np.arange(64))]
        hashes = [reader.manifest.hash for reader in self.readers]
        shares = [
            (bucket.length, [(part.corpus, part.size, part.weight) for part in bucket.parts])
            for bucket in self.buckets
        ]
        facts = (INTERLEAVE, EPOCHS, self.seed, self.batch_size, hashes, shares, sample)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _bucket(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps before it have the same."""
        chosen, earlier = interleave(np.array([step]), [bucket.weight for bucket in self.buckets])
        return int(chosen[0]), int(earlier[0])

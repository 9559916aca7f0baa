"""Several data directories as one stream, in fixed shares; every one its own permutation, again and
again.
"""

import fractions
import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.shards import Manifest
from bertjax.data.stream import ORDER, ShardReader, TrainStream, in_epochs
from bertjax.errors import UserError

# Name of the way that places are dealt out below, as `ORDER` is that of a corpus's own order.
_DEAL = "halves-1"
_HEAD = 12  # characters of a SHA-256 in a message


class Corpora(NamedTuple):
    """The data directories of a run, which have one tokenizer, length and objective."""

    directories: tuple[epath.Path, ...]
    names: tuple[str, ...]
    """The ends of the directories' paths, as long as it takes to tell them apart."""
    manifests: tuple[Manifest, ...]
    weights: tuple[int, ...]
    """What the corpora's shares of the examples that are trained on are in proportion to."""

    @classmethod
    def of(cls, directories: Sequence[epath.PathLike], weights: Sequence[float] = ()) -> "Corpora":
        """Reads the manifests of directories that `bertjax prepare` wrote.

        Args:
            directories: at least one.
            weights: positive, one a directory, of any sum; none: the numbers of examples.

        Raises:
            UserError: directories that do not fit together, weights that can't be right, or see
                `shards.read_manifest`.
        """
        paths = tuple(map(epath.Path, directories))
        _check_weights(paths, weights)
        manifests = tuple(map(shards.read_manifest, paths))
        for one, other in itertools.combinations(range(len(manifests)), 2):
            _refuse_strangers(paths, manifests, one, other)
        counts = [manifest.examples("train") for manifest in manifests]
        if 0 in counts:
            empty = paths[counts.index(0)]
            raise UserError(f"{empty}: its train split holds no examples: prepare more text.")
        return cls(paths, _names(paths), manifests, _whole_numbers(weights or counts))

    @property
    def manifest(self) -> Manifest:
        """The first one: what the tokenizer, the length and the objective of all of them are."""
        return self.manifests[0]

    @property
    def shares(self) -> tuple[float, ...]:
        """The corpora's shares of the examples that are trained on."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def examples(self, split: str) -> int:
        """The number of examples of a split, of all corpora."""
        return sum(manifest.examples(split) for manifest in self.manifests)

    def readers(self, split: str) -> tuple[ShardReader, ...]:
        """Opens a split of every corpus."""
        return tuple(ShardReader(directory, split) for directory in self.directories)

    def identity(self) -> str | dict[str, list]:
        """What of the data a resumed run must have again, as JSON."""
        if len(self.manifests) == 1:
            return self.manifest.hash
        hashes = [manifest.hash for manifest in self.manifests]
        return {"manifests": hashes, "weights": list(self.weights)}


class MixedStream:
    """The endless training stream of several corpora, each with its share of every stretch of it.

    A corpus is gone through as by a `TrainStream` of its own: every example once an epoch of this
    corpus, every epoch in another order.
    """

    def __init__(
        self,
        readers: Sequence[ShardReader],
        weights: Sequence[int],
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        """A stream of global batches.

        Args:
            readers: the examples of each corpus.
            weights: what the corpora's shares of the examples are in proportion to, positive.
            seed: what the order depends on, at least 0.
            batch_size: rows of the global batch, whatever the number of devices.

        Raises:
            UserError: a corpus without examples, or a batch size below 1.
        """
        self.streams = [TrainStream(reader, seed=seed, batch_size=batch_size) for reader in readers]
        self.weights = tuple(weights)
        self.seed = seed
        self.batch_size = batch_size

    def examples(self, step: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which examples are rows `rows` of the global batch of `step`.

        Args:
            step: from 0.
            rows: positions in the global batch, 0..batch_size-1, [n].

        Returns:
            The corpus and the index in it, each int64 [n].
        """
        places = step * self.batch_size + np.asarray(rows, np.int64)
        corpus, draws = deal(places, self.weights)
        indices = np.empty_like(draws)
        for number, stream in enumerate(self.streams):
            here = corpus == number
            indices[here] = in_epochs(draws[here], len(stream.reader), self.seed, number)
        return corpus, indices

    def rows(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows `rows` of the global batch of `step`; see `ShardReader.rows`."""
        corpus, indices = self.examples(step, rows)
        batch: dict[str, np.ndarray] = {}
        for number, stream in enumerate(self.streams):
            here = corpus == number
            for name, part in stream.reader.rows(indices[here]).items():
                whole = batch.setdefault(name, np.empty((len(here), *part.shape[1:]), part.dtype))
                whole[here] = part
        return batch

    def order_fingerprint(self) -> str:
        """SHA-256 of what fixes the order: equal fingerprints mean equal batches at every step."""
        sample = [numbers.tolist() for numbers in self.examples(0, np.arange(64))]
        hashes = [stream.reader.manifest.hash for stream in self.streams]
        facts = (_DEAL, ORDER, self.seed, self.batch_size, self.weights, hashes, sample)
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def deal(places: np.ndarray, weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Deals the places 0, 1, 2, ... out to parts, in shares that hold wherever one stops.

    The parts are halved, and of any number of first places one half gets its share, rounded, the
    other one the rest; likewise within each half. So of the first n places a part has
    n * weight / sum(weights) to within half a place for every halving: one place among up to four
    parts. Whole numbers of any size: nothing drifts.

    Args:
        places: at least 0, [n].
        weights: whole numbers, positive.

    Returns:
        The part of each place, and how many places before it are of the same part, int64 [n].
    """
    if len(weights) == 1:
        return np.zeros(len(places), np.int64), np.asarray(places, np.int64)
    middle = len(weights) // 2
    share, whole = sum(weights[:middle]), sum(weights)

    def first_of(count: np.ndarray) -> np.ndarray:
        """How many of so many places are the first half's: Python's integers do not overflow."""
        return (2 * count.astype(object) * share + whole) // (2 * whole)

    places = np.asarray(places, np.int64)
    before = first_of(places).astype(np.int64)
    first = first_of(places + 1) > before
    parts, draws = np.empty_like(places), np.empty_like(places)
    parts[first], draws[first] = deal(before[first], weights[:middle])
    parts[~first], draws[~first] = deal((places - before)[~first], weights[middle:])
    parts[~first] += middle
    return parts, draws


def _check_weights(directories: Sequence[epath.Path], weights: Sequence[float]) -> None:
    if weights and len(weights) != len(directories):
        raise UserError(
            f"{len(weights)} data_weights for {len(directories)} data directories: give one each, "
            "in their order, or none for the numbers of examples."
        )
    for directory, weight in zip(directories, weights, strict=False):
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"The data weight of {directory} is {weight}: give a number above 0, or leave the "
                "directory out."
            )


def _refuse_strangers(
    directories: Sequence[epath.Path], manifests: Sequence[Manifest], one: int, other: int
) -> None:
    """Two directories that can't be mixed: another tokenizer, length or objective, or the same."""
    first, second = manifests[one], manifests[other]
    both = f"{directories[one]} and {directories[other]}"
    if first.tokenizer_sha256 != second.tokenizer_sha256:
        raise UserError(
            f"{both} come from different tokenizers (SHA-256 {first.tokenizer_sha256[:_HEAD]} and "
            f"{second.tokenizer_sha256[:_HEAD]}): prepare both with the same one."
        )
    for name, flag in (("max_seq_length", "--max-seq-length"), ("objective", "--objective")):
        values = getattr(first, name), getattr(second, name)
        if values[0] != values[1]:
            raise UserError(
                f"{both} have another {name} ({values[0]} and {values[1]}): prepare both with the "
                f"same {flag}."
            )
    if first.hash == second.hash:
        raise UserError(f"{both} hold the same examples: name them once, with a larger weight.")


def _names(directories: Sequence[epath.Path]) -> tuple[str, ...]:
    for length in range(1, max(len(directory.parts) for directory in directories) + 1):
        names = tuple("-".join(directory.parts[-length:]) for directory in directories)
        if len({*names}) == len(names):
            break
    return names


def _whole_numbers(weights: Sequence[float]) -> tuple[int, ...]:
    """The same proportions in whole numbers, in lowest terms: 0.7 and 0.3 are 7 and 3."""
    exact = [fractions.Fraction(str(weight)) for weight in weights]
    denominator = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    return tuple(weight // math.gcd(*whole) for weight in whole)

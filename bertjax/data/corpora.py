"""The data directories of a run: whether they can be mixed, and in which shares."""

import fractions
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from bertjax.data import shards
from bertjax.data.shards import Manifest
from bertjax.data.stream import ShardReader
from bertjax.errors import UserError
from bertjax.text.tokenizer import Tokenizer

_HEAD = 12  # characters of a SHA-256 in a message


class Corpora(NamedTuple):
    """The data directories of a run, which share tokenizer, length and kind of segments."""

    directories: tuple[epath.Path, ...]
    names: tuple[str, ...]
    """The shortest ends of the directories' paths that differ."""
    manifests: tuple[Manifest, ...]
    weights: tuple[int, ...]
    """The corpora's shares of the training examples are proportional to these."""

    @classmethod
    def of(cls, directories: Sequence[epath.PathLike], weights: Sequence[float] = ()) -> "Corpora":
        """Reads the manifests of directories that `bertjax prepare` wrote.

        There is at least one directory. Weights are positive, one per directory, with any sum; by
        default, they are the numbers of examples. Raises `UserError` if the directories can't be
        mixed or the weights are invalid; see also `shards.read_manifest`.
        """
        paths = tuple(map(epath.Path, directories))
        _check_weights(paths, weights)
        manifests = tuple(map(shards.read_manifest, paths))
        for one, other in itertools.combinations(range(len(manifests)), 2):
            _refuse_mismatch(paths, manifests, one, other)
        counts = [manifest.examples("train") for manifest in manifests]
        if 0 in counts:
            empty = paths[counts.index(0)]
            raise UserError(f"{empty}: its train split holds no examples: prepare more text.")
        return cls(paths, _names(paths), manifests, _whole_numbers(weights or counts))

    def check_ids(self, tokenizer: Tokenizer) -> None:
        """Raises `UserError` if a manifest gives special tokens other ids than the tokenizer."""
        names = ("vocab_size", "pad_id", "cls_id", "sep_id", "mask_id", "unk_id")
        for directory, manifest in zip(self.directories, self.manifests, strict=True):
            for name in names:
                said, own = getattr(manifest, name), getattr(tokenizer, name)
                if said != own:
                    raise UserError(
                        f"{directory / shards.MANIFEST}: says {name} {said} where the tokenizer "
                        f"beside it has {own}; restore the file, or prepare the data again."
                    )

    @property
    def manifest(self) -> Manifest:
        """The first manifest; its tokenizer, length and segments are those of all."""
        return self.manifests[0]

    @property
    def shares(self) -> tuple[float, ...]:
        """The corpora's shares of the training examples."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def examples(self, split: str) -> int:
        """Returns the number of examples in a split of all corpora."""
        return sum(manifest.examples(split) for manifest in self.manifests)

    def readers(self, split: str) -> tuple[ShardReader, ...]:
        """Opens a split of every corpus."""
        return tuple(ShardReader(directory, split) for directory in self.directories)

    def setting(self) -> str | dict[str, list]:
        """Returns the immutable setting of a run that stands for its data, as JSON."""
        if len(self.manifests) == 1:
            return self.manifest.hash
        hashes = [manifest.hash for manifest in self.manifests]
        return {"manifests": hashes, "weights": list(self.weights)}


def _check_weights(directories: Sequence[epath.Path], weights: Sequence[float]) -> None:
    if weights and len(weights) != len(directories):
        raise UserError(
            f"{len(weights)} `data_weights` for {len(directories)} data directories: give one for "
            "each, in order, or none for the numbers of examples."
        )
    for directory, weight in zip(directories, weights, strict=False):
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(
                f"The weight of {directory} in `data_weights` is {weight}: give a number above 0, "
                "or leave the directory out."
            )


def _refuse_mismatch(
    directories: Sequence[epath.Path], manifests: Sequence[Manifest], one: int, other: int
) -> None:
    """Refuses two directories that differ in tokenizer, length or segments, or are the same."""
    first, second = manifests[one], manifests[other]
    both = f"{directories[one]} and {directories[other]}"
    if first.tokenizer_sha256 != second.tokenizer_sha256:
        raise UserError(
            f"{both} come from different tokenizers (SHA-256 {first.tokenizer_sha256[:_HEAD]} and "
            f"{second.tokenizer_sha256[:_HEAD]}): prepare both with the same one."
        )
    for name in ("max_seq_length", "segments"):
        if (one_value := getattr(first, name)) != (other_value := getattr(second, name)):
            values = f"{one_value} and {other_value}"
            raise UserError(f"{both} differ in {name} ({values}): prepare both with one `{name}`.")
    if first.hash == second.hash:
        raise UserError(f"{both} hold the same examples: name them once, with a larger weight.")


def _names(directories: Sequence[epath.Path]) -> tuple[str, ...]:
    for length in range(1, max(len(directory.parts) for directory in directories) + 1):
        names = tuple("-".join(directory.parts[-length:]) for directory in directories)
        if len({*names}) == len(names):
            break
    return names


def _whole_numbers(weights: Sequence[float]) -> tuple[int, ...]:
    """Returns the same proportions as integers in lowest terms: 7 and 3 for 0.7 and 0.3."""
    exact = [fractions.Fraction(str(weight)) for weight in weights]
    denominator = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    return tuple(weight // math.gcd(*whole) for weight in whole)

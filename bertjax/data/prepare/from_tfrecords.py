"""Converts TFRecords to shards: pairs that another program drew, unmasked and otherwise unchanged.

Each file is converted alone to shards of training and of held-out examples, in its own order. So
any number of processes gives the same bytes, and a stopped run continues with the remaining files.
"""

import array
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.pairs import SPECIALS_PER_PAIR, Pair
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.example_writer import COUNT
from bertjax.data.prepare.splits import Unit, cutoff_of
from bertjax.data.prepare.token_store import Totals
from bertjax.data.prepare.workers import Workers
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.text.tokenizer import load_tokenizer

# The settings of text, which TFRecords do not record, and their values in a manifest.
UNKNOWN = {"dupe_factor": 0, "short_seq_prob": 0.0, "block_mib": 0, "language": ""}
_HASH = np.dtype("<u8")
_COUNTED_AT_ONCE = 1 << 24


def with_length(config: PrepareConfig, paths: Sequence[epath.Path]) -> PrepareConfig:
    """Returns the configuration with the length of the examples in the files.

    Raises:
        UserError: a setting that applies to text only is not its default, another length is
            configured, or there is no record.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in (*UNKNOWN, "segments"):
        if (value := getattr(config, name)) != defaults[name]:
            raise UserError(
                f"`{name}` is {value}, but {paths[0]} is a TFRecord file with finished examples: "
                f"leave `{name}` out."
            )
    for path in paths:
        for example in tfrecords.read_examples(path):
            length = example.max_seq_length
            if config.max_seq_length not in (defaults["max_seq_length"], length):
                raise UserError(
                    f"`max_seq_length` is {config.max_seq_length}, but the examples of {path} have "
                    f"{length}: leave `max_seq_length` out."
                )
            return dataclasses.replace(config, max_seq_length=length)
    raise UserError(f"{paths[0]}: no record in it, nor in any other input; give other TFRecords.")


def convert(
    config: PrepareConfig,
    workers: Workers,
    paths: Sequence[epath.Path],
    vocabulary: epath.Path,
    directory: epath.Path,
    log: Callable[[str], None],
) -> tuple[Totals, dict[Unit, dict[str, Any]]]:
    """Converts the TFRecords that are not converted yet.

    A hash of an example's text decides whether it is held out, so equal examples stay together.
    The configuration comes from `with_length`; the shards go to `directory`.

    Returns:
        The totals, and a result for each unit (a file's examples of one split), as in pass 2.

    Raises:
        UserError: a split has no example; see also `tfrecords.read_examples`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    options = (str(vocabulary), config.lengths[0], config.held_out, config.seed)
    markers = [directory / f"{number:05d}.json" for number in range(len(paths))]
    calls = [
        (str(marker), str(path), *options)
        for marker, path in zip(markers, paths, strict=True)
        if not marker.exists()
    ]
    workers.run(convert_file, calls, progress="Converting", log=log)
    by_file = [json.loads(marker.read_bytes()) for marker in markers]
    results = {
        Unit(split, (number,), cutoff_of(config.held_out)): result[split]
        for split in shards.SPLITS
        for number, result in enumerate(by_file)
    }
    examples = {
        split: sum(sum(each[split]["lengths"]) for each in by_file) for split in shards.SPLITS
    }
    if not examples["train"] or (config.held_out > 0 and not examples["held_out"]):
        raise UserError(
            f"`held_out` {config.held_out} holds out {examples['held_out']:,} of "
            f"{sum(examples.values()):,} records, which leaves none for training or none for "
            "evaluation: give another share, or 0 for no evaluation."
        )
    _log_copies([marker.with_suffix(".hashes") for marker in markers], config.held_out, log)
    ids = sum(each["ids"] for each in results.values())
    return Totals(blocks=0, documents=0, sentences=0, ids=ids, words=0), results


def convert_file(
    marker: str, path: str, vocabulary: str, max_seq_length: int, held_out: float, seed: int
) -> None:
    """Converts one file.

    Beside the shards it writes token counts, the hashes of all texts (uint64, sorted) and, last,
    the marker: the JSON of a result for each split.
    """
    target, cutoff = epath.Path(marker), cutoff_of(held_out)
    tokenizer = load_tokenizer(vocabulary)
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    sizes = (tokenizer.vocab_size, max_seq_length)
    writers = {split: _SplitWriter(target, split, *sizes) for split in shards.SPLITS}
    hashes = array.array("Q")
    for example in tfrecords.read_examples(path, tokenizer, max_seq_length=max_seq_length):
        record = _encode(example.pair, dtype)
        hashes.append(_text_hash(seed, record))
        writers["held_out" if hashes[-1] < cutoff else "train"].add(example.pair, record)
    results = {split: writer.finish() for split, writer in writers.items()}
    ordered = np.sort(np.frombuffer(hashes, np.uint64)).astype(_HASH)
    write_atomically(target.with_suffix(".hashes"), ordered.tobytes())
    write_atomically(target, json.dumps(results).encode())


class _SplitWriter:
    """Writes a file's examples of one split to shards."""

    def __init__(
        self, marker: epath.Path, split: str, vocab_size: int, max_seq_length: int
    ) -> None:
        self._base = marker.with_name(f"{split}-{marker.stem}")
        self._counts = np.zeros(vocab_size, np.int64)
        self._lengths = np.zeros(max_seq_length + 1, np.int64)
        self._random = 0
        self._records: list[bytes] = []
        self._pairs: list[Pair] = []
        self._files: list[dict[str, Any]] = []

    def add(self, pair: Pair, record: bytes) -> None:
        """Adds an example, given also as a record."""
        self._records.append(record)
        self._pairs.append(pair)
        if len(self._records) == shards.EXAMPLES_PER_FILE:
            self._write()

    def finish(self) -> dict[str, Any]:
        """Writes the remaining examples and the token counts; returns the result of the split."""
        if self._records:
            self._write()
        path = self._base.with_name(f"{self._base.name}.counts")
        write_atomically(path, self._counts.astype(COUNT).tobytes())
        return {
            "files": self._files,
            "lengths": self._lengths.tolist(),
            "random": self._random,
            "ids": int(self._counts.sum()),
        }

    def _write(self) -> None:
        name = f"{self._base.name}-{len(self._files):03d}.array_record"
        file = shards.write_records(self._base.with_name(name), self._records)
        self._files.append(dataclasses.asdict(file))
        ids = np.concatenate([ids for pair in self._pairs for ids in pair[:2]])
        self._counts += np.bincount(ids, minlength=len(self._counts))
        lengths = [len(pair.a) + len(pair.b) + SPECIALS_PER_PAIR for pair in self._pairs]
        self._lengths += np.bincount(lengths, minlength=len(self._lengths))
        self._random += sum(pair.is_random for pair in self._pairs)
        self._records, self._pairs = [], []


def _encode(pair: Pair, dtype: np.dtype) -> bytes:
    a, b = (side.astype(dtype).tobytes() for side in (pair.a, pair.b))
    return shards.encode_bytes(a, b, is_random=pair.is_random, wide=dtype.itemsize == 4)


def _text_hash(seed: int, record: bytes) -> int:
    text = record[shards.FLAG_BYTES :]  # A and B without the label
    digest = hashlib.blake2b(repr(seed).encode() + text, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _log_copies(files: Sequence[epath.Path], held_out: float, log: Callable[[str], None]) -> None:
    examples = sum(file.stat().length for file in files) // _HASH.itemsize
    copies = examples - _count_distinct(files, -(-examples // _COUNTED_AT_ONCE))
    log(
        f"{copies:,} of {examples:,} examples repeat the A and B of another, as a dupe factor "
        "produces: all are kept, and equal ones are all trained on or all held out."
    )
    if held_out > 0:
        log(
            "TFRecords do not say which document an example is from: if they were made with a dupe "
            "factor, held-out text is also trained on, cut in other ways. Prepare the text itself "
            "for a more meaningful held-out loss."
        )


def _count_distinct(files: Sequence[epath.Path], slices: int) -> int:
    """Counts the distinct hashes in sorted files, one slice of their range at a time."""
    count = 0
    for number in range(slices):
        first, last = (number << 64) // slices, (number + 1 << 64) // slices - 1
        found = []
        for file in files:
            hashes = np.frombuffer(file.read_bytes(), _HASH)
            start = np.searchsorted(hashes, np.uint64(first))
            stop = np.searchsorted(hashes, np.uint64(last), side="right")
            found.append(hashes[start:stop])
        count += len(np.unique(np.concatenate(found)))
    return count

"""Old TFRecords to shards: examples that someone else paired, unmasked and kept as they are.

A file is one piece of work, which leaves shards of training and of held-out examples in the file's
own order. So any number of processes gives the same bytes, and a stopped run goes on with the files
that are left.
"""

import array
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax.data import shards, tfrecords
from bertjax.data.pairs import Pair
from bertjax.data.prepare.config import PrepareConfig
from bertjax.data.prepare.segments import Totals
from bertjax.data.prepare.splits import Unit
from bertjax.data.prepare.workers import Workers
from bertjax.errors import UserError
from bertjax.files import write_atomically
from bertjax.text.tokenizer import load_tokenizer

# What a manifest says of the text and its pairing, and TFRecords do not tell.
UNKNOWN = {"dupe_factor": 0, "short_seq_prob": 0.0, "block_mib": 0, "language": ""}
_OF_TEXT = (*UNKNOWN, "segments")
_HASH_RANGE = 1 << 64
_HASH = np.dtype("<u8")
_COUNTED_AT_ONCE = 1 << 24


class Converted(NamedTuple):
    """What became of TFRecords, in the terms of pass 2 (`work.pair`)."""

    totals: tuple[Totals, ...]
    units: list[Unit]
    """A file's examples of a split."""
    results: list[dict[str, Any]]
    """What became of each unit."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a conversion depends on besides the files."""

    max_seq_length: int
    held_out: float
    seed: int
    vocabulary: str
    """Directory of the tokenizer."""


def settle(config: PrepareConfig, paths: Sequence[epath.Path]) -> PrepareConfig:
    """The configuration with the length of the files' examples.

    Raises:
        UserError: a setting that only text has is not its default, the length is another one, or
            there is no record.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in _OF_TEXT:
        if getattr(config, name) != defaults[name]:
            raise UserError(
                f"{name} is {getattr(config, name)}, but {paths[0]} is a TFRecord file, whose "
                f"examples are made already: leave {name} out."
            )
    for path in paths:
        for example in tfrecords.read_examples(path):
            length = example.max_seq_length
            if config.max_seq_length not in (defaults["max_seq_length"], length):
                raise UserError(
                    f"max_seq_length is {config.max_seq_length}, but the examples of {path} were "
                    f"made with {length}: leave max_seq_length out."
                )
            return dataclasses.replace(config, max_seq_length=length)
    raise UserError(
        f"{paths[0]}: no record in it, nor in any other input; give TFRecords with some."
    )


def convert(
    config: PrepareConfig,
    workers: Workers,
    paths: Sequence[epath.Path],
    vocabulary: epath.Path,
    built: epath.Path,
    log: Callable[[str], None],
) -> Converted:
    """Makes shards of TFRecords, those of finished files left as they are.

    A record is held out by a hash of its text, so that equal ones are on the same side.

    Args:
        config: from `settle`.
        workers: who does it.
        paths: the files.
        vocabulary: directory of the tokenizer.
        built: where the shards go.
        log: is given one line at a time about what happens.

    Raises:
        UserError: see `tfrecords.read_examples`; or a split has no example.
    """
    built.mkdir(parents=True, exist_ok=True)
    options = Options(config.lengths[0], config.held_out, config.seed, str(vocabulary))
    markers = [built / f"{number:05d}.json" for number in range(len(paths))]
    left = [
        (str(marker), str(path), options)
        for marker, path in zip(markers, paths, strict=True)
        if not marker.exists()
    ]
    workers.run(convert_file, left, what="Converting", log=log)
    facts = [json.loads(marker.read_bytes()) for marker in markers]
    made = [
        (Unit(split, (number,), _cutoff(config.held_out)), fact[split])
        for split in shards.SPLITS
        for number, fact in enumerate(facts)
    ]
    examples = {
        split: sum(result["examples"] for unit, result in made if unit.split == split)
        for split in shards.SPLITS
    }
    if not examples["train"] or (config.held_out > 0 and not examples["held_out"]):
        raise UserError(
            f"Of {sum(examples.values()):,} records {examples['held_out']:,} would be held out by "
            f"--held-out {config.held_out}, which leaves none for training or none for evaluation: "
            "give another share, or 0 to evaluate on none."
        )
    _tell_of_copies([marker.with_suffix(".hashes") for marker in markers], config.held_out, log)
    ids = sum(result["ids"] for _, result in made)
    totals = Totals(blocks=0, documents=0, sentences=0, ids=ids, words=0)
    return Converted((totals,), [unit for unit, _ in made], [result for _, result in made])


def convert_file(marker: str, path: str, options: Options) -> None:
    """Makes the shards of one file, their token counts, the hashes of their texts (uint64, sorted)
    and, last, the marker (JSON: what became of each split).

    Raises:
        UserError: see `tfrecords.read_examples`.
    """
    target = epath.Path(marker)
    tokenizer = load_tokenizer(options.vocabulary)
    dtype = shards.id_dtype(shards.needs_wide_ids(tokenizer.vocab_size))
    cutoff = _cutoff(options.held_out)
    train, held_out = (
        _Split(target.with_name(f"{split}-{target.stem}"), tokenizer.vocab_size)
        for split in shards.SPLITS
    )
    hashes = array.array("Q")
    for example in tfrecords.read_examples(path, tokenizer, max_seq_length=options.max_seq_length):
        record = _encode(example.pair, dtype)
        hashes.append(_text_hash(options.seed, record))
        (held_out if hashes[-1] < cutoff else train).add(example.pair, record)
    results = {"train": train.finish(), "held_out": held_out.finish()}
    ordered = np.sort(np.frombuffer(hashes, np.uint64)).astype(_HASH)
    write_atomically(target.with_suffix(".hashes"), ordered.tobytes())
    write_atomically(target, json.dumps(results).encode())


class _Split:
    """A file's examples of one split: they are written whenever there are enough for a shard."""

    def __init__(self, base: epath.Path, vocab_size: int) -> None:
        self._base = base
        self._counts = np.zeros(vocab_size, np.int64)
        self._records: list[bytes] = []
        self._ids: list[np.ndarray] = []
        self._result: dict[str, Any] = {"examples": 0, "ids": 0, "random": 0, "files": []}

    def add(self, pair: Pair, record: bytes) -> None:
        """One more example, and how it is written."""
        self._records.append(record)
        self._ids += pair[:2]
        self._result["random"] += pair.is_random
        if len(self._records) == shards.EXAMPLES_PER_FILE:
            self._write()

    def finish(self) -> dict[str, Any]:
        """Writes what is left, and the counts of the tokens; what became of the examples."""
        if self._records:
            self._write()
        path = self._base.with_name(f"{self._base.name}.counts")
        write_atomically(path, self._counts.astype("<i8").tobytes())
        return self._result

    def _write(self) -> None:
        name = f"{self._base.name}-{len(self._result['files']):03d}.array_record"
        file = shards.write_records(self._base.with_name(name), self._records)
        ids = np.concatenate(self._ids)
        self._counts += np.bincount(ids, minlength=len(self._counts))
        self._result["examples"] += len(self._records)
        self._result["ids"] += len(ids)
        self._result["files"].append(dataclasses.asdict(file))
        self._records, self._ids = [], []


def _encode(pair: Pair, dtype: np.dtype) -> bytes:
    a, b = (side.astype(dtype).tobytes() for side in (pair.a, pair.b))
    return shards.encode_bytes(a, b, is_random=pair.is_random, wide=dtype.itemsize == 4)


def _text_hash(seed: int, record: bytes) -> int:
    """Of A and B, whatever the label says of them."""
    text = record[shards.FLAG_BYTES :]
    digest = hashlib.blake2b(repr(seed).encode() + text, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _cutoff(held_out: float) -> int:
    """The hash below which a text is held out."""
    return min(int(held_out * _HASH_RANGE), _HASH_RANGE - 1)


def _tell_of_copies(
    files: Sequence[epath.Path], held_out: float, log: Callable[[str], None]
) -> None:
    examples = sum(file.stat().length for file in files) // _HASH.itemsize
    copies = examples - _distinct(files, parts=-(-examples // _COUNTED_AT_ONCE))
    log(
        f"{copies:,} of {examples:,} examples repeat another one's A and B, as a dupe factor makes "
        "them: all are kept, and equal ones are all trained on or all held out."
    )
    if held_out > 0:
        log(
            "TFRecords do not say which document an example is from: where they were made with a "
            "dupe factor, what is held out is trained on too, cut in other ways. Prepare the text "
            "itself for a held-out loss that means more."
        )


def _distinct(files: Sequence[epath.Path], parts: int) -> int:
    """How many different hashes sorted files hold, counted in equal parts of their range."""
    count = 0
    for part in range(parts):
        first, last = (_HASH_RANGE * part // parts, _HASH_RANGE * (part + 1) // parts - 1)
        held = []
        for file in files:
            hashes = np.frombuffer(file.read_bytes(), _HASH)
            start = np.searchsorted(hashes, np.uint64(first))
            stop = np.searchsorted(hashes, np.uint64(last), side="right")
            held.append(hashes[start:stop])
        count += len(np.unique(np.concatenate(held)))
    return count

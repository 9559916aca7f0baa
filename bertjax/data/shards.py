"""Shards on disk: the record of an example, ArrayRecord files, and the manifest that lists them.

ArrayRecord opens local files only, by their names. Everything else here goes through `epath`.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import tfrecords
from bertjax.data.pairs import SPECIALS_PER_PAIR, Pair
from bertjax.data.segments import SEGMENTS, SegmentKind
from bertjax.errors import UserError
from bertjax.files import CannotWrite, file_sha256, is_local, location, reading, replacing

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
SPLITS = ("train", "held_out")
# Opening a file reads its index, which stays in memory: small files keep both cheap.
EXAMPLES_PER_FILE = 20_000

# One record per chunk, so that a random read decodes one record. Compression would save a fifth of
# ids in 16 bits and make writing four times slower.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# Without read-ahead and threads, seek + read takes 7 us for any file size. The reader's
# read([index]) takes time linear in the number of records (65 to 120 us at 20,000).
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_COPY_BYTES = 1 << 20

_JSON_TYPES = {int: int, str: str, float: (int, float), float | None: (int, float, type(None))}

# A record: one byte of flags, one zero byte, the length of A as uint16, the ids of A, the ids of B.
# A single sequence has no B.
RANDOM, WIDE, SINGLE = 1, 2, 4
FLAG_BYTES, HEADER_BYTES = 2, 4

# ArrayRecord adds a chunk's header and an entry in the file's index to a record.
RECORD_BYTES = HEADER_BYTES + 56
"""Bytes of a record in a file without its ids."""
_BLOCK_BYTES = 1 << 16


def file_bytes(records_bytes: float) -> int:
    """Estimates the size of a file from that of its records: whole blocks, and the index."""
    return (max(1, math.ceil(records_bytes / _BLOCK_BYTES)) + 1) * _BLOCK_BYTES


def encode_bytes(
    a: bytes | memoryview, b: bytes | memoryview, *, is_random: bool, wide: bool
) -> bytes:
    """Encodes an example as a record: ids as bytes of `id_dtype(wide)`, without special tokens.

    An empty B makes a single sequence. `wide` must be `needs_wide_ids(vocab_size)`.
    """
    flags = (RANDOM if is_random else 0) | (WIDE if wide else 0) | (0 if b else SINGLE)
    a_length = len(a) // (4 if wide else 2)
    return bytes((flags, 0)) + a_length.to_bytes(2, "little") + a + b


def decode_pair(record: bytes) -> Pair:
    """Decodes a record; the ids are views of its bytes.

    Raises `ValueError` if the bytes are no such record.
    """
    if len(record) < HEADER_BYTES or record[0] & ~(RANDOM | WIDE | SINGLE) or record[1]:
        raise ValueError("not an example record")
    dtype = id_dtype(bool(record[0] & WIDE))
    if (len(record) - HEADER_BYTES) % dtype.itemsize:
        raise ValueError("an example record of an impossible length")
    ids = np.frombuffer(record, dtype, offset=HEADER_BYTES)
    a_length = int.from_bytes(record[2:4], "little")
    if record[0] & SINGLE:
        if not 0 < a_length == len(ids) or record[0] & RANDOM:
            raise ValueError("a record of a single sequence that has two segments")
    elif not 0 < a_length < len(ids):
        raise ValueError("an example record without a first or second segment")
    return Pair(ids[:a_length], ids[a_length:], bool(record[0] & RANDOM))


def ids_of(record: bytes) -> int:
    """Returns the number of ids in a record without decoding it.

    Raises `IndexError` if the record is empty.
    """
    return (len(record) - HEADER_BYTES) // id_dtype(bool(record[0] & WIDE)).itemsize


def needs_wide_ids(vocab_size: int) -> bool:
    """Returns whether ids of this vocabulary need 32 bits on disk."""
    return vocab_size > 1 << 16


def id_dtype(wide: bool) -> np.dtype:
    """Returns the type of ids on disk."""
    return np.dtype("<u4" if wide else "<u2")


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """One ArrayRecord file of a data directory."""

    name: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class CorpusFile:
    """One text file that the shards were made from."""

    name: str
    """The file's name without its directory; tfds:NAME/CONFIG:VERSION:SPLIT for a data set."""
    bytes: int
    """Size of the text; for a compressed file, of the text in it."""
    sha256: str
    """Digest of the same text."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a data directory and its origin. `manifest.json` is written last."""

    format_version: int
    vocab_size: int
    tokenizer_sha256: str
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    unk_id: int
    max_seq_length: int
    seed: int
    dupe_factor: int
    short_seq_prob: float
    held_out: float
    language: str
    block_mib: int
    blocks: int
    """Number of blocks. It is 0 in shards made from TFRecords, and so are the other properties that
    TFRecords don't store (dupe_factor, short_seq_prob, block_mib, documents, sentences, words)."""
    files: dict[str, tuple[ShardFile, ...]]
    """The shards of the splits "train" and "held_out"."""
    corpus: tuple[CorpusFile, ...]
    documents: int
    sentences: int
    words: int
    tokens: int
    padding: float
    """Average share of padding in a training row."""
    label_1_share: float | None
    """Share of training examples with label 1. None if examples have no label."""
    unigram_entropy: float | None
    """Cross-entropy, in nats per token, of the held-out ids under the add-one-smoothed frequencies
    of the training ids, without special tokens. None without held-out documents."""
    majority: float | None
    """Share of the commoner label among the held-out examples. None without held-out examples, and
    if examples have no label."""
    segments: str
    """The kind of segments that examples hold, a key of `SEGMENTS`."""

    @property
    def id_dtype(self) -> np.dtype:
        """The type of ids in the records."""
        return id_dtype(needs_wide_ids(self.vocab_size))

    @property
    def segment_kind(self) -> SegmentKind:
        """The kind of segments that examples hold."""
        return SEGMENTS[self.segments]

    def examples(self, split: str) -> int:
        """Returns the number of examples in a split."""
        return sum(file.examples for file in self.files[split])

    @property
    def hash(self) -> str:
        """SHA-256 of what training depends on: the examples in order, and how to read them."""
        names = ("format_version", "vocab_size", "tokenizer_sha256", "max_seq_length", "segments")
        names += ("pad_id", "cls_id", "sep_id", "mask_id", "unk_id")
        content: dict[str, Any] = {name: getattr(self, name) for name in names}
        for split in SPLITS:
            content[split] = [(file.examples, file.sha256) for file in self.files[split]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Returns the text of `manifest.json`."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_manifest(directory: epath.PathLike) -> Manifest:
    """Reads the manifest of a data directory and checks the sizes of its files.

    Raises `UserError` if there is no directory or no manifest (preparing never finished), the
    manifest can't be read or has another version, or a shard is missing or has another size.
    """
    directory = location(directory)
    path = directory / MANIFEST
    if not path.exists():
        if command := tfrecords.prepare_command(directory):
            raise UserError(
                f"{directory}: TFRecords, where shards are needed; make those first: `{command}` "
                "(vocab.txt: the vocabulary that the records were made with)."
            )
        raise UserError(
            f"{directory}: no {MANIFEST}; give a directory that `bertjax prepare` has finished "
            "(the same prepare command again finishes one that was stopped)."
        )
    manifest = _parse_manifest(path)
    for file in itertools.chain(*manifest.files.values()):
        shard = directory / file.name
        if not shard.exists():
            raise UserError(f"{shard}: missing, but {path} lists it; run prepare again elsewhere.")
        if (size := shard.stat().length) != file.bytes:
            raise UserError(
                f"{shard}: has {size} bytes where {path} says {file.bytes}; it is damaged, run "
                "prepare again into another directory."
            )
    return manifest


def _parse_manifest(path: epath.Path) -> Manifest:
    try:
        try:
            with reading(path):
                fields = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise TypeError("not JSON") from None
        if not isinstance(fields, dict):
            raise TypeError("no JSON object")
        if (version := fields.get("format_version")) != FORMAT_VERSION:
            raise UserError(
                f"{path}: has format version {version!r} where this bertjax reads "
                f"{FORMAT_VERSION}; prepare the data again, or use the bertjax that made it."
            )
        files = {
            split: tuple(ShardFile(**row) for row in fields["files"][split]) for split in SPLITS
        }
        corpus = tuple(CorpusFile(**row) for row in fields["corpus"])
        manifest = Manifest(**{**fields, "files": files, "corpus": corpus})
        for each in (manifest, *corpus, *itertools.chain(*files.values())):
            _check_types(each)
        for file in itertools.chain(*files.values()):
            # Shards are beside the manifest: a name must not lead elsewhere.
            if "/" in file.name or "\\" in file.name or file.name in ("", ".", ".."):
                raise TypeError(f"the file name {file.name!r}")
        if manifest.segments not in SEGMENTS:
            raise TypeError("its segments can't be right")
        if manifest.max_seq_length < SPECIALS_PER_PAIR + 2 or manifest.vocab_size < 1:
            raise TypeError("its sizes can't be right")
    except (KeyError, TypeError) as error:
        reason = f"is not a manifest of `bertjax prepare` ({error})"
        raise UserError(f"{path}: {reason}; prepare the data again.") from None
    return manifest


def _check_types(record: Any) -> None:
    """Raises TypeError if a field of a dataclass from JSON has another type. Counts are >= 0."""
    for field in dataclasses.fields(record):
        value, kinds = getattr(record, field.name), _JSON_TYPES.get(field.type, object)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"its {field.name} can't be right")
        if field.type is int and value < 0:
            raise TypeError(f"its {field.name} can't be right")


def write_records(path: epath.Path, records: Iterable[bytes]) -> ShardFile:
    """Writes one shard, which gets its name only when it is complete.

    Equal records give equal bytes. ArrayRecord writes local files only: a local file is written
    beside its path and renamed, a remote one is written to a temporary directory and copied. Raises
    `CannotWrite` if there is no space or no permission.
    """
    if is_local(path):
        with replacing(path) as local:
            return _write_local(local, records, path)
    with tempfile.TemporaryDirectory(prefix="bertjax-") as directory:
        local = epath.Path(directory) / path.name
        file = _write_local(local, records, path)
        copy_file(local, path)
    return file


def _write_local(local: epath.Path, records: Iterable[bytes], path: epath.Path) -> ShardFile:
    """Writes a local file on behalf of `path`."""
    # Imported here because the command line's help needs this module but writes nothing.
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    count = 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(local), _WRITER_OPTIONS)
        for record in records:
            writer.write(record)
            count += 1
        writer.close()
    except RuntimeError as error:  # ArrayRecord raises nothing more specific
        reason = str(error).split(";")[0].removeprefix("write() failed: ")
        raise CannotWrite(path, reason) from None
    return ShardFile(path.name, count, local.stat().length, file_sha256(local))


def copy_file(source: epath.Path, target: epath.Path) -> None:
    """Copies a file in pieces."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)


def not_listed(path: epath.Path) -> str:
    """Returns the sentence for a shard with another digest."""
    return (
        f"{path}: is not the file that the manifest lists (another SHA-256); copy it again, or run "
        "prepare again into another directory."
    )


def open_records(path: epath.Path) -> Any:
    """Opens an ArrayRecord reader for a local file: num_records(), seek(index), read(), close().

    It is not thread-safe. After a failed read every later one fails too, until it is opened again.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    return array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)

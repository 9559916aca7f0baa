"""Reads and writes TensorFlow's tensor bundles, the files of `tf.train.Saver`, without TensorFlow.

PREFIX.index is a table with sorted keys (LevelDB's doc/table_format.md). It maps names to protocol
buffers (tensorflow/core/protobuf/tensor_bundle.proto) that locate a tensor's bytes in the files
PREFIX.data-?????-of-?????. Every block and every tensor has a CRC32C, which is checked. Tensors are
read one by one, on demand.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.files import check_downloaded, damaged, reading, write_atomically, writing
from bertjax.protobuf import Fields, Malformed, masked_crc32c

INDEX = ".index"
_REMEDY = "copy the checkpoint again"

_MAGIC = bytes.fromhex("57fb808b247547db")  # 0xdb4775248b80fb57, little-endian
_FOOTER = 48
_TRAILER = 5  # the end of a block: a byte of compression, four of CRC
_MAX_INDEX = 1 << 26  # BERT-large with its moments takes 100 kB
# One byte can repeat all of the previous key, so the size of the file does not bound the keys.
_MAX_KEY, _MAX_KEYS = 1 << 12, 1 << 24
_MAX_AXES = 32
# BundleHeaderProto: one shard, little-endian, version 1.
_HEADER = protobuf.varint_field(1, 1) + protobuf.bytes_field(3, protobuf.varint_field(1, 1))
# tensorflow/core/framework/types.proto
_FLOATS = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}
_DTYPES = {**_FLOATS, 3: "int32", 9: "int64", 10: "bool"}
_KNOWN = ", ".join(_DTYPES.values())
_OTHER_DTYPES = {4: "uint8", 6: "int8", 7: "string", 8: "complex64", 17: "uint16", 20: "resource"}


class Entry(NamedTuple):
    """Type and location of a tensor."""

    dtype: int  # TensorFlow's number of the type
    shape: tuple[int, ...]
    shard: int  # number of the data file
    offset: int  # position of the first byte in the data file
    size: int  # in bytes
    crc32c: int  # masked CRC32C of the bytes
    sliced: bool  # whether the tensor is a partitioned variable, stored in slices


class TensorBundle:
    """A checkpoint whose tensors are read on demand."""

    def __init__(self, prefix: epath.PathLike) -> None:
        """Reads the index and checks that all data files are complete.

        `prefix` is the path without .index, local or remote.

        Raises:
            UserError: the index is absent, is damaged or was written by a big-endian machine; a
                data file is absent or truncated.
        """
        self.prefix = epath.Path(prefix)
        self._index = self.prefix.parent / f"{self.prefix.name}{INDEX}"
        if not self._index.is_file():
            remedy = "give the directory of a TensorFlow checkpoint, or its path up to .index"
            raise UserError(f"{self._index}: no such file; {remedy}.")
        try:
            with reading(self._index):
                if self._index.stat().length > _MAX_INDEX:
                    raise Malformed(f"larger than {_MAX_INDEX >> 20} MiB, the maximum of an index")
                index = self._index.read_bytes()
            check_downloaded(index, self._index)
            header, self._entries = _read_index(index)
            self._shards, big_endian = protobuf.number(header, 1), protobuf.number(header, 2)
        except Malformed as error:
            damaged(self._index, error, _REMEDY)
        if big_endian:
            remedy = "save the checkpoint again on a little-endian one"
            raise UserError(f"{self._index}: written by a big-endian machine; {remedy}.")
        self._check_shards()

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._entries[name].shape

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor as a read-only array and checks its CRC32C.

        Raises `UserError` for damaged bytes, an unsupported type, and a partitioned variable.
        """
        entry = self._entries[name]
        if entry.dtype not in _DTYPES:
            kind = _OTHER_DTYPES.get(entry.dtype, f"number {entry.dtype}")
            reason = f"the tensor {name} is of TensorFlow's type {kind}"
            raise UserError(f"{self._index}: {reason}; only {_KNOWN} can be read.")
        dtype = jnp.dtype(_DTYPES[entry.dtype])
        if entry.sliced:
            reason = f"the tensor {name} is a partitioned variable"
            raise UserError(f"{self._index}: {reason}; save it without a partitioner.")
        tensor = f"the tensor {name} {list(entry.shape)}"
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            reason = f"{tensor} of {dtype} can't have {entry.size:,} bytes"
            damaged(self._index, reason, _REMEDY)
        path = self._shard(entry.shard)
        with reading(path), path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size or masked_crc32c(data) != entry.crc32c:
            damaged(path, f"{tensor} does not have the CRC32C it was saved with", _REMEDY)
        return np.frombuffer(data, dtype).reshape(entry.shape)

    def _shard(self, number: int) -> epath.Path:
        return self.prefix.parent / f"{self.prefix.name}.data-{number:05}-of-{self._shards:05}"

    def _check_shards(self) -> None:
        ends: dict[int, tuple[int, str]] = {}
        for name, entry in self._entries.items():
            if not entry.sliced:
                end = (entry.offset + entry.size, name)
                ends[entry.shard] = max(ends.get(entry.shard, end), end)
        for number in range(self._shards):
            path = self._shard(number)
            if not path.is_file():
                reason = f"no such file; {self._index.name} names {self._shards} data files"
                raise UserError(f"{path}: {reason}: put this one beside it.")
            end, name = ends.get(number, (0, ""))
            if (length := path.stat().length) < end:
                reason = f"cut off at byte {length:,}: the tensor {name} ends at {end:,}"
                raise UserError(f"{path}: {reason}; {_REMEDY}.")


def _read_index(data: bytes) -> tuple[Fields, dict[str, Entry]]:
    """Returns the header, a BundleHeaderProto, and the entry of every tensor."""
    if data[-len(_MAGIC) :] != _MAGIC or len(data) < _FOOTER:
        raise Malformed("it does not end as an index does")
    footer = data[-_FOOTER:]
    metadata, at = _handle(footer, 0)
    blocks, at = _handle(footer, at)
    if list(_block(data, *metadata)) or any(footer[at : -len(_MAGIC)]):
        raise Malformed("it does not end as an index does")
    header: Fields | None = None
    entries: dict[str, Entry] = {}
    end = total = 0
    for _, value in _block(data, *blocks):
        (offset, size), _ = _handle(value, 0)
        if offset < end:  # a small file could otherwise name one block any number of times
            raise Malformed(f"the block at byte {offset:,} is out of order")
        end = offset + size + _TRAILER
        for key, message in _block(data, offset, size):
            total += len(key)
            if total > _MAX_KEYS:
                raise Malformed(f"its names take more than {_MAX_KEYS >> 20} MiB")
            if not key:
                header = protobuf.fields(message)
            elif key[0]:  # a zero byte begins the key of a slice
                try:
                    name = key.decode()
                except UnicodeDecodeError:
                    raise Malformed("a name is not UTF-8") from None
                entries[name] = _entry(protobuf.fields(message))
    if header is None:
        raise Malformed("it has no header")
    shards = protobuf.number(header, 1)
    if not 0 < shards < 100_000 or any(not 0 <= e.shard < shards for e in entries.values()):
        raise Malformed("a number of a data file is out of range")
    return header, entries


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values; a key is stored without the prefix shared with the previous key."""
    end = offset + size
    if end + _TRAILER > len(data):
        raise Malformed("cut off")
    (crc,) = struct.unpack_from("<I", data, end + 1)
    if masked_crc32c(data[offset : end + 1]) != crc:
        raise Malformed(f"the block at byte {offset:,} does not have its CRC32C")
    compression, block = data[end], data[offset:end]
    if compression:
        how = "snappy" if compression == 1 else f"number {compression}"
        raise Malformed(f"the block at byte {offset:,} is compressed by {how}")
    if size < 4:
        raise Malformed(f"the block at byte {offset:,} is too short")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    last = size - 4 - 4 * restarts
    at, key = 0, b""
    while at < last:
        shared, at = protobuf.varint(block, at)
        added, at = protobuf.varint(block, at)
        length, at = protobuf.varint(block, at)
        if shared > len(key) or at + added + length > last:
            raise Malformed(f"the block at byte {offset:,} has a key that is out of range")
        if shared + added > _MAX_KEY:
            raise Malformed(f"the block at byte {offset:,} has a key of {shared + added:,} bytes")
        key = key[:shared] + block[at : at + added]
        at += added + length
        yield key, block[at - length : at]


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Reads (offset, size) of a block; returns them and the position behind them."""
    offset, at = protobuf.varint(data, at)
    size, at = protobuf.varint(data, at)
    return (offset, size), at


def _entry(fields: Fields) -> Entry:
    """Reads a BundleEntryProto."""
    shapes = [protobuf.fields(each) for each in protobuf.messages(fields, 2)]
    dims = [protobuf.fields(dim) for each in shapes for dim in protobuf.messages(each, 2)]
    shape = tuple(protobuf.number(dim, 1) for dim in dims)
    if any(size >= 1 << 63 for size in shape):
        raise Malformed("a shape is negative")
    if len(shape) > _MAX_AXES or math.prod(size for size in shape if size) >= 1 << 60:
        raise Malformed("a shape is too large for an array")
    shard, offset, size, crc32c = (protobuf.number(fields, field) for field in (3, 4, 5, 6))
    return Entry(protobuf.number(fields, 1), shape, shard, offset, size, crc32c, 7 in fields)


def write_bundle(prefix: epath.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes PREFIX.data-00000-of-00001 and then PREFIX.index.

    Raises `CannotWrite` if there is no space or no permission, and `KeyError` for a type of array
    that the reader does not know.
    """
    numbers = {name: number for number, name in _DTYPES.items()}
    pairs, offset = [(b"", _HEADER)], 0
    data = prefix.parent / f"{prefix.name}.data-00000-of-00001"
    with writing(data), data.open("wb") as file:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[0].encode()):
            content = np.ascontiguousarray(tensor).tobytes()
            dims = (protobuf.bytes_field(2, protobuf.varint_field(1, n)) for n in tensor.shape)
            entry = (
                protobuf.varint_field(1, numbers[tensor.dtype.name]),
                protobuf.bytes_field(2, b"".join(dims)),
                protobuf.varint_field(4, offset),
                protobuf.varint_field(5, len(content)),
                protobuf.fixed32_field(6, masked_crc32c(content)),
            )
            pairs.append((name.encode(), b"".join(entry)))
            file.write(content)
            offset += len(content)
    write_atomically(prefix.parent / f"{prefix.name}{INDEX}", _table(pairs))


def _table(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns a table of sorted keys and values, with a block for every 64 of them."""
    out = bytearray()

    def put(block: bytes) -> bytes:
        handle = protobuf.varint_bytes(len(out)) + protobuf.varint_bytes(len(block))
        stored = block + b"\0"  # not compressed
        out.extend(stored + struct.pack("<I", masked_crc32c(stored)))
        return handle

    parts = [pairs[begin : begin + 64] for begin in range(0, len(pairs), 64)]
    index = [(part[-1][0], put(_new_block(part))) for part in parts]
    footer = put(_new_block([])) + put(_new_block(index))
    return bytes(out) + footer.ljust(_FOOTER - len(_MAGIC), b"\0") + _MAGIC


def _new_block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns a block in which each key is a restart, so that none is stored as a difference."""
    data, restarts = bytearray(), []
    for key, value in pairs:
        restarts.append(len(data))
        sizes = (0, len(key), len(value))
        data += b"".join(map(protobuf.varint_bytes, sizes)) + key + value
    restarts = restarts or [0]
    return bytes(data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))

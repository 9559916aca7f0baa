"""Google's binary formats: protocol buffers, the masked CRC32C, and the framing of TFRecord files.

TensorFlow's checkpoints, TFRecord files and SentencePiece's models are read with these functions
alone, and TensorBoard's event files are written with them.

Formats: protobuf.dev/programming-guides/encoding, tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Callable, Sequence

import numpy as np

from bertjax.errors import UserError

Fields = dict[int, list[int | bytes]]
"""The values of a message by field number, in order, not decoded further."""

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
RECORD_HEADER_BYTES = _LENGTH.size + _CRC.size
_MAX_RECORD_BYTES = 1 << 26


class Malformed(Exception):
    """Bytes are not in the expected format; every decoder below raises it."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Decodes a base-128 number, lowest digit first; returns it and the position behind it."""
    if at < len(data) and data[at] < 0x80:  # most have one digit
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte and shift:
            break  # no encoder writes a last digit of 0
        if byte < 0x80:
            return value, at
    raise Malformed("a number is too long")


def fields(message: bytes) -> Fields:
    """Decodes the fields of a message."""
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = int.from_bytes(message[at : at + size], "little"), at + size
        elif wire == 2:
            size, at = varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise Malformed(f"an entry has a field of wire type {wire}")
        if at > len(message):
            raise Malformed("an entry is cut off")
        found.setdefault(number, []).append(value)
    return found


def messages(found: Fields, field: int) -> list[bytes]:
    """Returns the values of a field that are bytes: messages, strings, packed numbers."""
    return [value for value in found.get(field, []) if isinstance(value, bytes)]


def number(found: Fields, field: int, default: int = 0) -> int:
    """Returns the value of a number field, the last one if it is repeated."""
    value = found.get(field, [default])[-1]
    if not isinstance(value, int):
        raise Malformed("an entry has text where a number should be")
    return value


def float32(found: Fields, field: int) -> float:
    """Returns the value of a float field; 0 if it is absent."""
    bits = number(found, field)
    if bits >= 1 << 32:
        raise Malformed("an entry has a large number where one of 32 bits should be")
    return struct.unpack("<f", bits.to_bytes(4, "little"))[0]


def packed_varints(fields: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the numbers of packed fields, all at once.

    Returns:
        The numbers of all fields one after the other, int64 [N]. Offsets of each field's first
        number, followed by N, int64 [len(fields) + 1].
    """
    data = np.frombuffer(b"".join(fields), np.uint8)
    ends = data < 0x80
    counts = np.zeros(len(data) + 1, np.int64)
    np.cumsum(ends, out=counts[1:])
    bounds = np.cumsum([0, *map(len, fields)])
    # Every field that is not empty ends with the last digit of a number.
    if not ends[bounds[1:][np.diff(bounds) > 0] - 1].all():
        raise Malformed("a number is cut off")
    offsets = counts[bounds]
    if offsets[-1] == len(data):  # every number has one digit
        return data.astype(np.int64), offsets
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    place = np.arange(len(data)) - starts[counts[:-1]]
    # The same limits as in `varint`; 64 bits have ten digits, of which the last is 1.
    if (ends & (place > 0) & (data == 0)).any() or (data[place >= 9] > 1).any():
        raise Malformed("a number is too long")
    digits = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(digits, starts).view(np.int64), offsets


def varint_field(field: int, value: int) -> bytes:
    """Encodes a field with an unsigned number; 0, the default, takes no bytes."""
    return varint_bytes(field << 3) + varint_bytes(value) if value else b""


def bytes_field(field: int, value: bytes) -> bytes:
    """Encodes a field with a message, a string or packed numbers."""
    return varint_bytes(field << 3 | 2) + varint_bytes(len(value)) + value


def fixed32_field(field: int, value: int) -> bytes:
    """Encodes a field with 32 bits."""
    return varint_bytes(field << 3 | 5) + _CRC.pack(value)


def float32_field(field: int, value: float) -> bytes:
    """Encodes a float field; a value beyond float32 becomes infinite."""
    return varint_bytes(field << 3 | 5) + np.float32(value).tobytes()


def float64_field(field: int, value: float) -> bytes:
    """Encodes a double field."""
    return varint_bytes(field << 3 | 1) + struct.pack("<d", value)


def varint_bytes(number: int) -> bytes:
    """Encodes an unsigned number in base 128, lowest digit first."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(digits) + bytes([number])


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC32C, rotated and shifted as LevelDB stores it."""
    try:
        import google_crc32c
    except ImportError:
        raise UserError(
            "TensorFlow's files are checked by google-crc32c, which is not installed: pip install "
            "google-crc32c."
        ) from None
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    """Frames a record as TFRecord files do: its length and its bytes, each with a CRC32C."""
    length = _LENGTH.pack(len(record))
    return b"".join(part + _CRC.pack(masked_crc32c(part)) for part in (length, record))


def is_record_header(data: bytes) -> bool:
    """Whether RECORD_HEADER_BYTES bytes are the length of a record and its CRC32C."""
    length, crc = data[: _LENGTH.size], data[_LENGTH.size :]
    return len(data) == RECORD_HEADER_BYTES and masked_crc32c(length) == _CRC.unpack(crc)[0]


def next_record(read: Callable[[int], bytes]) -> bytes | None:
    """Reads the next framed record; None at the end.

    `read` returns as many bytes as it is asked for, fewer at the end of the file.
    """
    if not (header := read(RECORD_HEADER_BYTES)):
        return None
    (length,) = _LENGTH.unpack(_checked(header, _LENGTH.size, "the CRC32C of its length"))
    if length > _MAX_RECORD_BYTES:
        raise Malformed(f"{length} bytes long")
    return _checked(read(length + _CRC.size), length, "its CRC32C")


def _checked(data: bytes, size: int, crc: str) -> bytes:
    """Returns the bytes before a CRC32C that they have."""
    if len(data) < size + _CRC.size:
        raise Malformed("the file ends in it")
    if masked_crc32c(data[:size]) != _CRC.unpack(data[size:])[0]:
        raise Malformed(f"{crc} is wrong")
    return data[:size]

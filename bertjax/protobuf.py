"""What Google's file formats share: protocol buffers' wire format, and the masked CRC32C.

TensorFlow's checkpoints and records and SentencePiece's models are read with nothing else, and
event files are written (protobuf.dev/programming-guides/encoding).
"""

import struct
from collections.abc import Sequence

import numpy as np

from bertjax.errors import UserError

Fields = dict[int, list[int | bytes]]
"""The values of a message by their fields' numbers, in order; none of them decoded further."""


class Malformed(Exception):
    """The bytes are not what they should be; the message says what is wrong with them."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in base 128, the lowest digit first, and where the reading ended.

    Raises:
        Malformed: it is cut off or too long.
    """
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
            break  # a last digit of 0, which nobody writes
        if byte < 0x80:
            return value, at
    raise Malformed("a number is too long")


def fields(message: bytes) -> Fields:
    """The fields of a protocol buffer.

    Raises:
        Malformed: it is none.
    """
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
    """The values of a field that are bytes: messages, strings, packed numbers."""
    return [value for value in found.get(field, []) if isinstance(value, bytes)]


def number(found: Fields, field: int, default: int = 0) -> int:
    """A field that is a number; the last where it is repeated.

    Raises:
        Malformed: it is text.
    """
    value = found.get(field, [default])[-1]
    if not isinstance(value, int):
        raise Malformed("an entry has text where a number should be")
    return value


def float32(found: Fields, field: int) -> float:
    """A field that is a number of 32 bits with a fraction; what is absent is 0.

    Raises:
        Malformed: it is something else.
    """
    bits = number(found, field)
    if bits >= 1 << 32:
        raise Malformed("an entry has a large number where one of 32 bits should be")
    return struct.unpack("<f", bits.to_bytes(4, "little"))[0]


def packed_varints(fields: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of packed fields, all decoded at once.

    Args:
        fields: the bytes of each.

    Returns:
        The numbers of all fields one after the other, int64 [numbers], and where those of each
        field begin, and the number of them: int64 [len(fields) + 1].

    Raises:
        Malformed: a number is cut off or too long.
    """
    data = np.frombuffer(b"".join(fields), np.uint8)
    ends = data < 0x80
    counts = np.zeros(len(data) + 1, np.int64)
    np.cumsum(ends, out=counts[1:])
    bounds = np.cumsum([0, *map(len, fields)])
    # Where no field is empty, each has to end with a number: else two fields share one.
    if not ends[bounds[1:][np.diff(bounds) > 0] - 1].all():
        raise Malformed("a number is cut off")
    offsets = counts[bounds]
    if offsets[-1] == len(data):  # every number has one digit
        return data.astype(np.int64), offsets
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    place = np.arange(len(data)) - starts[counts[:-1]]
    # As in `varint`, and here of 64 bits: ten digits, of which the last is 1.
    if (ends & (place > 0) & (data == 0)).any() or (data[place >= 9] > 1).any():
        raise Malformed("a number is too long")
    digits = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(digits, starts).view(np.int64), offsets


def varint_field(field: int, value: int) -> bytes:
    """A field that is a number from 0 on; nothing if it is 0, which is what an absent one is."""
    return _varint(field << 3) + _varint(value) if value else b""


def bytes_field(field: int, value: bytes) -> bytes:
    """A field that is bytes: a message, a string, packed numbers."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def float32_field(field: int, value: float) -> bytes:
    """A field that is a number of 32 bits with a fraction; one too large for them is infinite."""
    return _varint(field << 3 | 5) + np.float32(value).tobytes()


def float64_field(field: int, value: float) -> bytes:
    """A field that is a number of 64 bits with a fraction."""
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(digits) + bytes([number])


def masked_crc32c(data: bytes) -> int:
    """The CRC32C as LevelDB keeps it: rotated and shifted, so that a sum of sums is no sum.

    Raises:
        UserError: google-crc32c is not installed.
    """
    try:
        import google_crc32c
    except ImportError:
        raise UserError(
            "TensorFlow's files are checked by google-crc32c, which is not installed: pip install "
            "google-crc32c."
        ) from None
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

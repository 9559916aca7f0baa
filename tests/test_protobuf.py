"""Packed numbers decoded at once and one by one; framed records."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjax import protobuf


def one_by_one(data):
    numbers, at = [], 0
    while at < len(data):
        number, at = protobuf.varint(data, at)
        if number >= 1 << 64:
            raise protobuf.Malformed("more than 64 bits")
        numbers.append(number - (1 << 64) * (number >> 63))
    return numbers


def encoded(number):
    digits = bytearray()
    number %= 1 << 64
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


@given(st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 300))))
def test_packed_numbers_come_back(fields):
    numbers, offsets = protobuf.packed_varints([b"".join(map(encoded, field)) for field in fields])
    assert [numbers[start:stop].tolist() for start, stop in itertools.pairwise(offsets)] == fields


@given(st.lists(st.binary(max_size=25)))
def test_any_bytes_decode_as_one_by_one(fields):
    try:
        expected = [one_by_one(field) for field in fields]
    except protobuf.Malformed:
        with pytest.raises(protobuf.Malformed):
            protobuf.packed_varints(fields)
    else:
        numbers, offsets = protobuf.packed_varints(fields)
        assert numbers.tolist() == [number for field in expected for number in field]
        assert (offsets[1:] - offsets[:-1]).tolist() == [*map(len, expected)]


def test_a_number_that_continues_in_the_next_field_is_refused():
    with pytest.raises(protobuf.Malformed, match="cut off"):
        protobuf.packed_varints([b"\x80", b"", b"\x01"])


@given(st.lists(st.binary(max_size=40)))
def test_framed_records_come_back(records):
    stream = io.BytesIO(b"".join(map(protobuf.framed, records)))
    assert list(iter(lambda: protobuf.next_record(stream.read), None)) == records


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_damaged_record_is_refused(record, data):
    framed, header = protobuf.framed(record), protobuf.RECORD_HEADER_BYTES
    assert protobuf.is_record_header(framed[:header])
    place = data.draw(st.integers(0, len(framed) - 1))
    flipped = bytearray(framed)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (framed[: place or 1], bytes(flipped)):
        with pytest.raises(protobuf.Malformed):
            protobuf.next_record(io.BytesIO(damaged).read)
    assert protobuf.is_record_header(bytes(flipped[:header])) == (place >= header)

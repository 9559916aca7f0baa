"""What many packed numbers at once are, against the same one by one."""

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
def test_any_bytes_are_what_they_are_one_by_one(fields):
    try:
        expected = [one_by_one(field) for field in fields]
    except protobuf.Malformed:
        with pytest.raises(protobuf.Malformed):
            protobuf.packed_varints(fields)
    else:
        numbers, offsets = protobuf.packed_varints(fields)
        assert numbers.tolist() == [number for field in expected for number in field]
        assert (offsets[1:] - offsets[:-1]).tolist() == [*map(len, expected)]


def test_a_number_that_goes_on_in_the_next_field_is_cut_off():
    with pytest.raises(protobuf.Malformed, match="cut off"):
        protobuf.packed_varints([b"\x80", b"", b"\x01"])

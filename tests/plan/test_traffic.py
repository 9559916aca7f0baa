"""Tests the bytes that operations move between HBM and the chip."""

import pytest

from bertjax.plan.traffic import hbm_bytes

ROW = 256 * 128 * 2


@pytest.mark.parametrize(
    ("computation", "name", "moved"),
    [
        ("outer_body", "product.1", 2 * ROW),  # its kernel lies on the chip
        ("outer_body", "stack", ROW + ROW + 4),  # one of six rows is written
        ("outer_body", "inner", 0),  # its body counts
        ("ENTRY", "moment", 3 * 32 * 128 * 4),
        ("ENTRY", "stack.0", 6 * ROW),
        ("ENTRY", "received", 0),
        ("ENTRY", "sent", 2 * 32 * 128 * 4),
        ("ENTRY", "begun.1", ROW),  # its other result is its argument
    ],
)
def test_bytes_of_an_operation(program, computation, name, moved):
    defined = {each.name: each for each in program[computation]}
    assert hbm_bytes(program, defined[name], defined) == moved

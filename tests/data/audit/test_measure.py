"""Tests of counting sentence ends."""

import pytest

from bertjax.data.audit import measure


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("Mr. Smith said so.", 1),
        ('"Yes!" he said. "No."', 1),
        ("One. Two? Three! Four.", 3),
        ("版本 3.5 是新的。它很快。好!", 2),
        ("यह एक है। यह दो है। यह तीन है।", 2),
        ("Dies ist z. B. gut.", 1),
    ],
)
def test_ends_of_sentences_inside_a_line(line, ends):
    assert measure._ends_inside(line) == ends

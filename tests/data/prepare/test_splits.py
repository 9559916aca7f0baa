"""Tests of grouping blocks into units."""

import numpy as np

from bertjax.data.prepare import splits


def test_blocks_of_few_documents_are_grouped():
    grouped = splits._group_blocks(np.array([3, 0, 1, 0, 1, 1, 5, 1]), 2)
    assert grouped == [(0,), (2, 4), (5, 6, 7)]
    assert splits._group_blocks(np.array([0, 0]), 2) == []

"""The compiler's estimate of a layer of BERT-base, forward and backward, against its products."""

import pytest

# The lowest effort does not order programs, and the default takes minutes.
pytestmark = pytest.mark.slow

LAYER = ("--program", "layer", "--topology", "v5e:1x1")


# The ratios of docs/performance.md, and a tenth.
def test_a_layer_does_not_become_slower(cycles):
    found = cycles(*LAYER, "--length", "128", "--batch", "64")
    assert 1.0 < found["cycles_ratio"] < 1.1 * 1.55


def test_a_layer_of_long_rows_does_not_become_slower(cycles):
    found = cycles(*LAYER, "--length", "512", "--batch", "16")
    assert 1.0 < found["cycles_ratio"] < 1.1 * 2.23
    # `bertjax plan` finds the arrays that lie in HBM at the peak; between small ones are gaps.
    assert 0.95 < found["arrays_at_peak_gib"] / found["peak_gib"] < 1.05

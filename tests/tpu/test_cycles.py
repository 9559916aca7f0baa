"""The compiler's estimate of a layer of BERT-base, forward and backward, against its products."""

import importlib.util

import pytest

pytestmark = [
    pytest.mark.slow,  # the lowest effort does not order programs, and the default takes minutes
    pytest.mark.tpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed: pip install '.[tpu]' (Linux on x86-64) brings it",
    ),
]

LAYER = ("--program", "layer", "--topology", "v5e:1x1")


# The ratios of docs/performance.md, and a tenth.
@pytest.mark.parametrize(("length", "batch", "ratio"), [("128", "64", 1.55), ("512", "16", 2.23)])
def test_a_layer_does_not_become_slower(cycles, length, batch, ratio):
    found = cycles(*LAYER, "--length", length, "--batch", batch)
    assert 1.0 < found["cycles_ratio"] < 1.1 * ratio
    # `bertjax plan` finds the arrays that lie in HBM at the peak.
    assert 0.95 < found["arrays_at_peak_gib"] / found["peak_gib"] < 1.05

"""Tests what a plan says."""

import pytest

from bertjax.plan import text


def test_says_memory_time_and_price(facts):
    told = "\n".join(text.lines(facts, hourly_rate=1.5))
    assert "Fits: 4.00 of 15.75 GiB HBM a device at the peak, 11.75 GiB left." in told
    assert "Predicted step: 100.0 ms, 327,680 tokens/s, 245,760 without padding." in told
    assert "takes 5.00 times that: a predicted MFU of 20.0%." in told
    assert "matrix products 75.0%, dropout 25.0%" in told
    assert "25.0 ms for matrix products, 10.0 ms for 8.2 GB of HBM traffic, 12.0 ms" in told
    assert "300.0 MB    50 all-gather over data, f32, operations wait" in told
    assert "36,000 steps: 1.0 hours, 4.0 chip-hours, 6.00 at 1.5 each." in told


def test_says_what_is_not_known(facts):
    seconds = {**facts["seconds"], "waiting_for_chips": None}
    roofline = {**facts["roofline"], "exchange": None}
    told = "\n".join(text.lines({**facts, "seconds": seconds, "roofline": roofline}))
    assert "bandwidth between chips is not known" in told
    assert "unknown between chips" in told
    assert "`hourly_rate` gives the price" in told
    assert "Only the hardware shows" in told


@pytest.mark.parametrize(
    ("predicted", "words"), [(1.6, "1.6 times"), (1.4, "1.40 times"), (0.6, "0.60 of")]
)
def test_explains_a_large_difference_from_the_roofline(predicted, words):
    told = text.difference(predicted, 1.0)
    assert told.startswith(f"The compiler expects {words} the roofline")
    assert (":" in told) == (not 1 / 1.5 <= predicted <= 1.5)


def test_a_step_that_does_not_fit_has_three_ways_out(too_large):
    told = text.too_large(too_large)
    assert (
        "needs about 41.0 GiB HBM a device and the compiler has 16.0, 25.0 GiB too little" in told
    )
    # 40 GiB of temporaries in four parts, of which two are there already.
    assert "`accumulation` 8 (about 11.0 GiB" in told
    assert "`batch_size` 64 (as much memory; 4 times the steps for the same rows)" in told
    assert "`execution.remat` full (the products take 1.25 times as long)" in told


def test_a_step_of_one_row_that_does_not_fit_is_split_otherwise(too_large):
    told = text.too_large({**too_large, "rows": 8})
    assert "accumulation" not in told
    assert "`mesh.fsdp`" in told


def test_a_table_has_a_row_for_each_plan(facts, too_large):
    header, fits, large = text.table(["one.py", "other.py"], [facts, too_large], 2.0)
    assert header.split()[-1] == "price"
    assert fits.split() == ["one.py", "4.00", "100.0", "327,680", "5.00", "10.0", "1.0", "8.0"]
    assert large.split()[:3] == ["other.py", "needs", "41.0"]

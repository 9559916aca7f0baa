"""Tests the table of chips and the names of topologies."""

import pytest

from bertjax.errors import UserError
from bertjax.plan.chips import CHIPS, parse_topology
from bertjax.train.telemetry.mfu import peak_flops


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e:1x1", 1), ("v5e:16x16", 256), ("v4:2x2x1", 4), ("v5p:8x8x16", 1024), ("tpu7x:2x2x2", 8)],
)
def test_reads_names(name, chips):
    topology = parse_topology(name)
    assert (topology.name, topology.chips) == (name, chips)


@pytest.mark.parametrize(
    "name", ["v5e:3x3", "v5e:0x2", "v5e:2x2x1", "v5p:2x2", "v6e:32x32", "v5e:1x2", "v5p:2x2x0"]
)
def test_refuses_slices_that_do_not_exist(name):
    with pytest.raises(UserError, match=f"{name}: there is no such slice. Slices of {name[:3]}"):
        parse_topology(name)


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "2x2", "v5e:axb", "v5e:2x2 "])
def test_names_the_chips_that_are_known(name):
    with pytest.raises(UserError, match=r"unknown. Known are v5e and v6e .* v4, v5p, tpu7x"):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "kind", "clock"),
    [
        ("v4", "TPU v4", 1.05),
        ("v5e", "TPU v5 lite", 1.5),
        ("v5p", "TPU v5", 1.75),
        ("v6e", "TPU v6 lite", 1.75),
        ("tpu7x", "TPU7x", 2.2),
    ],
)
def test_peaks_agree_with_those_of_telemetry_and_give_the_clock(name, kind, clock):
    chip = CHIPS[name]
    assert chip.tflops * 1e12 == peak_flops(kind, "bfloat16")
    assert chip.clock / 1e9 == pytest.approx(clock, rel=0.003)  # as the data sheets round

"""Tests which variants a search compiles."""

import pytest

from bertjax.plan.config import PlanConfig
from bertjax.plan.search import CompilerCrash, flags, search
from bertjax.pretrain.config import SecondPhase


def run(fits, milliseconds=lambda flags: 100.0, **options):
    """Searches a step of 64 rows on four chips; returns the flags that were compiled."""
    config = PlanConfig(topology="v5e:2x2", batch_size=64, **options)
    notes = []

    def compiled(flags):
        memory = {"peak_gib": 1.0, "needed_gib": 20.0, "available_gib": 16.0}
        seconds = {"step": milliseconds(flags) / 1e3}
        return {"fits": fits(flags), "memory": memory, "seconds": seconds, "devices": 4}

    return [name for name, _ in search(config, compiled, notes.append)], notes


def value(flags, name):
    given = flags.split() if isinstance(flags, str) else flags
    defaults = {"--execution.remat": "none", "--accumulation": "1", "--mesh.fsdp": "1"}
    return given[given.index(name) + 1] if name in given else defaults[name]


def test_a_step_that_fits_needs_neither_microbatches_nor_recomputation():
    names, notes = run(lambda flags: True)
    assert [value(name, "--execution.remat") for name in names] == ["none"] * 3
    assert {value(name, "--accumulation") for name in names} == {"1"}
    assert "--execution.scan-layers" in names[1]
    assert value(names[2].split(), "--mesh.fsdp") == "4"
    assert len(notes) == 3


def test_recomputation_is_tried_where_it_saves_microbatches():
    least = {"none": 4, "dots": 2, "full": 2}

    def fits(flags):
        remat = value(flags, "--execution.remat")
        return int(value(flags, "--accumulation")) >= least[remat]

    names, notes = run(fits, lambda flags: 90.0 if "dots" in flags else 100.0)
    pairs = [(value(n, "--execution.remat"), value(n, "--accumulation")) for n in names]
    assert pairs[:5] == [("none", "1"), ("none", "2"), ("none", "4"), ("dots", "1"), ("dots", "2")]
    assert pairs[5] == ("full", "1")  # no fewer microbatches than dots, so not tried further
    assert set(pairs[6:]) == {("dots", "2")}  # the fastest goes on
    assert "does not fit, 20.0 of 16.0 GiB" in notes[0]


def test_a_crash_of_the_compiler_is_told_and_passed_over():
    config = PlanConfig(topology="v5e:2x2", batch_size=4)

    def compiled(flags):
        raise CompilerCrash("The compiler crashed.")

    notes = []
    assert list(search(config, compiled, notes.append)) == []
    assert notes[0].endswith("The compiler crashed.")


@pytest.mark.parametrize("phase", [1, 2])
def test_flags_are_those_that_differ_from_the_recipe(phase):
    second = SecondPhase(data="other", after_steps=10, accumulation=2)
    config = PlanConfig(data="shards", second=second, phase=phase)
    assert flags(config, phase, "none", False, 1) == []
    section = "second." if phase == 2 else ""
    assert flags(config, 4, "full", True, 2) == [
        *(f"--{section}accumulation", "4", "--execution.remat", "full"),
        *("--execution.scan-layers", "--mesh.fsdp", "2", "--mesh.data", "-1"),
    ]

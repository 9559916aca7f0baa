"""The best evaluation so far, and patience."""

import math

import pytest

from bertjax.train.progress import Progress


def added(values, *, mode="min", first=0, bad=()):
    progress = Progress()
    best = [
        progress.add(
            *(step, {"loss": value}, value), mode=mode, first=first, eligible=step not in bad
        )
        for step, value in enumerate(values, start=1)
    ]
    return progress, best


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("min", [True, True, False, True]), ("max", [True, False, False, False])],
)
def test_the_best_is_strictly_better(mode, expected):
    progress, best = added([5.0, 3.0, 3.0, 1.0], mode=mode)
    assert best == expected
    step = 4 if mode == "min" else 1
    value = 1.0 if mode == "min" else 5.0
    assert progress.best == {"step": step, "value": value, "metrics": {"loss": value}}
    assert progress.evaluated == 4


def test_nan_is_never_the_best_and_costs_patience():
    progress, best = added([math.nan, 2.0, math.nan, math.inf])
    assert best == [False, True, False, False]
    assert progress.no_better == 2
    assert not progress.is_out_of_patience(3) and progress.is_out_of_patience(2)
    assert not progress.is_out_of_patience(0)


def test_a_state_that_is_not_saved_is_not_the_best_and_costs_no_patience():
    progress, best = added([5.0, 1.0, 6.0], bad=(2,))
    assert best == [True, False, False]
    assert (progress.best["value"], progress.no_better, progress.evaluated) == (5.0, 1, 3)


def test_an_earlier_phase_does_not_compete():
    progress, _ = added([1.0, 2.0])
    assert progress.add(3, {}, 9.0, mode="min", first=2, eligible=True)
    assert not progress.add(4, {}, 10.0, mode="min", first=2, eligible=True)


def test_without_a_metric_nothing_is_the_best():
    progress = Progress()
    assert not progress.add(1, {"loss": 1.0}, None, mode="min", first=0, eligible=True)
    assert progress.best is None and progress.no_better == 1

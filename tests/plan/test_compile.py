"""Tests what surrounds the compiler; tests/tpu/test_plan.py compiles."""

import dataclasses

import pytest

from bertjax.plan import compile as compiling
from bertjax.plan import steps
from bertjax.plan.config import PlanConfig
from bertjax.pretrain.config import SecondPhase
from bertjax.train.loop_config import LoopConfig


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (95.57G) exceeds available HBM (15.75G).",
            ("95.57", "15.75"),
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory in memory space hbm. "
            "Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.",
            ("20.10", "15.75"),
        ),
    ],
)
def test_reads_what_a_step_needs_from_the_error(error, found):
    assert compiling._NEEDED.search(error).groups() == found


def test_a_phase_has_its_own_steps():
    loop = LoopConfig(train_steps=1000)
    assert steps._steps(PlanConfig(loop=loop)) == 1000
    first = PlanConfig(data="a", loop=loop, second=SecondPhase(data="b", after_steps=900))
    assert steps._steps(first) == 900
    assert steps._steps(dataclasses.replace(first, phase=2)) == 100

import dataclasses

import pytest

from bertjax.demo import pacing
from bertjax.demo.hyperparameters import Hyperparameters
from bertjax.demo.pacing import Speed

ROWS = {"train": 1024, "few": 256, "fewest": 64, "dev": 400, "test": 900, "pairs": 1600}
SPEED = Speed(pretrain_step=0.05, finetune_step=0.04, read_row=0.001, compile=4.0)
EXAMPLES = 60_000


def total(plan):
    return plan.pretrain + plan.embedding + 2 * sum(plan.finetune.values())


def test_a_plan_fits_the_time():
    plan = pacing.budget(Hyperparameters(), SPEED, rows=ROWS, examples=EXAMPLES, seconds=400)
    assert plan.late == 0
    assert plan.steps > Hyperparameters().min_steps and plan.steps % 10 == 0
    assert 360 < total(plan) <= 400


def test_more_time_goes_to_pretraining_alone():
    short, long = (
        pacing.budget(Hyperparameters(), SPEED, rows=ROWS, examples=EXAMPLES, seconds=seconds)
        for seconds in (400, 500)
    )
    assert long.steps - short.steps == pytest.approx(100 / SPEED.pretrain_step, abs=10)
    assert (long.finetune, long.embedding) == (short.finetune, short.embedding)


def test_a_slow_machine_trains_the_least_and_says_how_late():
    slow = Speed(*(10 * value for value in SPEED))
    plan = pacing.budget(Hyperparameters(), slow, rows=ROWS, examples=EXAMPLES, seconds=300)
    assert plan.steps == Hyperparameters().min_steps
    assert plan.late == pytest.approx(total(plan) + pacing._OTHER_STAGES - 300)


def test_a_fast_machine_stops_at_the_max_epochs():
    hyper = dataclasses.replace(Hyperparameters(), max_epochs=2.0)
    plan = pacing.budget(hyper, SPEED, rows=ROWS, examples=EXAMPLES, seconds=1e6)
    assert plan.steps == 2 * EXAMPLES // hyper.batch_size


def test_more_minutes_train_a_larger_model():
    assert Hyperparameters.of(5.6) == Hyperparameters()
    assert Hyperparameters.of(60).size != Hyperparameters().size

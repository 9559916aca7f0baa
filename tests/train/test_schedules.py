"""Compares every schedule with plain Python code written from its source."""

import functools
import math

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.param_groups import ParamGroup
from bertjax.train.schedules import learning_rate, make_schedule

PEAK, TOTAL = 0.3, 50


def google(step, warmup):
    """create_optimizer of Google's optimization.py."""
    if step < warmup:
        return PEAK * step / warmup
    return PEAK * (1 - min(step, TOTAL) / TOTAL)


def hugging_face(step, warmup):
    """get_linear_schedule_with_warmup of transformers."""
    if step < warmup:
        return PEAK * step / max(1, warmup)
    return PEAK * max(0.0, (TOTAL - step) / max(1, TOTAL - warmup))


def nvidia(step, warmup, power=0.5):
    """PolyWarmUpScheduler of DeepLearningExamples, counted from 0."""
    progress = min(step, TOTAL) / TOTAL
    if progress < warmup / TOTAL:
        return PEAK * progress / (warmup / TOTAL)
    return PEAK * (1 - progress) ** power


def cosine(step, warmup):
    """get_cosine_schedule_with_warmup of transformers, up to the end of training."""
    if step < warmup:
        return PEAK * step / max(1, warmup)
    progress = (min(step, TOTAL) - warmup) / max(1, TOTAL - warmup)
    return PEAK * max(0.0, 0.5 * (1 + math.cos(math.pi * 0.5 * 2 * progress)))


def inverse_sqrt(step, warmup):
    """InverseSquareRootSchedule.step_update of fairseq, up to the end of training."""
    if step < warmup:
        return step * PEAK / warmup
    return PEAK * warmup**0.5 * min(step, TOTAL) ** -0.5


def stable(step, warmup):
    return PEAK * step / warmup if step < warmup else PEAK


def wsd(share, step, warmup):
    start = TOTAL * (1 - share)
    return stable(step, warmup) * min(1, max(0, 1 - (step - start) / (TOTAL - start)))


def ending_at(ratio, reference):
    """Converts a decay from the peak to 0 into one to `ratio` of the peak."""

    def rate(step, warmup):
        value = reference(step, warmup)
        return value if step < warmup else PEAK * ratio + (1 - ratio) * value

    return rate


def cooled(steps, reference):
    start = TOTAL - steps

    def rate(step, warmup):
        if step < start:
            return reference(step, warmup)
        return reference(start, warmup) * max(0, (TOTAL - step) / steps)

    return rate


SCHEDULES = [
    ({"schedule": "linear_google"}, google),
    ({"schedule": "linear"}, hugging_face),
    ({"schedule": "linear", "end_ratio": 0.1}, ending_at(0.1, hugging_face)),
    ({"schedule": "polynomial"}, nvidia),
    ({"schedule": "polynomial", "power": 1.0}, google),
    (
        {"schedule": "polynomial", "power": 2.0, "end_ratio": 0.2},
        ending_at(0.2, lambda step, warmup: nvidia(step, warmup, power=2)),
    ),
    ({"schedule": "cosine"}, cosine),
    ({"schedule": "wsd"}, lambda step, warmup: wsd(0.1, step, warmup)),
    (
        {"schedule": "wsd", "decay_share": 0.25, "end_ratio": 0.1},
        ending_at(0.1, lambda step, warmup: wsd(0.25, step, warmup)),
    ),
    ({"schedule": "constant"}, stable),
    ({"schedule": "constant", "cooldown_steps": 9}, cooled(9, stable)),
    ({"schedule": "cosine", "cooldown_steps": 20}, cooled(20, cosine)),
]


@pytest.mark.parametrize(
    ("fields", "reference"), SCHEDULES, ids=[" ".join(map(str, f.values())) for f, _ in SCHEDULES]
)
def test_schedules_with_numbers_and_with_traced_values(fields, reference):
    steps = np.arange(TOTAL + 5)
    for warmup in (0, 7):
        config = OptimizerConfig(learning_rate=PEAK, warmup_steps=warmup, **fields)
        wanted = [reference(step, warmup) for step in steps]
        made = make_schedule(config, TOTAL)
        traced = jax.jit(
            lambda count, peak, warmup, total, config=config: learning_rate(
                config, count, peak=peak, warmup=warmup, total=total
            )
        )
        for found in (
            np.array([float(made(int(step))) for step in steps]),
            traced(steps, np.float32(PEAK), np.float32(warmup), np.float32(TOTAL)),
        ):
            # Roundings of float32; near its end the reference of cosine subtracts in float64.
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("factor", "warmup"), [(512**-0.5, 4000), (2e-3, 20_000), (0.2, 10_000)], ids=str
)
def test_inverse_sqrt_is_the_schedule_of_the_transformer(factor, warmup):
    """Vaswani et al. 2017, equation 3; BERTSUM's encoder and decoder."""
    config = OptimizerConfig(
        schedule="inverse_sqrt", learning_rate=factor * warmup**-0.5, warmup_steps=warmup
    )
    steps = np.arange(1, 200_000, 7)
    wanted = factor * np.minimum(steps**-0.5, steps * warmup**-1.5)
    # Roundings of float32.
    np.testing.assert_allclose(make_schedule(config, 200_000)(steps), wanted, rtol=1e-6)


def test_inverse_sqrt_traced_and_cooled_down():
    for fields, reference in (({}, inverse_sqrt), ({"cooldown_steps": 9}, cooled(9, inverse_sqrt))):
        config = OptimizerConfig(schedule="inverse_sqrt", **fields)
        steps = np.arange(TOTAL + 5)
        for warmup in (1, 7):
            found = jax.jit(functools.partial(learning_rate, config))(
                steps, peak=PEAK, warmup=np.float32(warmup), total=np.float32(TOTAL)
            )
            wanted = [reference(step, warmup) for step in steps]
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-8)  # as above


def test_a_group_has_its_own_peak_and_warm_up_in_the_same_schedule():
    groups = (ParamGroup("encoder", 0.002, 7), ParamGroup("decoder", 0.1))
    shape = {"schedule": "wsd", "decay_share": 0.25, "end_ratio": 0.1}
    made = make_schedule(OptimizerConfig(groups=groups, warmup_steps=3, **shape), TOTAL)
    steps = np.arange(TOTAL + 5)
    for group, warmup in zip(groups, (7, 3), strict=True):
        own = OptimizerConfig(learning_rate=group.learning_rate, warmup_steps=warmup, **shape)
        np.testing.assert_array_equal(made(steps, group=group), make_schedule(own, TOTAL)(steps))
    none = made(steps, group=None)
    np.testing.assert_array_equal(none, made(steps))
    with pytest.raises(
        bj.UserError, match=r"groups`: the warm-up of encoder is 7 and must be less"
    ):
        make_schedule(OptimizerConfig(groups=groups), 7)


def test_warmup_is_a_tenth_unless_said():
    made = make_schedule(OptimizerConfig(learning_rate=1.0, schedule="linear"), 100)
    assert float(made(0)) == 0.0
    np.testing.assert_allclose([made(5), made(10)], [0.5, 1.0], rtol=1e-6)
    assert float(make_schedule(OptimizerConfig(learning_rate=1.0), 5)(0)) == 1.0


def test_a_constant_run_that_is_continued_is_cooled_down_from_where_it_was():
    constant = OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_steps=10)
    longer = OptimizerConfig(
        learning_rate=1.0, schedule="constant", warmup_steps=10, cooldown_steps=20
    )
    before, after = make_schedule(constant, 100), make_schedule(longer, 120)
    assert [float(before(step)) for step in range(100)] == [
        float(after(step)) for step in range(100)
    ]
    np.testing.assert_allclose([after(100), after(110), after(119)], [1, 0.5, 0.05], rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.8, 0.9])
def test_a_warm_up_may_end_where_the_decay_begins(share):
    warmup = round(1000 * (1 - share))
    fields = {"schedule": "wsd", "decay_share": share, "learning_rate": 1.0}
    schedule = make_schedule(OptimizerConfig(**fields, warmup_steps=warmup), 1000)
    assert float(schedule(warmup)) == pytest.approx(1.0)
    with pytest.raises(bj.UserError, match="reaches into the decay"):
        make_schedule(OptimizerConfig(**fields, warmup_steps=warmup + 1), 1000)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"warmup_steps": 20},
            "warmup_steps` is 20 and must be less than the 20 training steps",
        ),
        (
            {"schedule": "constant", "warmup_steps": 8, "cooldown_steps": 13},
            r"warmup_steps` \(8\) and `optimizer.cooldown_steps` \(13\) exceed the 20",
        ),
        (
            {"schedule": "wsd", "warmup_steps": 17, "decay_share": 0.2},
            r"warmup_steps` \(17\) reaches into the decay of the schedule wsd, the last 20% of 20",
        ),
        (
            {"schedule": "inverse_sqrt", "warmup_steps": 0},
            "warmup_steps` is 0: the schedule inverse_sqrt needs a warm-up of 1 or more",
        ),
        (
            {"schedule": "inverse_sqrt", "groups": (ParamGroup("encoder", 0.1, 0),)},
            "groups`: the warm-up of encoder is 0: the schedule inverse_sqrt needs a warm-up",
        ),
    ],
)
def test_warmup_and_decay_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        make_schedule(OptimizerConfig(**fields), 20)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"schedule": "linaer"},
            "schedule` 'linaer' is unknown: give one of linear_google, ",
        ),
        ({"power": 0.5}, "power` belongs to the schedule polynomial, and the schedule is linear_g"),
        ({"schedule": "cosine", "decay_share": 0.5}, "decay_share` belongs to the schedule wsd"),
        ({"schedule": "constant", "end_ratio": 0.1}, "constant has no final learning rate"),
        ({"schedule": "inverse_sqrt", "end_ratio": 0.1}, "inverse_sqrt has no final learning rate"),
        ({"schedule": "wsd", "cooldown_steps": 3}, "wsd already ends with a decay"),
        ({"schedule": "linear", "cooldown_steps": 3}, "linear already falls linearly to 0"),
    ],
)
def test_settings_that_the_schedule_does_not_use_are_refused(fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        OptimizerConfig(**fields)

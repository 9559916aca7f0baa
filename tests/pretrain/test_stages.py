"""Stages of a run: a ramp of the batch and a falling rate of masking."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import bertjax as bj
from bertjax.objectives.masking import MaskingConfig
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import PretrainConfig, SecondPhase
from bertjax.pretrain.phases import open_phases
from bertjax.train.loop_config import LoopConfig

STEPS = 12
# (end, rows, rate): the ramp ends after 5 steps, and the rate falls every third of 12.
STAGES = [(2, 2, 0.3), (3, 4, 0.3), (5, 4, 0.25), (6, 8, 0.25), (9, 8, 0.2), (12, 8, 0.15)]
NO_RAMP = {"ramp_from": None, "ramp_steps": None}


def silent(line):
    del line


@pytest.fixture(scope="module")
def recipe(random_shards, tiny_shape):
    def make(workdir="run", **fields):
        return PretrainConfig(
            random_shards,
            str(workdir),
            **{
                "model": tiny_shape,
                "loop": LoopConfig(STEPS, log_every=1, eval_every=0, save_every=4, keep_last=9),
                "masking": MaskingConfig(0.3),
                "final_masking_rate": 0.15,
                "ramp_from": 2,
                "ramp_steps": 5,
                "batch_size": 8,
                "eval_examples": 8,
                **fields,
            },
        )

    return make


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    """(the lines, the result) of a run that nothing interrupted."""
    lines = []
    return lines, runs.pretrain(recipe(tmp_path_factory.mktemp("run") / "run"), lines.append)


def test_stages_have_the_rows_and_rates_of_their_steps(recipe):
    (phase,) = open_phases(recipe())
    found = [(each.end, each.config.batch_size, each.config.masking.rate) for each in phase.stages]
    assert [each[:2] for each in found] == [each[:2] for each in STAGES]
    np.testing.assert_allclose([each[2] for each in found], [each[2] for each in STAGES])
    (plain,) = open_phases(recipe(final_masking_rate=None, **NO_RAMP))
    assert [(each.end, each.config) for each in plain.stages] == [(STEPS, plain.config)]


def test_a_ramp_reads_the_examples_of_a_constant_batch_in_their_order(recipe):
    (ramped,), (constant,) = (open_phases(each) for each in (recipe(), recipe(**NO_RAMP)))
    rows = [2, 2, 4, 4, 4, 8, 8]
    found = [ramped.stream.examples(step, np.arange(size))[1] for step, size in enumerate(rows)]
    wanted = [constant.stream.examples(step, np.arange(8))[1] for step in range(4)]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(wanted))
    assert ramped.stream.epochs(7) == constant.stream.epochs(4)
    assert ramped.real_tokens == constant.real_tokens


def test_lines_and_records_show_rows_and_rate(straight):
    lines, result = straight
    assert any(
        "12 steps of 2 until step 2, then of 4 until step 5, then of 8 are" in each
        for each in lines
    )
    assert any(each.startswith("step  3/12") and "rows 4  masked 30%" in each for each in lines)
    records = [each for each in result.history if each["kind"] == "train"]
    wanted = [next(each for each in STAGES if step <= each[0]) for step in range(1, STEPS + 1)]
    for record, (_, rows, rate) in zip(records, wanted, strict=True):
        assert (record["batch_size"], record["masking_rate"]) == (rows, pytest.approx(rate))


@pytest.mark.parametrize("step", [3, 8])
def test_resumed_in_any_stage_it_has_the_same_bits(recipe, straight, tmp_path, killing, step):
    done = straight[1].workdir
    shutil.copytree(done, tmp_path / "run")
    for saved in (tmp_path / "run" / "checkpoints").iterdir():
        if saved.name.isdigit() and int(saved.name) > step:
            shutil.rmtree(saved)
    lines = []
    runs.pretrain(recipe(tmp_path / "run"), lines.append)
    assert f"Resumed at step {step} of {STEPS}." in lines
    one, two = (
        json.loads((run / "checkpoints" / str(STEPS) / "meta" / "metadata").read_text())["arrays"]
        for run in (done, tmp_path / "run")
    )
    assert one == two
    records = [killing.records_in_hex(run / "metrics.jsonl") for run in (done, tmp_path / "run")]
    assert records[0] == records[1]


def test_microbatches_give_the_same_run(recipe, straight, tmp_path):
    halves = runs.pretrain(recipe(tmp_path / "run", accumulation=2), silent)
    losses = [
        [each["loss"] for each in result.history if each["kind"] == "train"]
        for result in (straight[1], halves)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)  # sums of float32 in another order


def test_a_run_holds_its_ramp_and_its_rates(recipe, straight):
    done = straight[1].workdir
    for field, value in (("ramp_steps", 6), ("final_masking_rate", 0.1)):
        with pytest.raises(bj.UserError, match=f"another {field}"):
            runs.pretrain(recipe(done, **{field: value}), silent)


def test_the_rate_falls_over_both_phases_and_the_ramp_belongs_to_the_first(recipe):
    config = recipe()
    second = SecondPhase(config.data, after_steps=7, batch_size=4)
    first, last = open_phases(dataclasses.replace(config, second=second))
    found = [(each.end, each.config.batch_size) for each in (*first.stages, *last.stages)]
    assert found == [(2, 2), (3, 4), (5, 4), (6, 8), (7, 8), (9, 4), (12, 4)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"ramp_steps": None}, "`ramp_from` and `ramp_steps` need each other"),
        *(
            ({"ramp_steps": steps}, f"`ramp_steps` is {steps}: give at least 2, .* less than 12, ")
            for steps in (1, STEPS)
        ),
        *(
            ({"ramp_from": rows}, f"`ramp_from` is {rows}: `batch_size` 8 must be 2, 4, 8 or")
            for rows in (0, 3, 8)
        ),
        ({"accumulation": 4}, "`accumulation` 4 does not divide `ramp_from` 2"),
        ({"length_buckets": (16,)}, "`ramp_steps` and `length_buckets` both choose"),
        ({"second": SecondPhase("shards", after_steps=5)}, "`ramp_steps` is 5: .* less than 5, "),
        *(
            ({"final_masking_rate": rate}, "above 0 and below `masking.rate`, 0.3, or leave")
            for rate in (0.0, 0.3)
        ),
        ({"causal_share": 1.5}, "`causal_share` is 1.5: give a share from 0 to 1"),
        ({"z_loss": -1.0}, "`z_loss` is -1.0: give 0 or more"),
        *(
            ({"teacher": "x", "masking": MaskingConfig(), **others}, f"`{name}` has no effect with")
            for name, others in (
                ("final_masking_rate", {"final_masking_rate": 0.1}),
                ("causal_share", {"final_masking_rate": None, "causal_share": 0.1}),
            )
        ),
    ],
)
def test_what_does_not_fit_is_refused(recipe, fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        recipe(**fields)

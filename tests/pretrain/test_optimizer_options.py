"""Runs with LAMB, frozen parts, groups, layer-wise decay, a moving average and a cool-down."""

import contextlib
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax.convert.run import ConvertConfig, convert
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import PretrainConfig, SecondPhase
from bertjax.train import loop
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.param_groups import ParamGroup
from bertjax.train.tree import named

RECIPE = OptimizerConfig(
    "lamb",
    learning_rate=3e-2,
    schedule="constant",
    warmup_steps=2,
    layer_decay=0.9,
    freeze=("embeddings/position_embeddings", "nsp"),
    groups=(ParamGroup("encoder", 1e-2, 4), ParamGroup("embeddings", 2e-2)),
    ema_decay=0.6,
)


def silent(line):
    del line


@pytest.fixture(scope="module")
def make_recipe(random_shards, tiny_shape):
    """A recipe on shards of random words."""

    def make(workdir, **optimizer):
        return PretrainConfig(
            random_shards,
            str(workdir),
            model=tiny_shape,
            loop=LoopConfig(train_steps=6, log_every=1, eval_every=0, save_every=100),
            optimizer=dataclasses.replace(RECIPE, **optimizer),
            batch_size=4,
            eval_examples=8,
        )

    return make


@pytest.fixture(scope="module")
def straight(make_recipe, tmp_path_factory):
    """Six steps without an interruption."""
    return runs.pretrain(make_recipe(tmp_path_factory.mktemp("straight") / "run"), silent)


@contextlib.contextmanager
def stop_at_the_third_step():
    """As `stop_requests`, of a run that is asked to stop after its third step."""
    questions = itertools.count(1)
    yield lambda: next(questions) >= 3


def arrays_of(workdir, step):
    meta = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
    return meta["arrays"]


def test_resumed_it_is_the_same_run_and_what_it_holds_is_refused_by_name(
    make_recipe, straight, tmp_path, monkeypatch
):
    recipe = make_recipe(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_the_third_step)
        first = runs.pretrain(recipe, silent)
    start = arrays_of(first.workdir, 3)
    done = runs.pretrain(recipe, silent)
    assert arrays_of(done.workdir, 6) == arrays_of(straight.workdir, 6)
    assert done.metrics == straight.metrics

    arrays = arrays_of(done.workdir, 6)
    frozen = {"embeddings/position_embeddings/embedding", "nsp/kernel", "nsp/bias"}
    for name in {name.removeprefix("params/") for name in arrays if name.startswith("params/")}:
        stayed = arrays[f"params/{name}"] == start[f"params/{name}"]
        assert stayed == (name in frozen), name
        for tree in ("ema", "opt_state/1/0/0/mu", "opt_state/1/0/0/nu"):
            assert (f"{tree}/{name}" in arrays) == (name not in frozen)

    other = make_recipe(tmp_path / "run", name="adamw", freeze=(), ema_decay=0.0)
    with pytest.raises(bj.UserError) as caught:
        runs.pretrain(other, silent)
    for said in (
        "another ema_decay (0.6 there, absent here)",
        'another freeze (["embeddings/position_embeddings", "nsp"] there, absent here)',
        "another optimizer (lamb there, adamw here)",
    ):
        assert said in str(caught.value)

    # The rate, however, may change.
    lines = []
    runs.pretrain(make_recipe(tmp_path / "run", cooldown_steps=2), lines.append)
    resumed = next(line for line in lines if line.startswith("Resumed at step 6 of 6"))
    assert "optimizer.cooldown_steps 0 -> 2 (the learning rate follows the new" in resumed
    assert "groups" not in resumed
    lines.clear()
    runs.pretrain(make_recipe(tmp_path / "run", groups=RECIPE.groups[:1]), lines.append)
    assert "optimizer.groups [{" in next(line for line in lines if line.startswith("Resumed"))
    assert not any("warm-up" in line for line in lines)
    records = [record for record in done.history if record["kind"] == "train"]
    for name, peak, warm in (("", 3e-2, 2), ("/encoder", 1e-2, 4), ("/embeddings", 2e-2, 2)):
        rates = [record[f"learning_rate{name}"] for record in records]
        wanted = [peak * min(step / warm, 1) for step in range(6)]
        np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_groups_have_no_second_schedule(make_recipe, tmp_path):
    recipe = make_recipe(tmp_path / "run")
    second = SecondPhase(recipe.data, after_steps=3, learning_rate=1e-3)
    with pytest.raises(bj.UserError, match=r"`optimizer\.groups` have one schedule for the whole"):
        dataclasses.replace(recipe, second=second)


def test_the_average_is_what_is_evaluated_exported_and_converted(straight, tmp_path):
    exported = named(bj.from_pretrained(str(straight.export)).params)
    with Checkpoints(straight.workdir / "checkpoints", read_only=True) as checkpoints:
        averaged = named(checkpoints.restore_params().state)
        raw = checkpoints._storage.read_arrays(
            6,
            {
                f"params/{name}": jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                for name, leaf in averaged.items()
            },
            partial=True,
        )
    for name, leaf in averaged.items():
        np.testing.assert_array_equal(exported[name], leaf)
    kernel = "encoder/layer_0/output/kernel"
    assert not np.array_equal(exported[kernel], raw[f"params/{kernel}"])
    convert(ConvertConfig(str(straight.workdir), str(tmp_path / "hf")), silent)
    again = named(bj.from_pretrained(str(tmp_path / "hf")).params)
    np.testing.assert_array_equal(again[kernel], exported[kernel])
    with pytest.raises(bj.UserError, match="has frozen parameters and no moments of them"):
        convert(ConvertConfig(str(straight.workdir), str(tmp_path / "to"), "run"), silent)


@pytest.mark.slow
def test_a_run_with_an_average_is_converted_without_it(make_recipe, tmp_path):
    recipe, lines = make_recipe(tmp_path / "run", freeze=(), layer_decay=1.0), []
    done = runs.pretrain(recipe, silent)
    result = convert(ConvertConfig(str(done.workdir), str(tmp_path / "to"), "run"), lines.append)
    assert result.moments and result.optimizer == "lamb"
    assert "The run goes on from its weights; their moving average is left out." in lines
    there, here = arrays_of(done.workdir, 6), arrays_of(result.dest, 6)
    assert {name for name in there if name not in here} == {
        name for name in there if name.startswith("ema/")
    }
    assert here == {name: there[name] for name in here}


def test_a_part_that_is_not_there_is_refused_before_anything_is_written(make_recipe, tmp_path):
    groups = (ParamGroup("decoder", 0.1),)
    with pytest.raises(
        bj.UserError, match=r"`optimizer\.groups`: this model has no group 'decoder'"
    ):
        runs.pretrain(make_recipe(tmp_path / "run", groups=groups), silent)
    with pytest.raises(bj.UserError, match="no group 'layer_1'; it has embeddings"):
        runs.pretrain(make_recipe(tmp_path / "run", freeze=("layer_1",)), silent)
    assert not (tmp_path / "run").exists()

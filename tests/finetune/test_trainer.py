"""What all seeds share: batches, initial parameters, compiled programs."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.finetune.records import Records
from bertjax.model.initializers import InitializationConfig
from bertjax.tasks import batches
from bertjax.train.lora import LoraConfig
from bertjax.train.param_groups import ParamGroup
from bertjax.train.schedules import make_schedule
from bertjax.train.sharding import MeshConfig

TABLE = ("embeddings", "word_embeddings", "embedding")


def test_seeds_vary_head_order_and_dropout_but_not_the_trained_weights(
    config, tiny_model, make_trainer
):
    trainer, schedule = make_trainer(config)
    first, again, other = (trainer.initial_params(seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["classifier"]["kernel"] != other["classifier"]["kernel"]).all()
    for part in ("embeddings", "encoder", "pooler"):
        jax.tree.map(np.testing.assert_array_equal, first[part], other[part])
        jax.tree.map(np.testing.assert_array_equal, first[part], tiny_model.params[part])
    batches = [trainer.batch(seed, schedule, 0) for seed in (0, 1)]
    orders = [np.asarray(batch["input_ids"]).tolist() for batch in batches]
    assert orders[0] != orders[1]
    # The same batch and the same weights, but another seed: only dropout differs.
    losses = []
    for seed in (0, 1):
        state = trainer.programs.make_state(first)
        hyperparameters = trainer.hyperparameters(seed, schedule)
        _, metrics = trainer.programs.train_step(state, batches[0], hyperparameters)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


def test_from_scratch_starts_from_random_weights_of_the_same_shape(config, make_trainer):
    scratch, _ = make_trainer(dataclasses.replace(config, from_scratch=True))
    tuned, _ = make_trainer(config)
    assert scratch.programs is tuned.programs  # compiled once for both arms
    a, b = scratch.initial_params(0), tuned.initial_params(0)
    other = scratch.initial_params(1)
    assert jax.tree.map(np.shape, a) == jax.tree.map(np.shape, b)
    assert (pick(a, TABLE) != pick(b, TABLE)).all()
    assert (pick(a, TABLE) != pick(other, TABLE)).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_is_seen_once_an_epoch_and_padding_weighs_nothing(
    config, make_trainer, monkeypatch, grouped
):
    monkeypatch.setattr(batches, "_PROGRAM_TOKENS", 0)
    config = dataclasses.replace(config, group_by_length=grouped, batch_size=4, max_seq_length=40)
    trainer, schedule = make_trainer(config)
    assert schedule.epoch_steps == 15
    lengths, weight, widths = [], 0.0, set()
    for step in range(15):
        batch = jax.device_get(trainer.batch(0, schedule, step))
        real = batch["example_weight"] > 0
        lengths += batch["attention_mask"][real].sum(1).tolist()
        weight += batch["example_weight"].sum()
        widths.add(batch["input_ids"].shape[1])
    assert sorted(lengths) == sorted(trainer.lengths.tolist())
    assert weight == 60 and widths <= set(trainer.buckets(4))
    assert len(widths) > 1


def test_steps_of_a_number_of_tokens(config, make_trainer):
    config = dataclasses.replace(config, batch_tokens=200, max_seq_length=40, accumulation=2)
    trainer, schedule = make_trainer(config)
    assert schedule.steps == 10 * schedule.epoch_steps
    lengths, shapes = [], []
    for step in range(schedule.epoch_steps):
        batch = jax.device_get(trainer.batch(3, schedule, step))
        real = batch["example_weight"] > 0
        lengths += batch["attention_mask"][real].sum(1).tolist()
        shapes.append(batch["input_ids"].shape)
        assert len(real) % 2 == 0 and (len(real) - 1) * batch["input_ids"].shape[1] <= 200
    assert sorted(lengths) == sorted(trainer.lengths.tolist())
    second = (
        trainer.batch(3, schedule, schedule.epoch_steps + step) for step in range(len(shapes))
    )
    assert sorted(batch["input_ids"].shape for batch in second) == sorted(shapes)
    # The same rows, without the padding of microbatches.
    whole, same = make_trainer(dataclasses.replace(config, accumulation=1))
    assert same.epoch_steps == schedule.epoch_steps
    one, other = (jax.device_get(each.batch(3, same, 0)) for each in (trainer, whole))
    for name, rows in other.items():
        np.testing.assert_array_equal(one[name][: len(rows)], rows)
        assert not one["example_weight"][len(rows) :].any()
    with pytest.raises(
        UserError, match=r"`batch_tokens` 10 does not hold the longest row of \d+ t"
    ):
        make_trainer(dataclasses.replace(config, batch_tokens=10))


def test_the_loss_of_a_ragged_batch_ignores_its_padding(config, make_trainer):
    trainer, schedule = make_trainer(config)
    ragged = dict(trainer.batch(0, schedule, 3))  # 12 rows and 4 of padding
    params = trainer.initial_params(0)
    results = []
    for label in (0, 1):
        labels = np.array(ragged["label"])
        labels[np.asarray(ragged["example_weight"]) == 0] = label
        labels = jax.device_put(labels, ragged["label"].sharding)
        state = trainer.programs.make_state(params)
        batch = {**ragged, "label": labels}
        hyperparameters = trainer.hyperparameters(0, schedule)
        state, _ = trainer.programs.train_step(state, batch, hyperparameters)
        results.append(jax.device_get(state.params))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_the_hyperparameters_of_the_step_give_its_learning_rate(config, make_trainer):
    group = ParamGroup("pooler", 0.01, 30)
    recipe = dataclasses.replace(config.optimizer, warmup_steps=2, eps=1e-12, groups=(group,))
    trainer, schedule = make_trainer(dataclasses.replace(config, optimizer=recipe))
    params = trainer.initial_params(0)
    theirs = make_schedule(recipe, schedule.steps)
    batch, given = trainer.batch(0, schedule, 0), trainer.hyperparameters(0, schedule)
    for count in (0, 1, 2, schedule.steps - 3, schedule.steps - 1):
        state = trainer.programs.make_state(params)
        counters = {"opt_state": state.opt_state, "updates": state.updates}
        counters = jax.tree.map(
            lambda leaf, count=count: (
                jax.device_put(np.int32(count), leaf.sharding) if leaf.dtype == np.int32 else leaf
            ),
            counters,
        )
        at = state.replace(**counters)
        new, metrics = trainer.programs.train_step(at, batch, given)
        rate = float(theirs(count))
        assert float(metrics["learning_rate"]) == pytest.approx(rate, rel=1e-6)  # float32
        own = float(theirs(count, group=group))
        assert float(metrics["learning_rate/pooler"]) == pytest.approx(own, rel=1e-6)
        for part, applied in (("classifier", rate), ("pooler", own)):
            changed = pick(new.params, (part, "bias")) - params[part]["bias"]
            # The first update of adamw_google is rate * 0.1 g / (sqrt(0.001) |g|).
            np.testing.assert_allclose(np.abs(changed), applied * 0.1 / np.sqrt(0.001), rtol=1e-3)


def test_a_warm_up_of_no_steps_is_none(config, make_trainer):
    def warmup(steps):
        recipe = dataclasses.replace(config.optimizer, warmup_steps=steps)
        return make_trainer(dataclasses.replace(config, optimizer=recipe))[1].warmup_steps

    assert (warmup(0), warmup(3), warmup(None)) == (0, 3, 4)  # of 40 steps


def test_before_the_first_step_lora_is_the_model_with_a_new_head(config, make_trainer):
    plain, _ = make_trainer(config)
    adapted, _ = make_trainer(dataclasses.replace(config, lora=LoraConfig(rank=2)))
    whole = adapted.whole_params(adapted.initial_params(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), plain.initial_params(0))


def test_batches_that_the_devices_cannot_share_are_refused(config, make_trainer, monkeypatch):
    mesh = types.SimpleNamespace(shape={"data": 3, "fsdp": 1})
    monkeypatch.setattr("bertjax.train.sharding.make_mesh", lambda config: mesh)
    with pytest.raises(UserError, match="`batch_size` 16 can't be split over 3 devices"):
        make_trainer(dataclasses.replace(config, mesh=MeshConfig(data=3)))


def pick(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree)


def test_an_output_bias_of_frequencies_is_refused(config, make_trainer):
    initialization = InitializationConfig(mlm_bias="unigram")
    scratch = dataclasses.replace(config, from_scratch=True, initialization=initialization)
    trainer, _ = make_trainer(scratch)
    Records(trainer)  # a classifier has no such bias
    head = trainer.task.head._replace(name="masked_lm")
    trainer.task = dataclasses.replace(trainer.task, head=head)
    with pytest.raises(UserError, match="mlm_bias` unigram needs the counts"):
        Records(trainer)

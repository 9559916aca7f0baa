"""Replaced-token detection: samples, labels and sums by hand, and that it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import bertjax as bj
from bertjax.model import initializers
from bertjax.model.heads import kind_of_parts
from bertjax.model.initializers import InitializationConfig
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.objectives.rtd import ReplacedTokenDetection
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.schedules import make_schedule
from bertjax.train.step import Loss, StepConfig, init_state, make_eval_step, make_train_step

B, T, V = 8, 16, 40
CONFIG = bj.BertConfig(
    vocab_size=V,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=T,
)
SURE = dataclasses.replace(CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
RTD = ReplacedTokenDetection()
VOCABULARY = Vocabulary(V, 0, 4, np.arange(V) < 5)
MASKING = MaskingConfig(rate=0.25, mask_prob=0.85, random_prob=0.0)


def text(seed=0):
    """Ragged rows, the last of weight 0; every position allows two tokens, one of them rare."""
    rng = np.random.default_rng(seed)
    place, lengths = np.arange(T), rng.integers(T - 4, T + 1, (B, 1))
    ids = np.where(rng.random((B, T)) < 0.8, 5 + place, 22 + place).astype(np.int32)
    ids[:, 0] = 2
    ids = np.where(place == lengths - 1, 3, np.where(place < lengths, ids, 0)).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).astype(np.int32),
        "token_type_ids": np.zeros_like(ids),
        "example_weight": np.append(np.ones(B - 1, np.float32), 0.0),
    }


corrupt = functools.partial(RTD.corrupt, vocabulary=VOCABULARY, masking=MASKING)
LOSS = Loss(functools.partial(RTD.loss, config=CONFIG), RTD.normalizers, corrupt)
logits_of = jax.jit(
    lambda params, batch, keys: RTD.logits(
        params, batch, CONFIG, execution=bj.Execution(), dropout_key=None, sample_key=keys
    )
)


@functools.cache
def drawn():
    params = jax.jit(functools.partial(RTD.init_params, CONFIG))(jax.random.key(0))
    return jax.device_get(params)  # a step donates arrays on the device


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda leaf: leaf * 3, drawn())  # samples that are not quite uniform


@pytest.fixture(scope="module")
def masked():
    keys = jax.random.split(jax.random.key(1), B)
    return jax.jit(corrupt)(text(), keys)


def keys(seed, rows=B):
    return jax.random.split(jax.random.key(seed), rows)


def test_the_shapes_of_both_models(params):
    small = RTD.generator(bj.BertConfig.named("base"))
    assert (small.hidden_size, small.intermediate_size) == (192, 768)
    assert (small.num_attention_heads, small.num_hidden_layers) == (3, 12)
    assert params["generator_projection"]["kernel"].shape == (32, 8)
    assert params["generator_encoder"].keys() == params["encoder"].keys()
    assert params["generator_mlm"]["transform"]["kernel"].shape == (8, 32)
    exported = RTD.exported(params)
    assert kind_of_parts(exported) == RTD.export_kind == "encoder"
    out = jax.jit(functools.partial(bj.encode, config=CONFIG))(exported, text())
    assert out.last_hidden_state.shape == (B, T, 32)


def test_the_generator_begins_at_the_unigram_frequencies(params):
    counts, initialization = np.arange(V), InitializationConfig(mlm_bias="unigram")
    began = RTD.reinitialize(params, CONFIG, initialization, counts)
    assert began.keys() == params.keys()
    bias = began["generator_mlm"]["bias"]
    np.testing.assert_array_equal(bias, initializers.unigram_bias(counts))


def test_samples_replace_masked_tokens_alone_and_equal_ones_count_as_original(params, masked):
    original, found = text()["input_ids"], logits_of(params, masked, keys(2))
    used = np.asarray(masked["masked_weights"]) > 0
    chosen = np.zeros((B, T), bool)
    np.put_along_axis(chosen, np.asarray(masked["masked_positions"]), used, 1)
    replaced = np.asarray(found.replaced)
    assert replaced.any() and not replaced[~chosen].any()
    # A generator that is sure of the original replaces nothing.
    batch = {**masked, "masked_labels": jnp.full_like(masked["masked_labels"], 9)}
    bias = {**params["generator_mlm"], "bias": jnp.zeros(V).at[9].set(1e6)}
    sure = logits_of({**params, "generator_mlm": bias}, batch, keys(2))
    assert not np.asarray(sure.replaced).any()
    # Then the discriminator reads id 9 at the chosen places, and the original elsewhere.
    ids = np.where(chosen, 9, original)
    same = {**batch, "masked_labels": jnp.zeros_like(batch["masked_labels"]), "input_ids": ids}
    again = logits_of({**params, "generator_mlm": bias}, same, keys(3))
    # The generator's inputs differ, the discriminator's do not.
    np.testing.assert_array_equal(again.logits, sure.logits)
    assert np.array_equal(np.asarray(again.replaced), chosen)


def test_the_loss_by_hand(params, masked):
    loss, metrics = jax.jit(LOSS.loss_fn)(params, masked, sample_key=keys(2))
    found = jax.tree.map(np.asarray, logits_of(params, masked, keys(2)))
    real = np.asarray(masked["attention_mask"])[: B - 1] > 0
    logits, replaced = found.logits[: B - 1][real].astype(float), found.replaced[: B - 1][real]
    chance = 1 / (1 + np.exp(-logits))
    wanted = -np.log(np.where(replaced, chance, 1 - chance)).sum()
    np.testing.assert_allclose(metrics["rtd_loss"], (wanted, real.sum()), rtol=1e-5)
    assert metrics["rtd_replaced"] == (replaced.sum(), real.sum())
    assert metrics["rtd_accuracy"] == (((logits > 0) == replaced).sum(), real.sum())
    mlm, predictions = metrics["mlm_loss"]
    total = mlm / (predictions + 1e-5) + 50 * wanted / real.sum()
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_a_row_samples_by_its_own_key(params, masked):
    whole = logits_of(params, masked, keys(2))
    part = jax.tree.map(lambda leaf: leaf[2:5], dict(masked))
    alone = logits_of(params, part, keys(2)[2:5])
    np.testing.assert_array_equal(alone.replaced, whole.replaced[2:5])
    other = logits_of(params, masked, keys(3))
    np.testing.assert_array_equal(other.generator, whole.generator)
    assert (np.asarray(other.replaced) != np.asarray(whole.replaced)).any()


def test_it_works_on_a_shard_that_knows_what_differs_between_devices(params, masked):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    rows, all_rows = PartitionSpec("data"), PartitionSpec()

    def sums(params, batch, keys):
        return jax.lax.psum(RTD.loss(params, batch, CONFIG, sample_key=keys)[1], "data")

    mapped = jax.shard_map(
        sums, mesh=mesh, in_specs=(all_rows, rows, rows), out_specs=all_rows, check_vma=True
    )
    got = jax.jit(mapped)(params, dict(masked), keys(2))
    _, plain = jax.jit(LOSS.loss_fn)(params, masked, sample_key=keys(2))
    # Float32 sums in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, plain)


def test_the_discriminator_teaches_the_generator_nothing(params, masked):
    def detection(params):
        return RTD.loss(params, masked, CONFIG, sample_key=keys(2))[1]["rtd_loss"][0]

    grads = jax.jit(jax.grad(detection))(params)
    own = [part for part in grads if part.startswith("generator_")]
    assert len(own) == 3
    assert not any(leaf.any() for leaf in jax.tree.leaves({part: grads[part] for part in own}))
    assert all(leaf.any() for leaf in jax.tree.leaves(grads["embeddings"]))


def a_step(accumulation):
    """A step with dropout."""
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(LOSS, optimizer, StepConfig(1, accumulation)))
    return step(init_state(drawn(), optimizer), text())


def test_microbatches_are_the_whole_batch():
    (whole, metrics), (parts, others) = a_step(1), a_step(4)
    # Float32 sums in another order.
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)
    assert metrics["rtd_replaced"] > 0 and metrics["rtd_replaced"] == others["rtd_replaced"]
    for one, two in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_it_learns_and_its_evaluation_is_deterministic():
    # Samples that stay uniform: otherwise a good generator leaves nothing to detect.
    hot, steps = ReplacedTokenDetection(temperature=1e6), 100
    loss = dataclasses.replace(LOSS, loss_fn=functools.partial(hot.loss, config=SURE))
    recipe = OptimizerConfig(learning_rate=3e-3, warmup_steps=10)
    optimizer = make_optimizer(recipe, make_schedule(recipe, steps))
    step = jax.jit(make_train_step(loss, optimizer, StepConfig(1)), donate_argnums=0)
    evaluate = jax.jit(make_eval_step(loss, 1))
    state = init_state(drawn(), optimizer)

    def scores():
        sums = evaluate(state.params, text(99), jnp.int32(0))
        return {name: float(total / weight) for name, (total, weight) in sums.items()}

    first = scores()
    for number in range(steps):
        state, _ = step(state, text(number))
    last = scores()
    assert last == scores()
    assert last["mlm_loss"] < 0.5 * first["mlm_loss"]
    assert last["rtd_loss"] < 0.5 * first["rtd_loss"]
    # Half the errors of saying of every token that it is original.
    assert 1 - last["rtd_accuracy"] < 0.5 * last["rtd_replaced"], last


def test_options_that_make_no_sense():
    for options in ({"generator_size": 0.0}, {"generator_size": 2.0}, {"temperature": 0.0}):
        with pytest.raises(bj.UserError, match=next(iter(options))):
            ReplacedTokenDetection(**options)

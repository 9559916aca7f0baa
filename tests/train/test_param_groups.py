"""Groups of parameters by name, and a step that trains only some of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bertjax as bj
from bertjax.train import param_groups
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.param_groups import ParamGroup
from bertjax.train.step import Loss, StepConfig, init_state, make_train_step
from bertjax.train.tree import named, nested

NAMES = (
    *(f"embeddings/{name}/embedding" for name in ("word_embeddings", "position_embeddings")),
    *(f"encoder/layer_{n}/{name}/kernel" for n in range(12) for name in ("output", "attention")),
    "pooler/kernel",
    "classifier/kernel",
)
PARAMS = nested({name: jax.ShapeDtypeStruct((2, 3), jnp.float32) for name in NAMES})


def of_layers(*numbers):
    return {name for name in NAMES if any(f"layer_{n}/" in name for n in numbers)}


@pytest.mark.parametrize(
    ("freeze", "wanted"),
    [
        ((), set()),
        (("embeddings",), set(NAMES[:2])),
        (("embeddings/word_embeddings",), {NAMES[0]}),
        (("layer_1",), of_layers(1)),  # and not layer_10
        (("encoder/layer_11", "pooler"), of_layers(11) | {"pooler/kernel"}),
        (("layer_8-10",), of_layers(8, 9, 10)),
        (("layer_0-layer_1",), of_layers(0, 1)),
        (("encoder",), of_layers(*range(12))),
        (("layer_3/output",), {"encoder/layer_3/output/kernel"}),
        (("encoder/layer_8-10",), of_layers(8, 9, 10)),
    ],
    # Sets have no part in the names of tests: their order differs from process to process.
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_frozen(freeze, wanted):
    frozen = param_groups.frozen_names(freeze, PARAMS)
    assert frozen == wanted
    trained, rest = param_groups.partition(PARAMS, frozen)
    assert named(trained).keys() == set(NAMES) - wanted and named(rest).keys() == wanted
    assert param_groups.combine(trained, rest) == PARAMS
    assert param_groups.trained_share(PARAMS, frozen) == (
        f"{6 * (len(NAMES) - len(wanted))} of {6 * len(NAMES)} parameters are trained, the rest is "
        "frozen."
    )


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        (("layer_12",), "this model has no group 'layer_12'; it has .*, pooler, layer_0-11.$"),
        (("layer_8-12",), "no group 'layer_12'"),
        (("layer_5-3",), "no group 'layer_5-3'"),
        (("embedding",), "no group 'embedding'"),
        (("",), "no group ''"),
        (("/",), "no group '/'"),
        (("embeddings", "encoder", "pooler", "classifier"), "leaves nothing to train"),
    ],
    ids=str,
)
def test_groups_that_do_not_exist_are_refused(freeze, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        param_groups.frozen_names(freeze, PARAMS)


def test_the_layers_to_freeze_are_those_of_the_encoder():
    lora = {"lora": {"layer_0": {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}}
    with pytest.raises(bj.UserError, match=r"it has lora, pooler\.$"):
        param_groups.frozen_names(("layer_0",), {**lora, "pooler": PARAMS["pooler"]})


def test_layers_of_a_decoder_have_longer_paths():
    params = {"encoder": PARAMS, "decoder": PARAMS}
    for name, wanted in (
        ("decoder/encoder/layer_0-1", "decoder"),
        ("encoder/layer_0-1", "encoder"),
    ):
        frozen = param_groups.frozen_names((name,), params)
        assert frozen == {f"{wanted}/{each}" for each in of_layers(0, 1)}
    with pytest.raises(bj.UserError, match=r"it has decoder, encoder\.$"):
        param_groups.frozen_names(("layer_0-12",), params)


def test_layers_of_a_head_learn_as_fast_as_the_head():
    scale = functools.partial(param_groups.scale_of, layer_decay=0.5, layers=2)
    assert scale("encoder/layer_1/output/kernel") == 0.5
    assert scale("decoder/encoder/layer_0/output/kernel") == 0.25
    assert scale("sentence_scorer/inter_sentence/layer_0/output/kernel") == 1
    assert not param_groups.in_layer("sentence_scorer/inter_sentence/layer_0/output/kernel")


ENCODER = ParamGroup("encoder", 0.002, 20_000)


def test_every_parameter_has_one_group_or_none():
    groups = (ENCODER, ParamGroup("embeddings/word_embeddings", 1.0))
    found = param_groups.owners(groups, PARAMS)
    assert found == dict.fromkeys(of_layers(*range(12)), ENCODER) | {NAMES[0]: groups[1]}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("encoder", "layer_3"),
            r"encoder/layer_3/\S+ is in two groups, encoder and layer_3: give",
        ),
        (("pooler", "pooler"), "pooler/kernel is in two groups, pooler and pooler"),
        (("decoder",), "no group 'decoder' to train; it has classifier, embeddings, enco"),
        (("",), "no group '' to train"),
    ],
    ids=str,
)
def test_groups_that_are_not_there_or_overlap_are_refused(names, sentence):
    groups = tuple(ParamGroup(name, 0.1) for name in names)
    optimizer = make_optimizer(OptimizerConfig(groups=groups), optax.constant_schedule(0.0))
    with pytest.raises(bj.UserError, match="^`optimizer.groups`: .*" + sentence):
        jax.eval_shape(optimizer.init, PARAMS)


def test_a_frozen_group_is_no_group_to_train():
    frozen = param_groups.frozen_names(("encoder",), PARAMS)
    optimizer = make_optimizer(OptimizerConfig(groups=(ENCODER,)), optax.constant_schedule(0.0))
    with pytest.raises(bj.UserError, match="no group 'encoder' to train; it has classifier, embed"):
        jax.eval_shape(lambda params: init_state(params, optimizer, frozen=frozen), PARAMS)


@pytest.mark.parametrize(
    ("word", "group"),
    [
        ("encoder:learning_rate=0.002,warmup_steps=20000", ENCODER),
        ("layer_0-5:warmup_steps=0,learning_rate=1e-05", ParamGroup("layer_0-5", 1e-5, 0)),
        ("mlm/transform:learning_rate=0.1", ParamGroup("mlm/transform", 0.1)),
    ],
)
def test_a_group_is_one_word(word, group):
    assert ParamGroup.parse(word) == group == ParamGroup.parse(str(group))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("encoder", "'encoder': write a group as NAME:learning_rate=1.4e-5,warmup_steps=20000, wh"),
        (":learning_rate=0.1", "write a group"),
        ("encoder:0.1", "write a group"),
        ("encoder:", "write a group"),
        ("encoder:warmup_steps=3", "write a group"),
        ("encoder:learning_rate=high", "write a group"),
        ("encoder:learning_rate=0.1,warmup_steps=0.5", "write a group"),
        ("encoder:learning_rate=0.1,learning_rate=0.2", "write a group"),
        ("encoder:learning_rate=0.1,decay=0.2", "write a group"),
        (
            "encoder:learning_rate=0",
            "rate of encoder is 0.0: give a number above 0; `optimizer.fre",
        ),
        ("encoder:learning_rate=nan", "rate of encoder is nan"),
        ("encoder:learning_rate=0.1,warmup_steps=-1", "warm-up of encoder has -1 steps: give 0"),
    ],
)
def test_words_that_are_no_group_are_refused(word, sentence):
    with pytest.raises(bj.UserError, match="^`optimizer.groups`.* " + sentence):
        ParamGroup.parse(word)


def linear_loss(params, batch, *, normalizers, **keys):
    """Squared error of the product of three matrices."""
    hidden = batch["x"]
    for name in ("layer_0", "layer_1", "layer_10"):
        hidden = hidden @ params[name]["kernel"]
    error = ((hidden - batch["y"]) ** 2).sum()
    return error / normalizers, {"error": (error, normalizers)}


def a_step(loss_fn, params, freeze, **settings):
    """Makes a train step, its first state, its optimizer and the frozen paths."""
    frozen = param_groups.frozen_names(freeze, params)
    optimizer = make_optimizer(OptimizerConfig(clip_norm=1e-3), 1e-4)
    loss = Loss(loss_fn, lambda batch: jnp.float32(4))
    step = make_train_step(loss, optimizer, StepConfig(**settings), frozen=frozen)
    return step, init_state(params, optimizer, frozen=frozen), optimizer, frozen


def test_frozen_parameters_stay_and_count_nowhere():
    """Compares one step with the optimizer applied to the gradients of trained parameters."""
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)}
        for name in ("layer_0", "layer_1", "layer_10")
    }
    batch = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in "xy"}
    step, state, optimizer, frozen = a_step(linear_loss, params, ("layer_1",), accumulation=2)
    assert frozen == {"layer_1/kernel"}
    grads = jax.grad(lambda params: linear_loss(params, batch, normalizers=4)[0])(params)
    grads, trained = (
        param_groups.partition(grads, frozen)[0],
        param_groups.partition(params, frozen)[0],
    )
    changes, _ = optimizer.update(grads, state.opt_state, trained)
    wanted = optax.apply_updates(trained, changes)

    new, metrics = jax.jit(step)(state, batch)
    np.testing.assert_array_equal(new.params["layer_1"]["kernel"], params["layer_1"]["kernel"])
    assert new.params.keys() == params.keys()
    assert optax.tree.get(new.opt_state, "mu").keys() == {"layer_0", "layer_10"}
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-6)
    for name in ("layer_0", "layer_10"):
        found = new.params[name]["kernel"]
        assert not np.array_equal(found, params[name]["kernel"])
        np.testing.assert_allclose(found, wanted[name]["kernel"], rtol=1e-6)  # accumulated


CONFIG = bj.BertConfig(
    vocab_size=11,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
)


def test_layers_below_the_trained_ones_are_not_differentiated():
    """Expects a product for each of the two trained kernels, and one between them."""
    draw = functools.partial(bj.init_params, CONFIG, heads=("classifier",))
    shapes = jax.eval_shape(draw, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    batch = {"input_ids": np.ones((2, 8), np.int32), "label": np.zeros(2, np.int32)}

    def loss(params, batch, *, normalizers=None, **keys):
        normalizers = None if normalizers is None else {"examples": normalizers}
        return bj.classification_loss(params, batch, CONFIG, normalizers=normalizers)

    def products(function, *arguments):
        return jax.jit(function).lower(*arguments).as_text().count("dot_general")

    def products_of_step(freeze):
        step, state, *_ = a_step(loss, params, freeze)
        return products(step, state, batch)

    forward = products(loss, params, batch)
    assert products_of_step(("embeddings", "encoder")) == forward + 3
    assert products_of_step(()) > 2.5 * forward

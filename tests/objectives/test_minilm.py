"""Self-attention relation distillation against NumPy in float64, and who learns from whom."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

import bertjax as bj
from bertjax.model import bert
from bertjax.model.heads import kind_of_parts
from bertjax.objectives.minilm import RelationDistillation, relation_divergences
from bertjax.objectives.objective import TEACHER
from bertjax.objectives.options import MiniLMOptions
from bertjax.train.step import Loss, StepConfig, init_state, make_eval_step, make_train_step
from bertjax.train.tree import named, nested

B, T, V, HEADS = 8, 12, 40, 8
TEACHING = bj.BertConfig(
    vocab_size=V,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=T,
)
STUDENT = dataclasses.replace(
    TEACHING, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
)
MINILM = RelationDistillation(layer=2, relation_heads=HEADS).taught_by(TEACHING, STUDENT)
LOSS = Loss(functools.partial(MINILM.loss, config=STUDENT), MINILM.normalizers)
graded = jax.jit(jax.value_and_grad(LOSS.loss_fn, has_aux=True))
states_of = jax.jit(functools.partial(bj.encode, config=TEACHING, output_hidden_states=True))


def text(seed=0):
    """Ragged rows, the last of weight 0 and without tokens."""
    rng = np.random.default_rng(seed)
    lengths = np.append(rng.integers(3, T + 1, B - 1), 0)[:, None]
    ids = np.where(np.arange(T) < lengths, rng.integers(5, V, (B, T)), 0).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).astype(np.int32),
        "token_type_ids": np.zeros_like(ids),
        "example_weight": np.append(np.ones(B - 1, np.float32), 0.0),
    }


def drawn(config, seed):
    """Weights ten times as large as initial ones, so that relations are far from uniform."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(MINILM.init_params, config), jax.random.key(0))
    return nested(
        {
            name: jnp.asarray(rng.normal(name.endswith("scale"), 0.2, leaf.shape), jnp.float32)
            for name, leaf in named(shapes).items()
        }
    )


@pytest.fixture(scope="module")
def params():
    return {**drawn(STUDENT, 0), TEACHER: drawn(TEACHING, 1)}


def by_hand(teacher, student, mask, heads):
    """The divergences [3, B, T] of projections in float64, one example and head at a time."""

    def relations(x):  # [T, R]
        products = x @ x.T / np.sqrt(x.shape[-1])
        products -= products.max(-1, keepdims=True)
        return np.exp(products) / np.exp(products).sum(-1, keepdims=True)

    found = np.zeros(teacher.shape[:3])
    for kind in range(3):
        for row, real in enumerate(np.asarray(mask, bool)):
            for head in range(heads):
                one, two = (
                    relations(np.split(np.asarray(x[kind, row], float)[real], heads, -1)[head])
                    for x in (teacher, student)
                )
                found[kind, row, real] += (one * np.log(one / two)).sum(-1) / heads
    return found


@functools.partial(jax.jit, static_argnames=("config", "layer"))
def projections(params, batch, config, layer):
    return bert.attention_projections(params, bert_inputs(batch), config, layer)


def bert_inputs(batch):
    return {name: each for name, each in batch.items() if name != "example_weight"}


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_projections_are_those_of_attention(params, layer):
    batch, teacher = bert_inputs(text()), params[TEACHER]
    got = np.asarray(projections(teacher, batch, TEACHING, layer))
    states = states_of(teacher, batch).hidden_states
    own = teacher["encoder"][f"layer_{layer - 1}"]["attention"]
    for name, each in zip(("query", "key", "value"), got, strict=True):
        wanted = np.asarray(states[layer - 1]) @ own[name]["kernel"] + own[name]["bias"]
        np.testing.assert_allclose(each, wanted, rtol=1e-5, atol=1e-5)  # sums in another order


def test_the_loss_is_that_of_the_paper_without_padding(params):
    batch = text()
    (loss, metrics), _ = graded(params, batch)
    teacher = np.asarray(projections(params[TEACHER], batch, TEACHING, 2))
    student = np.asarray(projections(params, batch, STUDENT, 2))
    mask = batch["attention_mask"][: B - 1]
    each = by_hand(teacher[:, : B - 1], student[:, : B - 1], mask, HEADS)
    means = each.sum(2) / mask.sum(1)  # [3, B - 1]: over the tokens of an example
    assert means.min() > 0.01
    for name, wanted in zip(bert.PROJECTIONS, means.sum(1), strict=True):
        np.testing.assert_allclose(metrics[f"{name}_loss"], (wanted, B - 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["minilm_loss"], (means.sum(), B - 1), rtol=1e-5)
    np.testing.assert_allclose(loss, means.sum() / (B - 1), rtol=1e-5)


def test_the_gradient_is_that_of_all_heads_at_once():
    rng = np.random.default_rng(0)
    wanted, found = (rng.normal(size=(3, 2, 5, width)).astype(np.float32) for width in (24, 16))
    mask = (np.arange(5) < np.array([[5], [3]]))[:, None, None]

    def plain(found):
        def logs(x):
            heads = x.reshape(3, 2, 5, 4, -1)
            products = jnp.einsum("kbtar,kbsar->kbats", heads, heads) / heads.shape[-1] ** 0.5
            return jax.nn.log_softmax(jnp.where(mask, products, -1e30))

        one, two = logs(wanted), logs(found)
        return (jnp.exp(one) * (one - two)).sum(-1).mean(2)

    def ours(found):
        return relation_divergences(wanted, found, 4, mask, bj.Execution())

    (value, grad), (other, other_grad) = (
        jax.jit(jax.value_and_grad(lambda x, of=of: of(x).sum()))(found) for of in (ours, plain)
    )
    np.testing.assert_allclose(value, other, rtol=1e-5)
    np.testing.assert_allclose(grad, other_grad, rtol=1e-4, atol=1e-5)  # float32 sums


def test_a_student_that_is_the_teacher_has_no_loss(params):
    minilm = RelationDistillation().taught_by(TEACHING, TEACHING)
    assert (minilm.layer, minilm.relation_heads) == (3, 16)
    same = {**params[TEACHER], TEACHER: params[TEACHER]}
    loss = jax.jit(functools.partial(minilm.loss, config=TEACHING))
    value, _ = loss(same, text())
    assert abs(value) < 1e-6  # the rounding of float32
    other = {**same, TEACHER: drawn(TEACHING, 2)}
    assert loss(other, text())[0] > 0.01


def test_the_student_alone_learns_and_only_below_its_last_relations(params):
    _, grads = graded(params, text())
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads.pop(TEACHER)))
    trained = named(MINILM.trained(grads))
    for name, leaf in named(grads).items():
        assert leaf.any() == (name in trained), name
    untrained = named(grads).keys() - trained.keys()
    assert all(name.startswith("encoder/layer_1/") for name in untrained) and len(untrained) == 10


@functools.partial(jax.jit, static_argnames="config")
def divergences(params, batch, keys, config):
    options = {"execution": bj.Execution(), "dropout_key": keys, "sample_key": None}
    return MINILM.logits(params, batch, config, **options)


def test_the_teacher_has_no_dropout_and_padding_no_effect(params):
    batch, keys = text(), jax.random.split(jax.random.key(3), B)
    plain = np.asarray(divergences(params, batch, None, STUDENT))
    sure = dataclasses.replace(STUDENT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    calm = divergences(params, batch, keys, sure)
    np.testing.assert_allclose(calm, plain, rtol=1e-5, atol=1e-6)  # compiled otherwise
    real = batch["attention_mask"] > 0
    other = {**batch, "input_ids": np.where(real, batch["input_ids"], 7)}
    changed = np.asarray(divergences(params, other, None, STUDENT))
    np.testing.assert_array_equal(changed[:, real], plain[:, real])


def test_every_execution_computes_the_same(params):
    (value, _), grads = graded(params, text())
    scanned = functools.partial(
        LOSS.loss_fn, execution=bj.Execution(scan_layers=True, remat="full")
    )
    (other, _), others = jax.jit(jax.value_and_grad(scanned, has_aux=True))(params, text())
    np.testing.assert_allclose(other, value, rtol=1e-5)  # float32 sums in another order
    apart = optax.tree.norm(optax.tree.sub(grads, others))
    assert apart < 1e-5 * optax.tree.norm(grads)
    narrow = functools.partial(LOSS.loss_fn, execution=bj.Execution(dtype="bfloat16"))
    # bfloat16 has 8 bits of precision, and the layers add their errors.
    np.testing.assert_allclose(jax.jit(narrow)(params, text())[0], value, rtol=0.05)


def test_it_works_on_a_shard_that_knows_what_differs_between_devices(params):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()

    def sums(params, batch):
        return jax.lax.psum(MINILM.loss(params, batch, STUDENT)[1], "data")

    mapped = jax.shard_map(sums, mesh=mesh, in_specs=(whole, rows), out_specs=whole, check_vma=True)
    (_, plain), _ = graded(params, text())
    got = jax.jit(mapped)(params, text())
    # Float32 sums in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, plain)


def test_microbatches_are_the_whole_batch_and_it_learns(params):
    student, teacher = drawn(STUDENT, 0), params[TEACHER]

    def loss_fn(params, *arguments, **options):
        return LOSS.loss_fn({**params, TEACHER: teacher}, *arguments, **options)

    # The large eps keeps the sign of a gradient that is rounding alone out of the first update.
    loss, optimizer = dataclasses.replace(LOSS, loss_fn=loss_fn), optax.adam(1e-2, eps=1e-4)
    steps = {n: jax.jit(make_train_step(loss, optimizer, StepConfig(1, n))) for n in (1, 4)}
    made = {n: step(init_state(student, optimizer), text()) for n, step in steps.items()}
    (whole, metrics), (parts, others) = made[1], made[4]
    for name, value in metrics.items():  # float32 sums in another order
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)
    for one, two in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    evaluate = jax.jit(make_eval_step(loss))

    def scores(state):
        sums = evaluate(state.params, text(), jnp.int32(0))
        return {name: float(total / weight) for name, (total, weight) in sums.items()}

    first, state = scores(whole), whole
    for _ in range(60):
        state, _ = steps[1](state, text())
    last = scores(state)
    assert last == scores(state)
    assert all(last[name] < 0.5 * value for name, value in first.items()), (first, last)


def test_the_options_that_the_paper_chose():
    small = dataclasses.replace(bj.BertConfig.named("base"), hidden_size=384, num_hidden_layers=6)
    for size, chosen in (("base", (12, 48)), ("large", (21, 64))):
        found = RelationDistillation().taught_by(bj.BertConfig.named(size), small)
        assert (found.layer, found.relation_heads) == chosen
    assert str(found) == "layer 21 of 24, 64 relation heads"


def test_options_that_do_not_fit():
    for name in ("layer", "relation_heads"):
        with pytest.raises(bj.UserError, match=f"`objective_options.minilm.{name}` is 0: give at"):
            MiniLMOptions(**{name: 0})
    with pytest.raises(bj.UserError, match=r"layer` is 4, and the teacher has 3 layers: give 1 "):
        RelationDistillation(layer=4).taught_by(TEACHING, STUDENT)
    with pytest.raises(
        bj.UserError, match=r"^12 relation heads do not .* 48 of the teacher and 32 .* to 8, or "
    ):
        RelationDistillation(relation_heads=12).taught_by(TEACHING, STUDENT)


def test_the_export_is_an_encoder_and_only_what_is_read_is_asked_of_the_teacher(params):
    student = {name: part for name, part in params.items() if name != TEACHER}
    assert kind_of_parts(MINILM.exported(student)) == MINILM.export_kind == "encoder"
    shapes = named(MINILM.teacher_shapes())
    assert "encoder/layer_0/output/kernel" in shapes
    assert {name for name in shapes if name.startswith("encoder/layer_1/")} == {
        f"encoder/layer_1/attention/{name}/{leaf}"
        for name in bert.PROJECTIONS
        for leaf in ("kernel", "bias")
    }
    assert not any("layer_2" in name for name in shapes)
    assert not RelationDistillation().teacher_shapes()

"""The sharding table on BERT-base, with every expected spec written out."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import bertjax as bj
from bertjax.train import sharding
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import init_state
from bertjax.train.tree import named

BASE = bj.BertConfig.named("base")  # 12 layers of 768, 3,072 in between, a vocabulary of 30,522
LAYERS = [f"encoder/layer_{number}" for number in range(12)]


def mesh_of(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), sharding.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope="module")
def abstract():
    """The abstract first state of BERT-base with three heads."""
    optimizer = make_optimizer(OptimizerConfig(), optax.constant_schedule(0.0))

    def first():
        heads = ("mlm", "nsp", "classifier")
        return init_state(bj.init_params(BASE, jax.random.key(0), heads=heads), optimizer)

    return jax.eval_shape(first)


def specs(mesh, tree):
    return {name: where.spec for name, where in named(sharding.state_shardings(mesh, tree)).items()}


REPLICATED = P(None)

# Parameter of a layer -> its spec in the model and in the state, which its moments share.
LAYER = {
    **{
        f"attention/{name}/kernel": (P("fsdp", "tensor"), P(("fsdp", "data"), "tensor"))
        for name in ("query", "key", "value")
    },
    **{
        f"attention/{name}/bias": (P("tensor"), P(("tensor", "data")))
        for name in ("query", "key", "value")
    },
    "attention/output/kernel": (P("tensor", "fsdp"), P(("tensor", "data"), "fsdp")),
    "attention/output/bias": (REPLICATED, P("data")),
    "attention_layer_norm/scale": (REPLICATED, P("data")),
    "attention_layer_norm/bias": (REPLICATED, P("data")),
    "intermediate/kernel": (P("fsdp", "tensor"), P("fsdp", ("tensor", "data"))),
    "intermediate/bias": (P("tensor"), P(("tensor", "data"))),
    "output/kernel": (P("tensor", "fsdp"), P(("tensor", "data"), "fsdp")),
    "output/bias": (REPLICATED, P("data")),
    "output_layer_norm/scale": (REPLICATED, P("data")),
    "output_layer_norm/bias": (REPLICATED, P("data")),
}
REST = {
    # Split over D, never over V. The state also splits over V, which 2 happens to divide.
    "embeddings/word_embeddings/embedding": (
        P(None, ("fsdp", "tensor")),
        P("data", ("fsdp", "tensor")),
    ),
    "embeddings/position_embeddings/embedding": (
        P(None, ("fsdp", "tensor")),
        P(None, ("fsdp", "tensor", "data")),
    ),
    "embeddings/token_type_embeddings/embedding": (
        P(None, ("fsdp", "tensor")),
        P(None, ("fsdp", "tensor", "data")),
    ),
    "embeddings/layer_norm/scale": (REPLICATED, P("data")),
    "embeddings/layer_norm/bias": (REPLICATED, P("data")),
    "pooler/kernel": (P("fsdp", None), P(("fsdp", "data"), None)),
    "pooler/bias": (REPLICATED, P("data")),
    "mlm/transform/kernel": (P("fsdp", None), P(("fsdp", "data"), None)),
    "mlm/transform/bias": (REPLICATED, P("data")),
    "mlm/layer_norm/scale": (REPLICATED, P("data")),
    "mlm/layer_norm/bias": (REPLICATED, P("data")),
    "mlm/bias": (REPLICATED, P("data")),
    "nsp/kernel": (P(None, None), P("data", None)),
    "nsp/bias": (REPLICATED, P("data")),
    "classifier/kernel": (P(None, None), P("data", None)),
    "classifier/bias": (REPLICATED, P("data")),
}
TABLE = {**REST, **{f"{layer}/{name}": pair for layer in LAYERS for name, pair in LAYER.items()}}


def test_every_parameter_and_moment_of_base_on_data_2_fsdp_2_tensor_2(abstract):
    found = specs(mesh_of(2, 2, 2), abstract)
    scalars = ("step", "updates", "bad_steps", "opt_state/1/0/count", "opt_state/3/count")
    expected = dict.fromkeys(scalars, P())
    for tree in ("params", "opt_state/1/0/mu", "opt_state/1/0/nu"):
        expected |= {f"{tree}/{name}": split for name, (_, split) in TABLE.items()}
    assert found == expected
    read = named(sharding.param_shardings(mesh_of(2, 2, 2), abstract.params))
    assert {name: where.spec for name, where in read.items()} == {
        name: own for name, (own, _) in TABLE.items()
    }


def test_every_pattern_of_the_table_is_the_first_for_some_parameter(abstract):
    adapters = {"a": jax.ShapeDtypeStruct((768, 8), np.float32)}
    others = {"qa_outputs": {"kernel": adapters["a"]}, "lora": {"encoder": adapters}}
    patterns = [pattern for pattern, _ in sharding.TABLE]
    firsts = {
        next((p for p in patterns if re.search(p, name)), None)
        for name in named({**abstract.params, **others})
    }
    assert firsts == {*patterns, None}  # vectors need no rule


def test_a_matrix_without_a_rule_is_refused_by_its_path(abstract):
    matrix = jax.ShapeDtypeStruct((768, 4), np.float32)
    params = {**abstract.params, "rank": {"kernel": matrix, "bias": abstract.step}}
    with pytest.raises(ValueError, match=r"matches the parameter rank/kernel \[768, 4\]: add one"):
        specs(mesh_of(2, 2, 2), abstract.replace(params=params))
    del params["rank"]["kernel"]
    assert specs(mesh_of(2, 2, 2), abstract.replace(params=params))["params/rank/bias"] == P()


def test_the_moving_average_is_split_as_the_parameters(abstract):
    optimizer = make_optimizer(OptimizerConfig("lamb"), 0.0)
    frozen = {"pooler/kernel"}
    state = jax.eval_shape(
        lambda params: init_state(params, optimizer, frozen=frozen, average=True), abstract.params
    )
    found = specs(mesh_of(2, 2, 2), state)
    assert {name for name in found if "pooler/kernel" in name} == {"params/pooler/kernel"}
    for name in TABLE.keys() - frozen:
        trees = ("ema", "params", "opt_state/1/0/0/mu")
        assert {found[f"{tree}/{name}"] for tree in trees} == {TABLE[name][1]}


@pytest.mark.parametrize(
    ("optimizer", "prefixes"),
    [
        (optax.adamw(1e-4), ("0/mu", "0/nu")),
        (optax.sgd(1e-4, momentum=0.9), ("0/trace",)),
        (optax.amsgrad(1e-4), ("0/mu", "0/nu", "0/nu_max")),
        (optax.chain(optax.lion(1e-4), optax.ema(0.9)), ("0/0/mu", "1/ema")),
    ],
    ids=["adamw", "sgd", "amsgrad", "lion and ema"],
)
def test_moments_of_any_optimizer_follow_the_table(abstract, optimizer, prefixes):
    state = jax.eval_shape(lambda params: init_state(params, optimizer), abstract.params)
    found = specs(mesh_of(2, 2, 2), state)
    for name, (_, split) in TABLE.items():
        assert {found[f"opt_state/{prefix}/{name}"] for prefix in prefixes} == {split}
    others = {name: spec for name, spec in found.items() if not name.endswith(tuple(TABLE))}
    assert set(others.values()) == {P()}


def test_muon_splits_its_momentum_and_the_moments_of_adamw(abstract):
    optimizer = make_optimizer(OptimizerConfig("muon"), 0.0)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), abstract.params)
    found = specs(mesh_of(2, 2, 2), state)
    kernel, bias = "encoder/layer_3/output/kernel", "encoder/layer_3/output/bias"
    for name, half, moments in ((kernel, "muon", {"trace"}), (bias, "adamw", {"mu", "nu"})):
        moments_found = {
            path.split("/")[-1 - len(name.split("/"))]: spec
            for path, spec in found.items()
            if path.startswith("opt_state/") and path.endswith(name) and f"/{half}/" in path
        }
        assert moments_found == dict.fromkeys(moments, TABLE[name][1])


def test_factored_moments_are_replicated(abstract):
    """Adafactor keeps a row and a column in place of a matrix; neither has its shape."""
    optimizer = optax.adafactor(1e-4)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), abstract.params)
    found = specs(mesh_of(2, 2, 2), state)
    rows = {spec for name, spec in found.items() if "/v_row/" in name and "kernel" in name}
    assert rows == {P()}


def test_what_does_not_divide_is_left_out_and_named(abstract):
    found = specs(mesh_of(4, 1, 5), abstract)
    assert found["params/encoder/layer_0/attention/query/kernel"] == P(("fsdp", "data"), None)
    # 4 divides neither 2 outputs nor 30,522 words; word embeddings split over D instead.
    alone = sharding.replicated_moments(mesh_of(4, 1, 5), abstract)
    names = ("classifier/bias", "mlm/bias", "nsp/bias")
    assert sorted(alone) == sorted(f"1/0/{m}/{n}" for m in ("mu", "nu") for n in names)
    words = found["opt_state/1/0/mu/embeddings/word_embeddings/embedding"]
    assert words == P(None, ("fsdp", "data"))
    assert sharding.replicated_moments(mesh_of(2, 1, 1), abstract) == []


_SPANS = """
import jax, numpy as np
from bertjax.train.sharding import MeshConfig, make_global_batch, make_mesh

mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
asked = []

def read_rows(rows):
    asked.append(rows.tolist())
    return {"ids": rows[:, None] * 10 + np.arange(3), "label": rows}

batch = make_global_batch(mesh, 12, read_rows)
assert asked == [list(range(12))], asked  # each row once, although tensor replicates it
for name, wanted in (("ids", np.arange(12)[:, None] * 10 + np.arange(3)), ("label", np.arange(12))):
    np.testing.assert_array_equal(batch[name], wanted)
    for shard in batch[name].addressable_shards:
        assert shard.data.shape[0] == 3
        np.testing.assert_array_equal(shard.data, wanted[shard.index])
print("right")
"""


def test_a_global_batch_is_read_in_spans_and_put_where_it_belongs(run_python):
    assert run_python("-c", _SPANS, devices=8) == "right\n"


class _Elsewhere:
    """A batch sharding; this process holds its second and fourth quarters."""

    def addressable_devices_indices_map(self, shape):
        quarter = shape[0] // 4
        return {
            device: (slice(place * quarter, (place + 1) * quarter),)
            for device, place in enumerate((3, 1))
        }


def test_a_process_reads_the_rows_of_its_own_devices_alone(monkeypatch):
    parts = {}

    def make_array(shape, where, part):
        parts.update({i: part((slice(3 * i, 3 * i + 3),)).tolist() for i in (1, 3)})
        return np.zeros(shape)

    asked = []

    def read_rows(rows):
        asked.append(rows.tolist())
        return {"label": rows * 10}

    monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: _Elsewhere())
    monkeypatch.setattr(jax, "make_array_from_callback", make_array)
    sharding.make_global_batch(None, 12, read_rows)
    assert asked == [[3, 4, 5, 9, 10, 11]]
    assert parts == {1: [30, 40, 50], 3: [90, 100, 110]}


def test_a_mesh_that_does_not_cover_the_devices_is_refused():
    with pytest.raises(bj.UserError, match=r"data 3 x fsdp 1 x tensor 1 does not cover the 1 "):
        sharding.make_mesh(sharding.MeshConfig(data=3), jax.devices()[:1])


def test_parameters_and_gradients_have_their_shardings_inside_a_step(abstract):
    mesh = mesh_of(2, 2, 2)
    placement = sharding.Placement(mesh, "bfloat16")
    read, kept = (
        {name: where.spec for name, where in named(make(mesh, abstract.params)).items()}
        for make in (sharding.param_shardings, sharding.kept_shardings)
    )
    kernels = [name for name in read if name.endswith("/kernel")]
    assert 0 < len(kernels) < len(read)

    def placed(function):
        traced = jax.make_jaxpr(function)(abstract.params)
        return [
            (each.invars[0].aval.dtype.name, each.params["sharding"].spec)
            for each in traced.eqns
            if each.primitive.name == "sharding_constraint"
        ]

    assert placed(placement.gather) == [
        ("bfloat16" if name in kernels else "float32", read[name]) for name in read
    ]
    assert placed(placement.scatter) == [
        ("float32", specs[name])
        for name in read
        for specs in ((read, kept) if name in kernels else (kept,))
    ]


def devices_of(slices):
    """Eight devices in slices, as those of a topology or of a run on TPUs."""
    return [SimpleNamespace(platform="tpu", slice_index=at * slices // 8) for at in range(8)]


def test_slices_are_the_first_axis_and_keep_whole_states(monkeypatch, abstract):
    asked = []

    def arranged(inner, outer, devices):
        asked.append((inner, outer, len(devices)))
        return np.array(jax.devices()[:1] * 8, object).reshape(np.multiply(inner, outer))

    monkeypatch.setattr(sharding.mesh_utils, "create_hybrid_device_mesh", arranged)
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2), devices_of(2))
    assert asked == [((1, 2, 2, 1), (2, 1, 1, 1), 8)]
    assert dict(mesh.shape) == {"slices": 2, "data": 2, "fsdp": 2, "tensor": 1}
    assert sharding.batch_sharding(mesh).spec == P(("slices", "data", "fsdp"))
    assert sharding.batch_ways(mesh) == 8
    types = (AxisType.Auto,) * 4
    abstract_mesh = AbstractMesh((2, 2, 2, 2), ("slices", *sharding.AXES), axis_types=types)
    assert specs(abstract_mesh, abstract) == specs(mesh_of(2, 2, 2), abstract)


@pytest.mark.parametrize(
    ("config", "slices", "told"),
    [
        ({"slices": 2}, 1, r"`mesh.slices` is 2, and the devices are in 1 slice: leave it out"),
        ({"slices": 2}, 4, r"`mesh.slices` is 2, and the devices are in 4 slices: leave it out"),
        ({"fsdp": 8}, 2, r"slices 2 x data 0 x fsdp 8 x tensor 1 does not cover the 8 devices"),
        ({"data": 8}, 2, r"slices 2 x data 8 x fsdp 1 x tensor 1 does not cover the 8 devices"),
    ],
)
def test_slices_that_there_are_not_or_do_not_divide(config, slices, told):
    with pytest.raises(bj.UserError, match=told):
        sharding.make_mesh(sharding.MeshConfig(**config), devices_of(slices))


def test_slices_of_a_cpu_must_divide_its_devices():
    told = r"slices 2 x data 0 x fsdp 1 x tensor 1 does not cover the 1 devices"
    with pytest.raises(bj.UserError, match=told):
        sharding.make_mesh(sharding.MeshConfig(slices=2), jax.devices()[:1])
    with pytest.raises(bj.UserError, match=r"`mesh.slices` is 0: give at least 1"):
        sharding.MeshConfig(slices=0)

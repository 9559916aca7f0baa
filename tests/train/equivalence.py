"""Runs twenty steps of pre-training in several ways and prints their losses as JSON.

Run by test_step.py with 8 fake devices: python equivalence.py LAYERS OPTIMIZER [WAY ...]
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import bertjax as bj
from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.train import optimizer as optimizers
from bertjax.train import schedules, sharding
from bertjax.train.step import Loss, StepConfig, init_state, jit_train_step, make_train_step
from bertjax.train.tree import named

B, T, V, STEPS = 16, 32, 512, 20
CONFIG = bj.BertConfig(
    vocab_size=V,
    hidden_size=64,
    num_hidden_layers=int(sys.argv[1]),
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=T,
)
PLAIN = bj.Execution()
OPTIMIZER = sys.argv[2]
# Without bias correction, the first steps of adamw_google are larger.
RATE = 1e-3 if OPTIMIZER == "adamw_google" else 2e-3
RECIPE = optimizers.OptimizerConfig(OPTIMIZER, learning_rate=RATE, warmup_steps=4)
SPECIAL = np.zeros(V, bool)
SPECIAL[[0, 2, 3, 4]] = True


def batch(step):
    """Rows of unequal length, so that microbatches and devices have unequal numbers of masks."""
    rng = np.random.default_rng(step)
    lengths = rng.integers(6, T + 1, B)
    ids = rng.zipf(1.3, (B, T)) % (V - 5) + 5
    ids = np.where(np.arange(T)[None] < lengths[:, None], ids, 0).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).astype(np.int32),
        "token_type_ids": np.zeros((B, T), np.int32),
        "next_sentence_label": rng.integers(0, 2, B).astype(np.int32),
    }


def corrupt(batch, keys):
    masked = bj.mask_tokens(
        keys, batch["input_ids"], Vocabulary(V, 0, 4, SPECIAL), MaskingConfig(max_predictions=6)
    )
    return {**batch, **masked}


def step_and_state(accumulation, execution, axis_name=None, placement=None):
    optimizer = optimizers.make_optimizer(RECIPE, schedules.make_schedule(RECIPE, 100))
    loss_fn = functools.partial(bj.pretraining_loss, config=CONFIG, execution=execution)
    loss = Loss(loss_fn, bj.pretraining_normalizers, corrupt)
    config = StepConfig(seed=1, accumulation=accumulation, axis_name=axis_name)
    step = make_train_step(loss, optimizer, config, placement=placement)
    return step, init_state(jax.device_put(first_params()), optimizer)


@functools.cache
def first_params():
    drawn = jax.jit(functools.partial(bj.init_params, CONFIG))(jax.random.key(0))
    return jax.device_get(drawn)  # a step donates arrays on the device


def under_jit(mesh_config, devices, accumulation=2, execution=PLAIN, part=None):
    """`part` is the shape on a device of a [64, 64] kernel and of its moments."""
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:devices])
    placement = sharding.Placement(mesh, execution.dtype)
    step, state = step_and_state(accumulation, execution, placement=placement)
    shardings = sharding.state_shardings(mesh, state)
    state = jax.device_put(state, shardings)
    compiled = jit_train_step(step, mesh, shardings)
    for number in range(STEPS):
        rows = batch(number)
        put = sharding.make_global_batch(
            mesh, B, lambda at, rows=rows: {name: array[at] for name, array in rows.items()}
        )
        state, metrics = compiled(state, put)
        yield metrics["loss"]
    for name, array in named(state).items():
        if part is not None and name.endswith("encoder/layer_0/attention/query/kernel"):
            assert {x.data.shape for x in array.addressable_shards} == {part}, name


def under_shard_map():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    step, state = step_and_state(2, bj.Execution(), axis_name=("data", "fsdp"))
    rows = PartitionSpec(("data", "fsdp"))
    whole = PartitionSpec()
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    compiled = jax.jit(mapped)
    state = jax.device_put(state, sharding.replicated(mesh))  # like its result
    for number in range(STEPS):
        state, metrics = compiled(state, batch(number))
        yield metrics["loss"]


def under_pmap():
    count = jax.device_count()
    step, state = step_and_state(2, bj.Execution(), axis_name="data")
    compiled = jax.pmap(step, axis_name="data")
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)
    state = jax.pmap(lambda leaves: leaves, axis_name="data")(state)  # like its result
    for number in range(STEPS):
        rows = jax.tree.map(
            lambda leaf: leaf.reshape(count, B // count, *leaf.shape[1:]), batch(number)
        )
        state, metrics = compiled(state, rows)
        yield metrics["loss"][0]


WAYS = {
    "plain": lambda: under_jit(sharding.MeshConfig(), 1, accumulation=1),
    "accumulated": lambda: under_jit(sharding.MeshConfig(), 1),
    "scanned": lambda: under_jit(
        sharding.MeshConfig(), 1, execution=bj.Execution(scan_layers=True)
    ),
    "remat": lambda: under_jit(sharding.MeshConfig(), 1, execution=bj.Execution(remat="full")),
    "data 8": lambda: under_jit(sharding.MeshConfig(8), 8, part=(8, 64)),
    "data 4 x fsdp 2": lambda: under_jit(sharding.MeshConfig(4, 2), 8, part=(8, 64)),
    "data 2 x tensor 4": lambda: under_jit(sharding.MeshConfig(2, 1, 4), 8, part=(32, 16)),
    "slices 2 x data 4": lambda: under_jit(sharding.MeshConfig(slices=2), 8, part=(16, 64)),
    "shard_map": under_shard_map,
    "pmap": under_pmap,
}


if __name__ == "__main__":
    losses = {name: [float(loss) for loss in WAYS[name]()] for name in sys.argv[3:] or WAYS}
    print(json.dumps(losses))

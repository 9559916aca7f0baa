"""The programs of fine-tuning: compiled once a width, whatever the seed and the schedule."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bertjax.config import BertConfig, Execution
from bertjax.model import bert
from bertjax.model.heads import TASK_PARTS
from bertjax.tasks.task import Head
from bertjax.train import lora, sharding
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.step import TrainState, init_state, jit_train_step, make_train_step


class Programs(NamedTuple):
    """What is compiled once for all seeds, learning rates and arms of a comparison."""

    make_state: Callable[[Any], TrainState]
    """The first state, sharded, from parameters on the host."""
    train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    """The jitted step; a batch also carries seed, int32 [], and schedule, float32 [3]; with LoRA
    base, the frozen parameters."""
    abstract_state: TrainState
    """ShapeDtypeStructs with their shardings."""


class RateState(NamedTuple):
    """The learning rate of the next update; set by every step, from its batch."""

    learning_rate: jax.Array


def scale_by_rate() -> optax.GradientTransformation:
    """Multiplies the updates of an optimizer whose learning rate is 1 by the one in the state."""

    def init(params: optax.Params) -> RateState:
        del params
        return RateState(jnp.ones((), jnp.float32))

    def update(
        updates: optax.Updates, state: RateState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, RateState]:
        del params
        return jax.tree.map(lambda u: u * state.learning_rate, updates), state

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def learning_rate(kind: str, schedule: jax.Array, updates: jax.Array) -> jax.Array:
    """`train.optimizer.make_schedule` of values that may be traced.

    Args:
        kind: the schedule's name.
        schedule: float32 [3]: peak, warm-up steps, total steps.
        updates: int32 []: applied so far.
    """
    peak, warmup, total = schedule
    count = updates.astype(jnp.float32)
    if kind == "constant":
        decayed = peak
    else:
        start = warmup if kind == "linear" else 0.0
        decayed = peak * jnp.clip((total - count) / (total - start), 0.0, 1.0)
    return jnp.where(count < warmup, peak * count / jnp.maximum(warmup, 1.0), decayed)


@functools.lru_cache(maxsize=8)
def programs(
    config: BertConfig,
    execution: Execution,
    optimizer_config: OptimizerConfig,
    kind: str,
    accumulation: int,
    head: Head,
    adapters: LoraConfig,
    mesh: Mesh,
) -> Programs:
    """The jitted functions of a recipe, but for its schedule, which comes with the batches.

    Kept between calls: pre-trained and scratch, all seeds, learning rates and numbers of steps
    share them. Compiling takes as long as hundreds of steps of a small model.
    """
    optimizer = optax.chain(make_optimizer(optimizer_config, 1), scale_by_rate())
    loss_fn = functools.partial(head.loss, config=config, execution=execution)

    def one_step(state: TrainState, batch: Any, base: Any) -> tuple[TrainState, Any]:
        def loss_of_trained(params: Any, batch: Any, **named: Any) -> Any:
            return loss_fn(lora.whole(base, params, adapters), batch, **named)

        step = make_train_step(
            loss_of_trained if base else loss_fn,
            optimizer,
            weights_fn=head.weights_fn,
            accumulation=accumulation,
        )
        return step(state, batch)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        batch = dict(batch)
        base = batch.pop("base", None)
        rate = learning_rate(kind, batch.pop("schedule"), state.updates)
        state = state.replace(opt_state=(*state.opt_state[:-1], RateState(rate)))
        state, metrics = one_step(state, batch, base)
        return state, {**metrics, "learning_rate": rate}

    def make_state(params: Any) -> TrainState:
        return init_state(params, optimizer)

    def first_params() -> Any:
        key = jax.random.key(0)
        params = random_params(config, key, head.kind, head.outputs, whole=True)
        return lora.divide(params, key, adapters)[1] if adapters.rank else params

    params = jax.eval_shape(first_params)
    shapes = jax.eval_shape(make_state, params)
    shardings = sharding.state_shardings(mesh, shapes)
    return Programs(
        jax.jit(make_state, out_shardings=shardings),
        jit_train_step(train_step, mesh, shardings),
        sharding.placed(shapes, shardings),
    )


@functools.partial(jax.jit, static_argnames=("config", "kind", "outputs", "whole"))
def random_params(
    config: BertConfig, key: jax.Array, kind: str, outputs: int, *, whole: bool
) -> dict:
    """Random weights of a task's model: all of them, or only the parts that the task adds."""
    if not whole:
        return bert.init_head(config, key, kind, outputs)
    parts = TASK_PARTS[kind]
    heads = [part for part in parts if part != "pooler"]
    return bert.init_params(
        config, key, heads=heads, num_labels=outputs, add_pooler="pooler" in parts
    )

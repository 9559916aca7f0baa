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
from bertjax.train import lora, param_groups, sharding
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig, learning_rate, make_optimizer
from bertjax.train.step import TrainState, init_state, jit_train_step, make_train_step


class Programs(NamedTuple):
    """What is compiled once for all seeds, learning rates and arms of a comparison."""

    make_state: Callable[[Any], TrainState]
    """The first state, sharded, from parameters on the host."""
    train_step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    """The jitted step; a batch also carries seed, int32 [], and schedule, float32 [3]: peak,
    warm-up steps, total steps; with LoRA also base, the frozen parameters."""
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


@functools.lru_cache(maxsize=8)
def programs(
    config: BertConfig,
    execution: Execution,
    recipe: OptimizerConfig,
    accumulation: int,
    head: Head,
    adapters: LoraConfig,
    mesh: Mesh,
) -> Programs:
    """The jitted functions of a recipe; peak, warm-up and steps come with the batches.

    Kept between calls: pre-trained and scratch, all seeds, learning rates and numbers of steps
    share them. Compiling takes as long as hundreds of steps of a small model.

    Raises:
        UserError: a part to be frozen is not there.
    """
    layers = config.num_hidden_layers
    optimizer = optax.chain(make_optimizer(recipe.at_rate_one(), 1, layers=layers), scale_by_rate())

    def first_params() -> Any:
        key = jax.random.key(0)
        params = random_params(config, key, head.kind, head.outputs, whole=True)
        return lora.partition(params, key, adapters)[1] if adapters.rank else params

    params = jax.eval_shape(first_params)
    frozen = param_groups.frozen_names(recipe.freeze, params)
    loss_fn = functools.partial(head.loss, config=config, execution=execution)

    def one_step(state: TrainState, batch: Any, base: Any) -> tuple[TrainState, Any]:
        def loss_of_trained(params: Any, batch: Any, **named: Any) -> Any:
            return loss_fn(lora.combine(base, params, adapters), batch, **named)

        step = make_train_step(
            loss_of_trained if base else loss_fn,
            optimizer,
            normalizers_fn=head.normalizers_fn,
            accumulation=accumulation,
            frozen=frozen,
            ema_decay=recipe.ema_decay,
        )
        return step(state, batch)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        batch = dict(batch)
        base = batch.pop("base", None)
        peak, warmup, total = batch.pop("schedule")
        rate = learning_rate(recipe, state.updates, peak=peak, warmup=warmup, total=total)
        state = state.replace(opt_state=(*state.opt_state[:-1], RateState(rate)))
        state, metrics = one_step(state, batch, base)
        return state, {**metrics, "learning_rate": rate}

    def make_state(params: Any) -> TrainState:
        return init_state(params, optimizer, frozen=frozen, average=recipe.ema_decay > 0)

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
    names = TASK_PARTS[kind]
    heads = [part for part in names if part != "pooler"]
    return bert.init_params(
        config, key, heads=heads, num_labels=outputs, add_pooler="pooler" in names
    )

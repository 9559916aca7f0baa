"""Compiled programs of fine-tuning: one per width, shared by all seeds and schedules."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from bertjax.config import Execution
from bertjax.objectives.distillation import Distillation
from bertjax.tasks.task import Head
from bertjax.train import lora, param_groups, sharding
from bertjax.train.lora import LoraConfig
from bertjax.train.optimizer import OptimizerConfig, make_optimizer
from bertjax.train.schedules import learning_rate
from bertjax.train.step import (
    Loss,
    StepConfig,
    TrainState,
    init_state,
    jit_train_step,
    make_train_step,
)


class Hyperparameters(NamedTuple):
    """Arguments of the compiled step that differ between the runs that share it."""

    seed: Any
    """int32 []."""
    peak: Any
    """float32 []: the highest learning rate."""
    warmup_steps: Any
    """float32 []."""
    total_steps: Any
    """float32 []."""
    base: Any
    """The frozen parameters that LoRA adapts; an empty dict without LoRA."""


class Programs(NamedTuple):
    """Functions compiled once for all seeds, learning rates and arms of a comparison."""

    make_state: Callable[[Any], TrainState]
    """Parameters on the host -> the first state, sharded."""
    train_step: Callable[[TrainState, Any, Hyperparameters], tuple[TrainState, Any]]
    """The jitted step."""
    abstract_state: TrainState
    """ShapeDtypeStructs with their shardings."""


@functools.lru_cache(maxsize=8)
def programs(
    config: Any,
    execution: Execution,
    recipe: OptimizerConfig,
    accumulation: int,
    head: Head,
    adapters: LoraConfig,
    mesh: Mesh,
    transformation: Callable[[OptimizerConfig], optax.GradientTransformation],
    distillation: Distillation | None = None,
) -> Programs:
    """Makes the jitted functions of a recipe; its learning rate and steps are not used.

    They are cached: pre-trained and scratch, all seeds, learning rates and numbers of steps share
    them. `config` is the shape of the model. `transformation`, the entry of `OPTIMIZERS`, is in the
    key because it may be replaced.

    Raises:
        UserError: a parameter group does not exist, or groups have common parameters.
    """
    del transformation

    def optimizer_of(schedule: optax.Schedule) -> optax.GradientTransformation:
        return make_optimizer(recipe, schedule, layers=config.num_hidden_layers)

    def first_params() -> Any:
        key = jax.random.key(0)
        params = head.init_params(config, key, head.name, head.outputs, whole=True)
        return lora.partition(params, key, adapters)[1] if adapters.rank else params

    params = jax.eval_shape(first_params)
    frozen = param_groups.frozen_names(recipe.freeze, params)
    # The gradient by the parameters is that of the loss, or of the outputs that the loss reads.
    compute = _compute(head, distillation, config=config, execution=execution)

    def train_step(state: TrainState, batch: Any, hyperparameters: Hyperparameters):
        seed, peak, warmup, total, base = hyperparameters
        schedule = functools.partial(learning_rate, recipe, peak=peak, warmup=warmup, total=total)
        adapted = functools.partial(_adapted, compute, base, adapters) if adapters.rank else compute
        return make_train_step(
            _loss(head, adapted),
            optimizer_of(schedule),
            StepConfig(seed, accumulation, recipe.ema_decay),
            schedule=schedule,
            groups=recipe.groups,
            frozen=frozen,
            placement=sharding.Placement(mesh, execution.dtype),
        )(state, batch)

    def make_state(params: Any) -> TrainState:
        optimizer = optimizer_of(optax.constant_schedule(0.0))
        return init_state(params, optimizer, frozen=frozen, average=recipe.ema_decay > 0)

    shapes = jax.eval_shape(make_state, params)
    shardings = sharding.state_shardings(mesh, shapes)
    return Programs(
        jax.jit(make_state, out_shardings=shardings),
        jit_train_step(train_step, mesh, shardings),
        sharding.placed(shapes, shardings),
    )


def _compute(head: Head, distillation: Distillation | None, **options: Any) -> Callable:
    if distillation is not None:
        options["distillation"] = distillation
    return functools.partial(head.outputs_fn or head.loss, **options)


def _loss(head: Head, compute: Callable) -> Loss:
    if head.outputs_fn is None:
        return Loss(compute, head.normalizers_fn)
    return Loss(head.loss, head.normalizers_fn, outputs_fn=compute)


def _adapted(
    function: Callable, base: Any, adapters: LoraConfig, params: Any, batch: Any, **options: Any
) -> Any:
    """Computes a function of parameters for the trained parameters of LoRA."""
    return function(lora.combine(base, params, adapters), batch, **options)


@functools.partial(jax.jit, static_argnames=("config", "head", "whole"))
def random_params(config: Any, key: jax.Array, head: Head, *, whole: bool) -> dict:
    """Draws random parameters as `Head.init_params` does."""
    return head.init_params(config, key, head.name, head.outputs, whole=whole)

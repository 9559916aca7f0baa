"""The program of a pre-training run: what a run compiles, and what an ahead-of-time compilation for
a TPU pod compiles. Building it touches no device.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.model.splash import check_splash
from bertjax.objectives.masking import Vocabulary
from bertjax.objectives.objective import PACKED_EXAMPLES, PACKED_TOKENS, TEACHER, TOKENS, Objective
from bertjax.objectives.table import DEFAULT_OBJECTIVE
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.frequency import token_groups
from bertjax.train import param_groups, sharding
from bertjax.train.optimizer import make_optimizer
from bertjax.train.schedules import make_schedule
from bertjax.train.step import (
    Batch,
    Loss,
    Metrics,
    StepConfig,
    TrainState,
    init_state,
    jit_train_step,
    make_eval_step,
    make_train_step,
)


class Program(NamedTuple):
    """A pre-training program for a mesh."""

    model: BertConfig
    init: Callable[[], TrainState]
    """Makes the first state, already sharded (jitted)."""
    step: Callable[..., tuple[TrainState, Metrics]]
    """The jitted training step: (state, batch) -> (state, metrics), or (state, batch, teacher) with
    the parameters of a teacher. It donates its state and compiles once for every length T."""
    eval_step: Callable[[Any, Batch, Any], dict[str, tuple[jax.Array, jax.Array]]]
    """The jitted evaluation: (params, batch, batch index) -> {name: (sum, weight)}. `params` are
    those of `with_teacher`."""
    abstract_state: TrainState
    """ShapeDtypeStructs with their shardings."""
    abstract_teacher: dict[str, Any]
    """The same of the teacher's parameters; {} if the objective has none."""
    abstract_batch: dict[str, jax.ShapeDtypeStruct]
    frozen: frozenset[str]
    """Paths of the parameters that are not trained."""


def build(
    config: PretrainConfig,
    mesh: Mesh,
    vocabulary: Vocabulary,
    max_seq_length: int,
    counts: np.ndarray | None = None,
    *,
    objective: Objective = DEFAULT_OBJECTIVE,
    schedule: optax.Schedule | None = None,
    packed: int | None = None,
) -> Program:
    """Builds the step, the evaluation and the state of a recipe on a mesh.

    Args:
        config: the recipe.
        mesh: a mesh of devices that exist, or of a topology (`jax.experimental.topologies`).
        vocabulary: the tokenizer's tables.
        max_seq_length: T of the shards.
        counts: int [V] of every token, for accuracies by frequency and mlm_bias="unigram".
        objective: the objective with its options and the shape of its teacher.
        schedule: the schedule of a run with several phases; by default, the recipe's.
        packed: maximum number S of examples in a packed row; None: rows hold one example each.

    Raises:
        ValueError: counts are needed and missing.
        UserError: parts of the recipe contradict each other.
    """
    model = config.model.resolve(vocabulary.size)
    _check_shapes(config, model, mesh, max_seq_length, packed)
    recipe = config.optimizer
    schedule = schedule or make_schedule(recipe, config.loop.train_steps)
    optimizer = make_optimizer(recipe, schedule, layers=model.num_hidden_layers)

    def first_params() -> dict[str, Any]:
        key = jax.random.key(config.seed, impl="threefry2x32")
        params = objective.init_params(model, key)
        return objective.reinitialize(params, model, config.initialization, counts)

    def state_of(params: dict) -> TrainState:
        return init_state(params, optimizer, frozen=frozen, average=recipe.ema_decay > 0)

    params = jax.eval_shape(first_params)
    frozen = param_groups.frozen_names(recipe.freeze, params, objective.trained(params))
    loss, evaluated = _losses(config, model, vocabulary, objective, counts)
    options = {"schedule": schedule, "groups": recipe.groups, "frozen": frozen}
    step = _make_step(config, mesh, loss, optimizer, **options)
    evaluation = sharding.on_mesh(mesh, make_eval_step(evaluated, config.seed))
    shapes, teacher = jax.eval_shape(state_of, params), objective.teacher_shapes()
    shardings = sharding.state_shardings(mesh, shapes)
    return Program(
        model=model,
        init=jax.jit(lambda: state_of(first_params()), out_shardings=shardings),
        step=jit_train_step(step, mesh, shardings),
        eval_step=jax.jit(evaluation, out_shardings=sharding.replicated(mesh)),
        abstract_state=sharding.placed(shapes, shardings),
        abstract_teacher=sharding.placed(teacher, sharding.param_shardings(mesh, teacher)),
        abstract_batch=_abstract_batch(mesh, objective, config.batch_size, max_seq_length, packed),
        frozen=frozen,
    )


def _make_step(
    config: PretrainConfig,
    mesh: Mesh,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    **options: Any,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes the step of a recipe on a mesh; `options` are others of `make_train_step`."""
    settings = StepConfig(config.seed, config.accumulation, config.optimizer.ema_decay)
    options["placement"] = sharding.Placement(mesh, config.execution.dtype)

    def step(state: TrainState, batch: Batch, teacher: Mapping[str, Any] | None = None):
        def loss_fn(params: Any, *arguments: Any, **how: Any):
            return loss.loss_fn(with_teacher(params, teacher), *arguments, **how)

        taught = dataclasses.replace(loss, loss_fn=loss_fn)
        return make_train_step(taught, optimizer, settings, **options)(state, batch)

    return step


def with_teacher(params: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> Any:
    """Returns the parameters that an objective reads: trained ones and a teacher's, if any."""
    return {**params, TEACHER: teacher} if teacher else params


def _losses(
    config: PretrainConfig,
    model: BertConfig,
    vocabulary: Vocabulary,
    objective: Objective,
    counts: np.ndarray | None,
) -> tuple[Loss, Loss]:
    """Returns the losses of training and of evaluations, which differ in masking and metrics."""
    if config.causal_share and not objective.may_be_causal:
        raise UserError(
            f"`causal_share` is set, and the objective {objective.name} needs rows whose "
            "tokens see all others: leave it out, or choose another `objective`."
        )
    loss_fn = functools.partial(objective.loss, config=model, execution=config.execution)
    masked = functools.partial(objective.corrupt, vocabulary=vocabulary)
    groups = {} if counts is None else token_groups(counts)
    grouped = functools.partial(loss_fn, token_groups=groups)
    train = masked
    if config.causal_share:
        train = functools.partial(masked, causal_share=config.causal_share)
    train = functools.partial(train, masking=config.masking)
    held_out = functools.partial(masked, masking=config.evaluation_masking)
    normalizers = objective.normalizers
    return Loss(loss_fn, normalizers, train), Loss(grouped, normalizers, held_out)


def _abstract_batch(
    mesh: Mesh, objective: Objective, rows: int, length: int, packed: int | None
) -> dict[str, jax.ShapeDtypeStruct]:
    examples = (rows,) if packed is None else (rows, packed)
    shapes = {name: (rows, length) if name in TOKENS else examples for name in objective.arrays}
    if packed is not None:
        shapes |= dict.fromkeys(PACKED_TOKENS, (rows, length))
        shapes |= dict.fromkeys(PACKED_EXAMPLES, examples)
    types = {"example_weight": jnp.float32}
    make = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh))
    return {name: make(shape, types.get(name, jnp.int32)) for name, shape in shapes.items()}


def _check_shapes(
    config: PretrainConfig, model: BertConfig, mesh: Mesh, max_seq_length: int, packed: int | None
) -> None:
    if max_seq_length > model.max_position_embeddings:
        raise UserError(
            f"The shards hold sequences of {max_seq_length} tokens and the model has "
            f"{model.max_position_embeddings} positions: raise `model.max_position_embeddings`, "
            "or prepare the data with a smaller `max_seq_length`."
        )
    config.initialization.check(model)
    config.masking.predictions(max_seq_length, packed or 1)  # validates max_predictions
    config.evaluation_masking.predictions(max_seq_length)
    if config.execution.attention == "splash":
        check_splash(max_seq_length, max_seq_length, model.attention_probs_dropout_prob)
    ways, accumulation = sharding.batch_ways(mesh), config.accumulation
    axes = " x ".join(sharding.batch_axes(mesh))
    if config.batch_size % (ways * accumulation):
        raise UserError(
            f"{config.batch_size} rows do not divide over {ways} devices ({axes}) and "
            f"{accumulation} microbatches: make `batch_size`, and `ramp_from` in a ramp, a "
            f"multiple of {ways * accumulation}."
        )
    if model.num_attention_heads % mesh.shape["tensor"]:
        raise UserError(
            f"The mesh splits {model.num_attention_heads} heads over tensor "
            f"{mesh.shape['tensor']}: choose a divisor of the heads."
        )

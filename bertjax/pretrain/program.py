"""The program of a pre-training run, made without touching a device: what a run compiles, and what
an ahead-of-time compilation for a TPU pod compiles.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.model import initializers
from bertjax.model.bert import init_params
from bertjax.objectives.losses import (
    masked_lm_loss,
    masked_lm_normalizers,
    pretraining_loss,
    pretraining_normalizers,
)
from bertjax.objectives.masking import Vocabulary, mask_tokens
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.frequency import token_groups
from bertjax.train import param_groups, sharding
from bertjax.train.optimizer import make_optimizer, make_schedule
from bertjax.train.step import (
    Batch,
    Loss,
    StepConfig,
    TrainState,
    init_state,
    jit_train_step,
    make_eval_step,
    make_train_step,
)


class Program(NamedTuple):
    """A pre-training program for a mesh; making it touches no device."""

    model: BertConfig
    init: Callable[[], TrainState]
    """The first state, already sharded (jitted)."""
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    """The jitted training step; donates its state. Compiled anew for every length T of batches."""
    eval_step: Callable[[Any, Batch, Any], dict[str, tuple[jax.Array, jax.Array]]]
    """The jitted evaluation: (params, batch, batch index) -> sums and weights."""
    abstract_state: TrainState
    """ShapeDtypeStructs with their shardings."""
    abstract_batch: dict[str, jax.ShapeDtypeStruct]
    frozen: frozenset[str]
    """Paths of the parameters that are not trained."""
    token_groups: tuple[str, ...] = ()
    """The names of the accuracies by frequency that eval_step gives."""


def build(
    config: PretrainConfig,
    mesh: Mesh,
    vocabulary: Vocabulary,
    max_seq_length: int,
    counts: np.ndarray | None = None,
    *,
    objective: str = "nsp",
    schedule: optax.Schedule | None = None,
) -> Program:
    """The step, the evaluation and the state of a recipe on a mesh, without touching a device.

    Args:
        config: the recipe.
        mesh: of devices that are there, or of a topology's (`jax.experimental.topologies`).
        vocabulary: the tokenizer's tables.
        max_seq_length: T of the shards.
        counts: int [V], how often every token is seen: for accuracies by frequency, and needed by
            initialization.mlm_bias="unigram".
        objective: the name of the objective.
        schedule: of a run with several phases; else that of the recipe.

    Raises:
        ValueError: counts are needed and are not there.
        UserError: parts of the recipe that do not fit together.
    """
    model = config.model.resolve(vocabulary.size)
    _check_shapes(config, model, mesh, max_seq_length)
    recipe, steps = config.optimizer, config.loop.train_steps
    schedule = schedule or make_schedule(recipe, steps)
    layers = model.num_hidden_layers
    optimizer = make_optimizer(recipe, schedule, layers=layers)
    single = objective == "mlm"
    first_params = functools.partial(_first_params, config, model, counts, single)
    params = jax.eval_shape(first_params)
    frozen = param_groups.frozen_names(recipe.freeze, params)
    loss_fn: Callable[..., Any] = masked_lm_loss
    if not single:
        loss_fn = functools.partial(pretraining_loss, sentence_task=objective)
    loss_fn = functools.partial(loss_fn, config=model, execution=config.execution)
    loss = Loss(
        loss_fn,
        masked_lm_normalizers if single else pretraining_normalizers,
        functools.partial(_mask, config, vocabulary),
    )
    settings = StepConfig(config.seed, config.accumulation, recipe.ema_decay)
    step = make_train_step(loss, optimizer, settings, schedule=schedule, frozen=frozen)
    groups = {} if counts is None else token_groups(counts)
    measure = functools.partial(loss_fn, token_groups=groups)
    evaluation = make_eval_step(dataclasses.replace(loss, loss_fn=measure), config.seed)

    def state_of(params: dict) -> TrainState:
        return init_state(params, optimizer, frozen=frozen, average=recipe.ema_decay > 0)

    shapes = jax.eval_shape(state_of, params)
    shardings = sharding.state_shardings(mesh, shapes)
    rows = sharding.batch_sharding(mesh)

    def struct(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)

    batch, length = config.batch_size, max_seq_length
    tokens = ("input_ids", "attention_mask", "token_type_ids")
    labels = {} if single else {"next_sentence_label": struct(batch)}
    return Program(
        model=model,
        init=jax.jit(lambda: state_of(first_params()), out_shardings=shardings),
        step=jit_train_step(step, mesh, shardings),
        eval_step=jax.jit(evaluation, out_shardings=sharding.replicated(mesh)),
        abstract_state=sharding.placed(shapes, shardings),
        abstract_batch={**{name: struct(batch, length) for name in tokens}, **labels},
        frozen=frozen,
        token_groups=tuple(groups),
    )


def _first_params(
    config: PretrainConfig, model: BertConfig, counts: np.ndarray | None, single: bool
) -> dict:
    key = jax.random.key(config.seed, impl="threefry2x32")
    heads = ("mlm",) if single else ("mlm", "nsp")
    params = init_params(model, key, heads=heads, add_pooler=not single)
    return initializers.reinitialize(params, model, config.initialization, counts)


def _mask(
    config: PretrainConfig,
    vocabulary: Vocabulary,
    batch: Batch,
    keys: jax.Array,
) -> Batch:
    masked = mask_tokens(
        keys,
        batch["input_ids"],
        vocabulary,
        config.masking,
        attention_mask=batch["attention_mask"],
    )
    return {**batch, **masked}


def _check_shapes(
    config: PretrainConfig, model: BertConfig, mesh: Mesh, max_seq_length: int
) -> None:
    if max_seq_length > model.max_position_embeddings:
        raise UserError(
            f"The shards hold sequences of {max_seq_length} tokens and the model has "
            f"{model.max_position_embeddings} positions: raise --model.max-position-embeddings, or "
            "prepare with a smaller --max-seq-length."
        )
    config.initialization.check(model)
    config.masking.predictions(max_seq_length)  # refuses too few of them
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % (ways * config.accumulation):
        raise UserError(
            f"batch_size {config.batch_size} does not divide over {ways} devices (data x fsdp) and "
            f"{config.accumulation} microbatches: make it a multiple of "
            f"{ways * config.accumulation}."
        )
    if model.num_attention_heads % mesh.shape["tensor"]:
        raise UserError(
            f"The mesh splits {model.num_attention_heads} heads over tensor "
            f"{mesh.shape['tensor']}: choose a divisor of the heads."
        )

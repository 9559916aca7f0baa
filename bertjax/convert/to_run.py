"""Writes a converted model as a run directory that `bertjax pretrain` continues."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from bertjax.convert.source import Source, optimizer_with_moments
from bertjax.objectives.objective import Objective
from bertjax.pretrain.settings import UNSET_NAMES, weights_settings
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.settings import UNSET
from bertjax.train.step import TrainState, init_state

MODEL = "model.json"
"""File of the model's shape: the value of `model.size` for the command that continues the run."""


def write_run(
    directory: epath.Path,
    source: Source,
    objective: Objective,
    optimizer: str,
    seed: int,
    log: Callable[[str], None],
) -> Source:
    """Writes the tokenizer, the shape and the first checkpoint of a run into an empty directory.

    `seed` draws the subtrees that the objective trains and the source lacks. Returns the model and
    the training state that were written.
    """
    source = _with_heads(source, objective, seed, log)
    if source.step and source.mu is None:
        log(f"Without its moments, Adam starts anew, and the steps from 0 (not {source.step:,}).")
        source = dataclasses.replace(source, step=0, updates=0)
    model, state = source.model, _state(source, optimizer)
    shape = model.bert_config("a pre-training run")
    model.tokenizer.save(directory / "tokenizer")
    (directory / MODEL).write_text(json.dumps(shape.to_dict(), indent=2) + "\n")
    loop = {"best": None, "evaluated": source.step or 0, "no_better": 0}
    meta = {
        "immutable": weights_settings(shape, model.params, model.tokenizer, optimizer),
        UNSET: list(UNSET_NAMES),
        "mutable": {},
        "loop": {**loop, "window": None, "records": 0},
    }
    with Checkpoints(directory / "checkpoints", log=log) as checkpoints:
        checkpoints.save(state, meta, wait=True)
    return source


def _with_heads(
    source: Source, objective: Objective, seed: int, log: Callable[[str], None]
) -> Source:
    """Returns the source with the subtrees of an objective; those that it lacks are drawn."""
    params = source.model.params
    init = functools.partial(objective.init_params, source.model.config)
    key = jax.random.key(seed, impl="threefry2x32")
    parts = tuple(jax.eval_shape(init, key))
    missing = [part for part in parts if part not in params]
    if surplus := sorted(params.keys() - set(parts)):
        log(f"Not trained by pre-training, and left out: {', '.join(surplus)}.")
    drawn: dict[str, Any] = {}
    if missing:
        log(f"Not in the source, and drawn with seed {seed}: {', '.join(missing)}.")

        def draw(key: jax.Array) -> dict[str, Any]:
            whole = init(key)
            return {part: whole[part] for part in missing}

        drawn = jax.jit(draw)(key)

    def whole(tree: Any, rest: Any) -> Any:
        return None if tree is None else {part: {**tree, **rest}[part] for part in parts}

    zeros = jax.tree.map(jnp.zeros_like, drawn)
    model = dataclasses.replace(source.model, params=whole(params, drawn))
    mu, nu = whole(source.mu, zeros), whole(source.nu, zeros)
    return dataclasses.replace(source, model=model, mu=mu, nu=nu)


def _state(source: Source, optimizer_name: str) -> TrainState:
    """Returns the training state after the source's steps, with its moments if it has them."""
    optimizer = optimizer_with_moments(optimizer_name)
    params = jax.tree.map(jnp.asarray, source.model.params)
    updates = jnp.asarray(source.updates or 0, jnp.int32)
    if source.mu is None:
        state = init_state(params, optimizer)
    else:
        shapes = jax.eval_shape(lambda: init_state(params, optimizer))
        moments = optax.tree.set(shapes.opt_state, mu=source.mu, nu=source.nu, count=updates)
        state = shapes.replace(params=params, opt_state=moments, bad_steps=jnp.zeros((), jnp.int32))
    return state.replace(step=jnp.asarray(source.step or 0, jnp.int32), updates=updates)

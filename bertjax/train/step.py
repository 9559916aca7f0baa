"""One pure training step, and the state that it updates.

All randomness of a step follows from (seed, step, row of the global batch). The same batch
therefore gives the same draws, and the same results up to rounding, in one piece, accumulated,
sharded, under shard_map and under pmap.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bertjax.train import param_groups, sharding

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
"""Metrics {name: (sum, weight)}."""
AxisName = str | tuple[str, ...] | None

# Each use of randomness folds its own number into the key of a step, so that no two share draws.
_CORRUPT, _DROPOUT, _EVAL_CORRUPT, _SAMPLE, _EVAL_SAMPLE = range(5)


class LossFn(Protocol):
    """A loss such as `bertjax.pretraining_loss`."""

    def __call__(
        self,
        params: Any,
        batch: Batch,
        *,
        normalizers: Any,
        dropout_key: jax.Array | None,
        sample_key: jax.Array,
    ) -> tuple[jax.Array, Sums]:
        """Computes the loss and the metrics of a batch or of a part of one.

        Args:
            params: the whole nested dict of parameters.
            batch: corrupted rows; their number B may be that of a microbatch or of a shard.
            normalizers: those of the global batch, so that the losses of its parts add up to
                its loss.
            dropout_key: [B] keys, one per row, or None in evaluation.
            sample_key: [B] keys for losses that draw samples, in training and in evaluation.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss function and the two functions that prepare a batch for it."""

    loss_fn: LossFn
    normalizers_fn: Callable[[Batch], Any]
    """Corrupted batch -> normalizers. The step sums them over all devices before the first backward
    pass."""
    corrupt: Callable[[Batch, jax.Array], Batch] | None = None
    """(batch, keys [B]) -> batch, such as masking; applied before the batch is split."""
    outputs_fn: Callable[..., Any] | None = None
    """For a loss of several rows at once, such as one with in-batch negatives: (params, batch, *,
    dropout_key, sample_key) -> what the model computes for each row alone, arrays [B, ...].
    `loss_fn` is then (outputs, batch, *, normalizers) -> (loss, metrics) of the global batch. It
    needs jit, under which a step sees that batch."""


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Settings of a training step."""

    seed: int | jax.Array = 0
    """Seed of corruption, dropout and samples; may be traced."""
    accumulation: int = 1
    """Microbatches per step; must divide the number of rows."""
    ema_decay: float = 0.0
    """Decay of the moving average; 0: the state keeps none. After n updates the decay is at most
    (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage."""
    axis_name: AxisName = None
    """Mapped axes under shard_map or pmap, over which gradients are summed; None under jit."""


_DEFAULT = StepConfig()


class TrainState(flax.struct.PyTreeNode):
    """Everything on the device that a resumed run needs."""

    step: jax.Array
    """int32: batches consumed; always advances."""
    updates: jax.Array
    """int32: updates applied; the learning rate follows from it."""
    bad_steps: jax.Array
    """int32: consecutive non-finite steps up to now."""
    params: Any
    opt_state: Any
    """State of the optimizer, which covers the trained parameters only."""
    ema: Any = None
    """Exponential moving average of the trained parameters, or None."""

    def averaged_params(self) -> Any:
        """Returns the parameters to evaluate and export: the averages if the state keeps them."""
        return self.params if self.ema is None else param_groups.combine(self.ema, self.params)


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Batch, jax.Array], Sums]


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Collection[str] = (),
    average: bool = False,
) -> TrainState:
    """Makes the state before the first step.

    `frozen` holds the paths of the parameters that the optimizer does not train, as
    `param_groups.frozen_names` gives them. `average` keeps a moving average of the others.
    """

    def zero() -> jax.Array:  # one array each: two donated leaves must not share a buffer
        return jnp.zeros((), jnp.int32)

    trained, _ = param_groups.partition(params, frozen)
    ema = jax.tree.map(jnp.copy, trained) if average else None
    return TrainState(zero(), zero(), zero(), params, optimizer.init(trained), ema)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    config: StepConfig = _DEFAULT,
    *,
    schedule: Callable[..., Any] | None = None,
    groups: Sequence[param_groups.ParamGroup] = (),
    frozen: Collection[str] = (),
    placement: sharding.Placement | None = None,
) -> TrainStep:
    """Makes a pure (state, batch) -> (state, metrics) for jit, shard_map or pmap.

    Args:
        loss: the loss and how to prepare a batch for it.
        optimizer: any Optax transformation.
        config: seed, accumulation, moving average and mapped axes.
        schedule: updates -> learning rate; only reported, as the metric learning_rate.
        groups: the optimizer's groups. Their rates are reported as learning_rate/NAME.
        frozen: paths as given to `init_state`. The step computes no gradient for them.
        placement: shardings inside a step under jit; needed if the state has `state_shardings`.

    The metrics are float32 scalars of the global batch: the weighted means of the metrics of the
    loss, loss, grad_norm (before clipping), learning_rate and skipped. A step with a non-finite
    loss or gradient sets skipped to 1, keeps parameters, optimizer state and average, and does not
    count in `updates`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (config.ema_decay == 0.0):
            raise ValueError("ema_decay must be above 0 if the state keeps an average, else 0.")
        trained, rest = param_groups.partition(state.params, frozen)
        read = placement.gather(state.params) if placement else state.params
        parts = param_groups.partition(read, frozen)
        grads, value, metrics = _gradients(loss, config, state.step, *parts, batch)
        grads = placement.scatter(grads) if placement else grads
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        changes, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = optax.apply_updates(trained, changes)

        def if_finite(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        report = {
            **means(metrics),
            "loss": value,
            "grad_norm": norm,
            "skipped": 1.0 - finite.astype(jnp.float32),
            **_rates(schedule, groups, state.updates),
        }
        return TrainState(
            step=state.step + 1,
            updates=state.updates + finite.astype(jnp.int32),
            bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
            params=param_groups.combine(if_finite(params, trained), rest),
            opt_state=if_finite(opt_state, state.opt_state),
            ema=if_finite(_averaged(state, params, config.ema_decay), state.ema),
        ), report

    return train_step


def _rates(
    schedule: Callable[..., Any] | None, groups: Sequence[param_groups.ParamGroup], count: jax.Array
) -> Metrics:
    """Returns the learning rates of the update `count` by their metrics' names."""
    if schedule is None:
        return {}
    named = {f"learning_rate/{group.name}": schedule(count, group=group) for group in groups}
    return {"learning_rate": jnp.asarray(schedule(count), jnp.float32), **named}


def _gradients(
    loss: Loss, config: StepConfig, step: jax.Array, trained: Any, rest: Any, batch: Batch
) -> tuple[Any, jax.Array, Sums]:
    """Computes gradients, loss and metrics of the global batch, summed over all mapped axes."""
    axis_name = config.axis_name
    if loss.outputs_fn is not None and axis_name is not None:
        raise ValueError("A loss of several rows at once needs jit: leave out axis_name.")
    key, rows = step_key(config.seed, step), _global_rows(batch, axis_name)
    if loss.corrupt is not None:
        batch = loss.corrupt(batch, _row_keys(key, _CORRUPT, rows))
    normalizers = _sum_over(loss.normalizers_fn(batch), axis_name)
    keys = _row_keys(key, _DROPOUT, rows), _row_keys(key, _SAMPLE, rows)
    # shard_map already sums the gradients of replicated parameters (check_vma). Marking the
    # parameters as device-varying stops that sum, so only the psum below adds.
    own_params = _varying(trained, axis_name)

    def of_trained(function: Callable, params: Any, batch: Batch, keys: tuple, **how: Any) -> Any:
        params = param_groups.combine(params, rest)
        dropout_key, sample_key = keys
        return function(params, batch, dropout_key=dropout_key, sample_key=sample_key, **how)

    if loss.outputs_fn is not None:
        outputs_of = functools.partial(of_trained, loss.outputs_fn)
        loss_of = functools.partial(loss.loss_fn, normalizers=normalizers)
        return _gradients_by_outputs(loss_of, outputs_of, own_params, (dict(batch), keys), config)
    loss_of_trained = functools.partial(of_trained, loss.loss_fn, normalizers=normalizers)

    def of_rows(batch: Batch, keys: tuple[jax.Array, jax.Array]):
        value_and_grad = jax.value_and_grad(loss_of_trained, has_aux=True)
        (value, metrics), grads = value_and_grad(own_params, batch, keys)
        return _float32(grads), value, metrics

    sums = _accumulated(of_rows, (dict(batch), keys), len(rows), config)
    return _sum_over(sums, axis_name)


def _gradients_by_outputs(
    loss_of: Callable, outputs_of: Callable, params: Any, rows: tuple[Any, Any], config: StepConfig
) -> tuple[Any, jax.Array, Sums]:
    """Computes gradients of a loss of the outputs of all rows, which may come in microbatches.

    Microbatches are gradient caching (GradCache, Gao et al. 2021, arXiv 2101.06983): the outputs of
    all rows, then the loss and its gradient by the outputs, then each microbatch once more for the
    gradient by the parameters. It needs the memory of a microbatch and gives the result of the
    batch.
    """
    batch, keys = rows
    accumulation, count = config.accumulation, len(keys[0])
    if accumulation == 1:

        def whole(params: Any):
            return loss_of(outputs_of(params, batch, keys), batch)

        (value, metrics), grads = jax.value_and_grad(whole, has_aux=True)(params)
        return _float32(grads), value, metrics
    micro = _microbatches(rows, count, accumulation)
    outputs = jax.lax.map(lambda each: outputs_of(params, *each), micro)
    outputs = jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(count, *leaf.shape[2:]), outputs
    )
    (value, metrics), by_outputs = jax.value_and_grad(loss_of, has_aux=True)(outputs, batch)

    def of_rows(batch: Batch, keys: Any, by_outputs: Any) -> Any:
        _, backward = jax.vjp(lambda params: outputs_of(params, batch, keys), params)
        return _float32(backward(by_outputs)[0])

    return _accumulated(of_rows, (*rows, by_outputs), count, config), value, metrics


def _float32(gradients: Any) -> Any:
    """Casts gradients, which have the types that `sharding.Placement` gave the parameters."""
    return jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)


def _averaged(state: TrainState, params: Any, decay: float) -> Any:
    """Updates the moving average with the new `params`."""
    if state.ema is None:
        return None
    count = state.updates.astype(jnp.float32)
    share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + count))  # weight of the new value
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), state.ema, params)


def make_eval_step(loss: Loss, seed: int = 0) -> EvalStep:
    """Makes a pure (params, batch, batch_index) -> {name: (sum, weight)} without dropout.

    Corruption and samples follow from (seed, batch_index, row): every evaluation draws the same.
    """

    def eval_step(params: Any, batch: Batch, batch_index: jax.Array):
        key, rows = step_key(seed, batch_index), _global_rows(batch, None)
        if loss.corrupt is not None:
            batch = loss.corrupt(batch, _row_keys(key, _EVAL_CORRUPT, rows))
        _, metrics = loss.loss_fn(
            params,
            batch,
            normalizers=loss.normalizers_fn(batch),
            dropout_key=None,
            sample_key=_row_keys(key, _EVAL_SAMPLE, rows),
        )
        return metrics

    return eval_step


def jit_train_step(
    train_step: Callable[..., tuple[TrainState, Metrics]], mesh: Mesh, shardings: TrainState
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles the step over the mesh. The state is donated and keeps its `shardings`; every other
    argument keeps the sharding that it comes with."""
    placement = (shardings, sharding.replicated(mesh))
    traced = sharding.on_mesh(mesh, train_step)
    return jax.jit(traced, out_shardings=placement, donate_argnums=0)


def means(metrics: Sums) -> Metrics:
    """Computes {name: sum / weight}, or 0 where the weight is 0."""
    return {
        name: jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)
        for name, (total, weight) in metrics.items()
    }


def step_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """Makes the threefry key of a step."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)


def _row_keys(key: jax.Array, use: int, rows: jax.Array) -> jax.Array:
    """Makes [B] keys for one use, from the row numbers in the global batch."""
    base = jax.random.fold_in(key, use)
    return jax.vmap(lambda row: jax.random.fold_in(base, row))(rows)


def _global_rows(batch: Batch, axis_name: AxisName) -> jax.Array:
    rows = jnp.arange(jax.tree.leaves(batch)[0].shape[0], dtype=jnp.uint32)
    if axis_name is None:
        return rows
    return rows + jax.lax.axis_index(axis_name).astype(jnp.uint32) * rows.shape[0]


def _sum_over(tree: Any, axis_name: AxisName) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _varying(tree: Any, axis_name: AxisName) -> Any:
    """Marks arrays as device-varying over the mapped axes; without axes returns them."""
    if axis_name is None:
        return tree
    if hasattr(jax.lax, "pcast"):
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)
    return jax.lax.pvary(tree, axis_name)  # type: ignore[attr-defined]  # jax 0.7


def _accumulated(function: Callable, arguments: tuple, count: int, config: StepConfig) -> Any:
    """Sums function(*arguments) over microbatches of the `count` rows.

    With A microbatches, microbatch a holds the rows a, a + A, a + 2A, ..., so that each device
    splits its own rows in place.
    """
    if config.accumulation == 1:
        return function(*arguments)
    micro = _microbatches(arguments, count, config.accumulation)
    shapes = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[0], micro))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(total: Any, one: tuple) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*one)), None

    return jax.lax.scan(body, _varying(zeros, config.axis_name), micro)[0]


def _microbatches(tree: Any, count: int, accumulation: int) -> Any:
    """Splits arrays [count, ...] into [accumulation, count / accumulation, ...]."""
    if count % accumulation:
        raise ValueError(f"accumulation {accumulation} does not divide the {count} rows.")

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(count // accumulation, accumulation, *array.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)

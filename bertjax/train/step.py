"""One pure training step, and the state it moves.

Everything random in a step follows from (seed, step, row of the global batch), so the same batch
gives the same numbers plain, accumulated, sharded, under shard_map and under pmap.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bertjax.train import param_groups, sharding

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

# What a key is folded with, so that masks, dropout and held-out masks never share draws.
_MASKS, _DROPOUT, _HELD_OUT = 0, 1, 2


class TrainState(flax.struct.PyTreeNode):
    """Everything a resumed run needs from the device."""

    step: jax.Array
    """int32: batches consumed; always advances."""
    updates: jax.Array
    """int32: updates applied, which opt_state counts too; what the reported learning rate is of."""
    bad_steps: jax.Array
    """int32: non-finite steps in a row, up to now."""
    params: Any
    opt_state: Any
    """Of the parameters that are trained."""
    ema: Any = None
    """Exponential moving average of the parameters that are trained; None where none is kept."""

    def averaged_params(self) -> Any:
        """What is evaluated and exported: the averages where there are some, else the params."""
        return self.params if self.ema is None else param_groups.join(self.ema, self.params)


class LossFn(Protocol):
    """A loss such as `objectives.losses.pretraining_loss`."""

    def __call__(
        self, params: Any, batch: Batch, *, weights: Any, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
        """The loss, normalised by the global `weights`, and {name: (sum, weight)}."""
        ...


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Collection[str] = (),
    average: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
        params: all of them.
        optimizer: of those that are trained.
        frozen: paths of the others, as `parts.frozen_names` gives them.
        average: keep a moving average.
    """

    def zero() -> jax.Array:  # one array each: donation wants no two leaves in one buffer
        return jnp.zeros((), jnp.int32)

    trained, _ = param_groups.split(params, frozen)
    ema = jax.tree.map(jnp.copy, trained) if average else None
    return TrainState(zero(), zero(), zero(), params, optimizer.init(trained), ema)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    normalizers_fn: Callable[[Batch], Any],
    seed: int = 0,
    prepare: Callable[[Batch, jax.Array], Batch] | None = None,
    accumulation: int = 1,
    axis_name: str | tuple[str, ...] | None = None,
    schedule: optax.Schedule | None = None,
    frozen: Collection[str] = (),
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A pure (state, batch) -> (state, metrics), to be jitted, or mapped with shard_map or pmap.

    Args:
        loss_fn: gives the part of the loss that lies in its batch, normalised by `weights`.
        optimizer: any Optax transformation.
        normalizers_fn: the normalisers of a prepared batch; they are known, and summed over all
            devices, before the first backward pass.
        seed: of masks and dropout. A batch that carries an int32 scalar `seed` overrides it.
        prepare: (batch, keys [B]) -> batch: masks the whole batch before it is split.
        accumulation: microbatches per step; divides the rows.
        axis_name: the mapped axes under shard_map or pmap, over which weights and gradients are
            summed; None under jit.
        schedule: reported as the metric learning_rate.
        frozen: paths of parameters that stay as they are, as given to `init_state`. They are not
            differentiated: their gradient is neither computed nor part of any norm.
        ema_decay: of the moving average, where `init_state` made one. After n updates it is at
            most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.

    Returns:
        The step. Its metrics are float32 scalars of the global batch: the weighted means of what
        loss_fn reports, loss, grad_norm (before clipping), learning_rate and skipped: 1 where loss
        or gradient was not finite; then parameters, moments and average stay and `updates` does
        not count.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay == 0.0):
            raise ValueError("ema_decay belongs to a state that keeps an average, and to no other.")
        batch = dict(batch)
        key = step_key(batch.pop("seed", seed), state.step)
        rows = _global_rows(batch, axis_name)
        if prepare is not None:
            batch = dict(prepare(batch, _keys_of(key, _MASKS, rows)))
        weights = _sum_over(normalizers_fn(batch), axis_name)
        dropout_keys = _keys_of(key, _DROPOUT, rows)

        trained, rest = param_groups.split(state.params, frozen)
        # Of parameters that shard_map knows to be the same everywhere it gives gradients that are
        # summed already (check_vma): so that the sum below is the only one, these are its own.
        own_params = _varying(trained, axis_name)

        def loss_of_trained(params: Any, batch: Batch, keys: jax.Array):
            return loss_fn(
                param_groups.join(params, rest), batch, weights=weights, dropout_key=keys
            )

        def part(batch: Batch, keys: jax.Array):
            (loss, metrics), grads = jax.value_and_grad(loss_of_trained, has_aux=True)(
                own_params, batch, keys
            )
            return grads, loss, metrics

        sums = _accumulated(part, batch, dropout_keys, accumulation, axis_name)
        grads, loss, metrics = _sum_over(sums, axis_name)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        changes, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = optax.apply_updates(trained, changes)

        def kept(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        report = {
            **means(metrics),
            "loss": loss,
            "grad_norm": norm,
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        if schedule is not None:
            report["learning_rate"] = jnp.asarray(schedule(state.updates), jnp.float32)
        return TrainState(
            step=state.step + 1,
            updates=state.updates + finite.astype(jnp.int32),
            bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
            params=param_groups.join(kept(params, trained), rest),
            opt_state=kept(opt_state, state.opt_state),
            ema=kept(_averaged(state, params, ema_decay), state.ema),
        ), report

    return train_step


def _averaged(state: TrainState, params: Any, decay: float) -> Any:
    """The moving average with one update more, which came to `params`."""
    if state.ema is None:
        return None
    count = state.updates.astype(jnp.float32)
    share = jnp.maximum(1.0 - decay, 9.0 / (10.0 + count))  # of the new, and so exact where small
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), state.ema, params)


def make_eval_step(
    metrics_fn: LossFn,
    *,
    normalizers_fn: Callable[[Batch], Any],
    seed: int = 0,
    prepare: Callable[[Batch, jax.Array], Batch] | None = None,
) -> Callable[[Any, Batch, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]:
    """A pure (params, batch, batch_index) -> {name: (sum, weight)} without dropout.

    The masks follow from (seed, batch_index, row): the same at every evaluation.
    """

    def eval_step(params: Any, batch: Batch, batch_index: jax.Array):
        if prepare is not None:
            rows = _global_rows(batch, None)
            batch = prepare(batch, _keys_of(step_key(seed, batch_index), _HELD_OUT, rows))
        weights = normalizers_fn(batch)
        return metrics_fn(params, batch, weights=weights, dropout_key=None)[1]

    return eval_step


def jit_train_step(
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    mesh: Mesh,
    shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step compiled over the mesh, its state donated and kept in `shardings`."""
    return jax.jit(
        train_step,
        in_shardings=(shardings, None),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def means(metrics: Mapping[str, tuple[jax.Array, jax.Array]]) -> Metrics:
    """{name: sum / weight}; 0 where nothing was weighed."""
    return {
        name: jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1.0), 0.0)
        for name, (total, weight) in metrics.items()
    }


def step_key(seed: int | jax.Array, step: jax.Array) -> jax.Array:
    """The threefry key of a step."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)


def _keys_of(key: jax.Array, use: int, rows: jax.Array) -> jax.Array:
    """[B] keys of one use, from the numbers of the rows in the global batch."""
    base = jax.random.fold_in(key, use)
    return jax.vmap(lambda row: jax.random.fold_in(base, row))(rows)


def _global_rows(batch: Batch, axis_name: str | tuple[str, ...] | None) -> jax.Array:
    rows = jnp.arange(jax.tree.leaves(batch)[0].shape[0], dtype=jnp.uint32)
    if axis_name is None:
        return rows
    return rows + jax.lax.axis_index(axis_name).astype(jnp.uint32) * rows.shape[0]


def _sum_over(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _varying(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """The same arrays, each device's taken as its own; without effect where nobody asks."""
    if axis_name is None:
        return tree
    if hasattr(jax.lax, "pcast"):
        return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)
    return jax.lax.pvary(tree, axis_name)  # type: ignore[attr-defined]  # jax 0.7


def _accumulated(
    part: Callable,
    batch: Batch,
    keys: jax.Array,
    accumulation: int,
    axis_name: str | tuple[str, ...] | None,
) -> tuple[Any, jax.Array, Any]:
    """The sum of `part` over microbatches.

    Microbatch a holds the rows a, a + A, a + 2A, ...: each device's rows split where they lie.
    """
    if accumulation == 1:
        return part(batch, keys)
    count = keys.shape[0]
    if count % accumulation:
        raise ValueError(
            f"accumulation {accumulation} does not divide the {count} rows of a batch."
        )

    def split(array: jax.Array) -> jax.Array:
        return array.reshape(count // accumulation, accumulation, *array.shape[1:]).swapaxes(0, 1)

    micro = jax.tree.map(split, (dict(batch), keys))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(part, *jax.tree.map(lambda leaf: leaf[0], micro)),
    )

    def body(total: Any, one: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(*one)), None

    return jax.lax.scan(body, _varying(zeros, axis_name), micro)[0]

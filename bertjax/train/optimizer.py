"""Schedules and optimizers by the names of the recipes they reproduce."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.errors import UserError
from bertjax.train.paths import path_name


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; the defaults are Google's."""

    name: Literal["adamw_google", "adamw"] = "adamw_google"
    """adamw_google: no bias correction, eps 1e-6 (Google's optimization.py); adamw: bias-corrected,
    eps 1e-8 (Hugging Face's)."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["linear_google", "linear", "constant"] = "linear_google"
    """linear_google decays from step 0 with the warm-up spliced in; linear (Hugging Face's) decays
    from the end of the warm-up; constant keeps the peak. All reach it by a linear warm-up."""
    warmup_steps: int | None = None
    """Applied updates until the peak is reached; 0: none. Left out: a tenth of all steps (in
    fine-tuning what warmup_proportion says)."""
    weight_decay: float = 0.01
    """Decoupled decay of everything but LayerNorm and biases."""
    beta1: float = 0.9
    """Decay of the mean of the gradients."""
    beta2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float | None = None
    """Added to the root of the second moment; the recipe's own where it is left out."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}: give a number above 0.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 0 and below 1.")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(f"warmup_steps is {self.warmup_steps}: give 0 or more.")
        if not (self.clip_norm >= 0 and 0 <= self.weight_decay < float("inf")):
            raise UserError("clip_norm and weight_decay are at least 0; 0 switches them off.")


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate at an update: a pure function of the number of updates applied before it.

    Raises:
        UserError: the warm-up is longer than training.
    """
    peak = config.learning_rate
    warmup = total_steps // 10 if config.warmup_steps is None else config.warmup_steps
    if warmup and warmup >= total_steps:
        raise UserError(
            f"warmup_steps {warmup} is not less than the {total_steps} steps of training: the peak "
            "learning rate would never be reached."
        )
    if config.schedule == "constant":
        decay = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        # Counted from the end of the warm-up.
        shifted = optax.linear_schedule(peak, 0.0, total_steps - warmup)
        decay = lambda count: shifted(count - warmup)  # noqa: E731
    else:
        decay = optax.linear_schedule(peak, 0.0, total_steps)
    if not warmup:
        return decay

    def schedule(count: Any) -> jax.Array:
        return jnp.where(count < warmup, peak * count / warmup, decay(count))

    return schedule


def decay_mask(params: dict) -> dict:
    """True where weight decay applies: everything but LayerNorm and biases, embeddings included."""

    def decayed(path: tuple, _: object) -> bool:
        names = path_name(path).split("/")
        return names[-1] != "bias" and "layer_norm" not in names

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clipping, moments, decoupled decay, schedule, as one Optax transformation."""
    if config.name == "adamw_google":
        eps = 1e-6 if config.eps is None else config.eps
        moments = scale_by_google_adam(config.beta1, config.beta2, eps)
    else:
        eps = 1e-8 if config.eps is None else config.eps
        moments = optax.scale_by_adam(config.beta1, config.beta2, eps)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        moments,
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    )


class GoogleAdamState(NamedTuple):
    """First and second moments, trees like the parameters."""

    mu: optax.Updates
    nu: optax.Updates


def scale_by_google_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction: mu / (sqrt(nu) + eps), as AdamWeightDecayOptimizer of Google's
    `optimization.py`."""

    def init(params: optax.Params) -> GoogleAdamState:
        return GoogleAdamState(
            jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        )

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, GoogleAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, GoogleAdamState(mu, nu)

    return optax.GradientTransformation(init, update)

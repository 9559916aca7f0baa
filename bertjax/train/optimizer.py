"""Optimizers by the names of the recipes they reproduce, and their configuration."""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from bertjax.errors import UserError, refuse_unknown
from bertjax.train import param_groups, schedules
from bertjax.train.schedules import ScheduleName
from bertjax.train.tree import path_name

OptimizerName = Literal["adamw_google", "adamw", "lamb"]
_EPS = {"adamw_google": 1e-6, "adamw": 1e-8, "lamb": 1e-6}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer, its schedule, and what it trains; the defaults are Google's."""

    name: OptimizerName = "adamw_google"
    """adamw_google: no bias correction, eps 1e-6 (Google's optimization.py); adamw: bias-corrected,
    eps 1e-8 (Hugging Face's); lamb: bias-corrected, eps 1e-6, each tensor's update scaled to the
    tensor's norm, for large batches (NVIDIA's FusedLAMB)."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: ScheduleName = "linear_google"
    """linear_google decays from step 0 with the warm-up spliced in, and so does polynomial; linear
    and cosine (Hugging Face's) decay from the end of the warm-up; wsd keeps the peak and decays by
    a line at the end; constant keeps the peak. All reach it by a linear warm-up."""
    warmup_steps: int | None = None
    """Applied updates until the peak is reached; 0: none. Left out: a tenth of all steps (in
    fine-tuning what warmup_proportion says)."""
    power: float | None = None
    """Of polynomial: the power of the share of steps that is left; left out: 0.5 (NVIDIA's for
    LAMB); 1 is linear_google."""
    end_ratio: float = 0.0
    """What a schedule that decays ends at, as a share of the peak."""
    decay_share: float | None = None
    """Of wsd: the share of all steps in which it decays; left out: 0.1."""
    cooldown_steps: int = 0
    """The last so many steps fall by a line to 0 from where the schedule is; 0: none. To cool down
    a finished constant run, give these and as many more --loop.train-steps."""
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
    layer_decay: float = 1.0
    """Each layer's learning rate is that of the layer above times this: heads and pooler have the
    whole, the embeddings the least; 1: all have the same."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: embeddings, encoder, pooler or a head; layer_3; layer_0-5 (six
    layers); or a longer path, such as embeddings/position_embeddings."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights, which is what is evaluated and exported;
    e.g. 0.999 (less in the first steps, so that it forgets where they began); 0: none."""

    def __post_init__(self) -> None:
        refuse_unknown("name", self.name, get_args(OptimizerName))
        refuse_unknown("schedule", self.schedule, get_args(ScheduleName))
        # A recipe may say one name, or a list, which no cache of programs takes.
        freeze = (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze)
        object.__setattr__(self, "freeze", freeze)
        for name in ("learning_rate", "eps", "power"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}: give a number above 0.")
        for name in ("beta1", "beta2", "end_ratio", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 0 and below 1.")
        for name in ("layer_decay", "decay_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{name} is {value}: give a number above 0, at most 1.")
        for name in ("warmup_steps", "cooldown_steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name} is {value}: give 0 or more.")
        if not (self.clip_norm >= 0 and 0 <= self.weight_decay < float("inf")):
            raise UserError("clip_norm and weight_decay are at least 0; 0 switches them off.")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Refuses what would change nothing of the schedule."""
        for name, owner in (("power", "polynomial"), ("decay_share", "wsd")):
            if getattr(self, name) is not None and self.schedule != owner:
                raise UserError(
                    f"{name} is of the schedule {owner} alone, and the schedule is "
                    f"{self.schedule}: leave it out."
                )
        if self.end_ratio and self.schedule == "constant":
            raise UserError("end_ratio: the schedule constant keeps the peak; leave it out.")
        if not self.cooldown_steps:
            return
        if self.schedule == "wsd":
            raise UserError("cooldown_steps: wsd decays by decay_share; give that instead.")
        straight = self.schedule.startswith("linear") or self.power == 1
        if straight and not self.end_ratio:
            raise UserError(
                f"cooldown_steps: {self.schedule} falls by a line to 0 as it is; leave them out, "
                "or cool down the schedule constant or cosine."
            )

    def fields(self) -> dict[str, Any]:
        """What a run keeps of it. Newer fields are named only where they have not their default, so
        that runs that began without them go on."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name not in _NEWER
        }

    def at_rate_one(self) -> "OptimizerConfig":
        """The same with a learning rate of 1 at every update, for one that comes from elsewhere."""
        plain = {name: OptimizerConfig.__dataclass_fields__[name].default for name in _SHAPE}
        return dataclasses.replace(
            self, learning_rate=1.0, schedule="constant", warmup_steps=0, **plain
        )


_SHAPE = ("power", "end_ratio", "decay_share", "cooldown_steps")
_NEWER = (*_SHAPE, "layer_decay", "freeze", "ema_decay")
RATE_FIELDS = ("learning_rate", "schedule", "warmup_steps", "layer_decay", *_SHAPE)
"""What the learning rate follows from, besides the number of steps."""


def learning_rate(
    config: OptimizerConfig, count: Any, *, peak: Any, warmup: Any, total: Any
) -> jax.Array:
    """`schedules.learning_rate` of a configuration; peak, warm-up and total may be traced."""
    own = {"power": config.power, "decay_share": config.decay_share}
    return schedules.learning_rate(
        config.schedule,
        count,
        peak=peak,
        warmup=warmup,
        total=total,
        end_ratio=config.end_ratio,
        cooldown=config.cooldown_steps,
        **{name: value for name, value in own.items() if value is not None},
    )


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate at an update: a pure function of the number of updates applied before it.

    Raises:
        UserError: the warm-up, or what comes after it, is longer than training.
    """
    warmup = total_steps // 10 if config.warmup_steps is None else config.warmup_steps
    if warmup and warmup >= total_steps:
        raise UserError(
            f"warmup_steps {warmup} is not less than the {total_steps} steps of training: the peak "
            "learning rate would never be reached."
        )
    if warmup + config.cooldown_steps > total_steps:
        raise UserError(
            f"warmup_steps {warmup} and cooldown_steps {config.cooldown_steps} together are more "
            f"than the {total_steps} steps of training: make one of them shorter."
        )
    share = schedules.DECAY_SHARE if config.decay_share is None else config.decay_share
    before_decay = total_steps * (1 - share) * (1 + 1e-9)  # 1000 * (1 - 0.9) is below 100
    if config.schedule == "wsd" and warmup > before_decay:
        raise UserError(
            f"warmup_steps {warmup} reach into the decay of wsd, the last {share:.0%} of "
            f"{total_steps} steps: make warmup_steps or decay_share smaller."
        )
    return functools.partial(
        learning_rate, config, peak=config.learning_rate, warmup=warmup, total=total_steps
    )


def decay_mask(params: dict) -> dict:
    """True where weight decay applies: everything but LayerNorm and biases, embeddings included."""

    def decayed(path: tuple, _: object) -> bool:
        names = path_name(path).split("/")
        return names[-1] != "bias" and "layer_norm" not in names

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(
    config: OptimizerConfig,
    total_steps: int,
    *,
    layers: int | None = None,
    schedule: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """Clipping, moments, decoupled decay, schedule, as one Optax transformation.

    It is for the parameters that are trained: `parts.split` takes the frozen ones away. What
    differs between the optimizers has no state of its own, so that their states look alike.

    Args:
        config: of the optimizer.
        total_steps: of training.
        layers: of the model; only layer_decay needs them.
        schedule: another one than `make_schedule` makes of the configuration.

    Raises:
        ValueError: layer_decay without layers.
        UserError: the schedule does not fit into so many steps.
    """
    eps = _EPS[config.name] if config.eps is None else config.eps
    scale = scale_by_google_adam if config.name == "adamw_google" else scale_by_adam
    shaping = [optax.add_decayed_weights(config.weight_decay, mask=decay_mask)]
    if config.name == "lamb":
        # As FusedLAMB of NVIDIA's apex (multi_tensor_lamb.cu): after bias correction and decay, the
        # norm of the tensor over that of its update; 1 where one of them is 0. It leaves out what
        # has no weight decay, which in the recipe is LayerNorm and biases.
        shaping.append(optax.masked(optax.scale_by_trust_ratio(), decay_mask))
    if config.layer_decay != 1.0:
        if layers is None:
            raise ValueError("layer_decay needs to know how many layers the model has")
        shaping.append(scale_by_layer(config.layer_decay, layers))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        scale(config.beta1, config.beta2, eps),
        optax.chain(*shaping),
        optax.scale_by_learning_rate(schedule or make_schedule(config, total_steps)),
    )


def scale_by_layer(layer_decay: float, layers: int) -> optax.GradientTransformation:
    """Multiplies every update by `parts.scale_of` its path."""

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params

        def scaled(path: tuple, leaf: jax.Array) -> jax.Array:
            return leaf * param_groups.scale_of(path_name(path), layer_decay, layers)

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


class GoogleAdamState(NamedTuple):
    """First and second moments, trees like the parameters."""

    mu: optax.Updates
    nu: optax.Updates


def scale_by_google_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam without bias correction: mu / (sqrt(nu) + eps), as AdamWeightDecayOptimizer of Google's
    `optimization.py`."""

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, GoogleAdamState]:
        del params
        mu, nu = _moments(beta1, beta2, updates, state)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, GoogleAdamState(mu, nu)

    return optax.GradientTransformation(lambda params: GoogleAdamState(*_zeros(params)), update)


def scale_by_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, its bias correction exact to float32.

    optax takes beta^count from 1, of which 1e-5 is rounding where beta is 0.999; in the first
    twenty updates that moves parameters by 7e-6 of what they change (measured).
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *_zeros(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        count = state.count + 1
        mu, nu = _moments(beta1, beta2, updates, state)
        # 1 - beta^count.
        mean, square = (-jnp.expm1(count * _log(beta)) for beta in (beta1, beta2))
        scaled = jax.tree.map(lambda m, v: m / mean / (jnp.sqrt(v / square) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _zeros(params: optax.Params) -> tuple[optax.Updates, optax.Updates]:
    return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)


def _moments(
    beta1: float, beta2: float, updates: optax.Updates, state: Any
) -> tuple[optax.Updates, optax.Updates]:
    mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
    return mu, nu


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf

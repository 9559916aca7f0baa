"""The table of optimizers, and the configuration of an optimizer and of its schedule."""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jax.tree_util import tree_map_with_path

from bertjax.config import make_tuples
from bertjax.errors import UserError, refuse_unknown
from bertjax.train import param_groups
from bertjax.train.param_groups import ParamGroup
from bertjax.train.tree import path_name

ScheduleName = Literal[
    "linear_google", "linear", "polynomial", "cosine", "inverse_sqrt", "wsd", "constant"
]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its learning rate and the parameters that it trains."""

    name: str = "adamw_google"
    """adamw_google: no bias correction, eps 1e-6 (Google's optimization.py). adamw: bias
    correction, eps 1e-8 (Hugging Face). lamb: for large batches; bias correction, eps 1e-6, and
    each tensor's update scaled to the norm of the tensor (NVIDIA's FusedLAMB). stable_adamw: adamw
    with eps 1e-6 that divides a tensor's rate by how far its gradient exceeds the second moment.
    muon: orthogonalized momentum for the matrices of layers, adamw for all else. A recipe can add
    names."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    schedule: ScheduleName = "linear_google"
    """The learning rate after a linear warm-up. linear_google and polynomial decay from step 0 with
    the warm-up spliced in; linear and cosine decay from the end of the warm-up, as in Hugging Face;
    inverse_sqrt is the Transformer's (Noam), peak * (warmup_steps / step)^0.5; wsd keeps the peak
    and decays linearly at the end; constant keeps the peak."""
    warmup_steps: int | None = None
    """Number of updates to reach the peak; 0 disables the warm-up. Default: a tenth of all
    steps, or `warmup_proportion` in fine-tuning."""
    power: float | None = None
    """Exponent of the polynomial decay. Default: 0.5, as in NVIDIA's LAMB."""
    end_ratio: float = 0.0
    """Fraction of the peak at the end of a decaying schedule."""
    decay_share: float | None = None
    """Fraction of all steps in which wsd decays. The default is 0.1."""
    cooldown_steps: int = 0
    """Number of last steps in which the learning rate falls linearly to 0. To cool down a finished
    constant run, set this and raise the number of training steps by as many."""
    weight_decay: float = 0.01
    """Decoupled weight decay, without LayerNorm and biases."""
    beta1: float = 0.9
    """Decay rate of the first moment."""
    beta2: float = 0.999
    """Decay rate of the second moment."""
    eps: float | None = None
    """Term added to the root of the second moment. Default: by optimizer."""
    clip_norm: float = 1.0
    """Maximum global norm of the gradient; 0: no clipping."""
    layer_decay: float = 1.0
    """Factor between the learning rates of a layer and of the layer above it. Heads and pooler
    have the full rate."""
    freeze: Sequence[str] = ()
    """Parameter groups that are not trained: embeddings, encoder, pooler or a head; layer_3;
    layer_0-5 (six layers); or a longer path such as embeddings/position_embeddings."""
    groups: Sequence[ParamGroup] = ()
    """Parameter groups with a peak and a warm-up of their own, such as
    encoder:learning_rate=1.4e-5,warmup_steps=20000; their names are those of `optimizer.freeze`.
    All other parameters have those of the optimizer, and the schedule is the same for all."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated and exported,
    e.g. 0.999. The first steps use a lower decay. 0 keeps no average."""

    def __post_init__(self) -> None:
        refuse_unknown("`optimizer.name`", self.name, OPTIMIZERS)
        refuse_unknown("`optimizer.schedule`", self.schedule, get_args(ScheduleName))
        make_tuples(self)  # the cache of programs needs a hashable value
        zero_to_one = ("beta1", "beta2", "end_ratio", "ema_decay")
        self._check("a number above 0", lambda x: 0 < x < math.inf, "learning_rate", "eps", "power")
        self._check("at least 0 and below 1", lambda x: 0 <= x < 1, *zero_to_one)
        self._check("above 0 and at most 1", lambda x: 0 < x <= 1, "layer_decay", "decay_share")
        self._check("0 or more", lambda x: x >= 0, "warmup_steps", "cooldown_steps", "clip_norm")
        self._check("0 or more", lambda x: 0 <= x < math.inf, "weight_decay")
        self._check_schedule()

    def _check(self, wanted: str, is_valid: Callable[[float], bool], *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not is_valid(value):
                raise UserError(f"`optimizer.{name}` is {value}: give {wanted}.")

    def _check_schedule(self) -> None:
        """Refuses settings that the schedule does not use."""
        for name, owner in (("power", "polynomial"), ("decay_share", "wsd")):
            if getattr(self, name) is not None and self.schedule != owner:
                raise UserError(
                    f"`optimizer.{name}` belongs to the schedule {owner}, and the schedule is "
                    f"{self.schedule}: leave it out."
                )
        if self.end_ratio and self.schedule in ("constant", "inverse_sqrt"):
            raise UserError(
                f"`optimizer.end_ratio`: the schedule {self.schedule} has no final learning rate."
            )
        if self.cooldown_steps and self.schedule == "wsd":
            raise UserError(
                "`optimizer.cooldown_steps`: the schedule wsd already ends with a decay; set "
                "`optimizer.decay_share` instead."
            )
        is_linear = self.schedule.startswith("linear") or self.power == 1
        if self.cooldown_steps and is_linear and not self.end_ratio:
            raise UserError(
                f"`optimizer.cooldown_steps`: the schedule {self.schedule} already falls linearly "
                "to 0; use the cooldown with the schedule constant or cosine."
            )


RATE_FIELDS = (
    *("learning_rate", "schedule", "warmup_steps", "layer_decay", "groups"),
    *("power", "end_ratio", "decay_share", "cooldown_steps"),
)
"""Fields of OptimizerConfig that determine the learning rate."""


def make_optimizer(
    config: OptimizerConfig,
    rate: optax.ScalarOrSchedule,
    *,
    layers: int | Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """Chains clipping, the optimizer of the table, layer-wise decay and the learning rates.

    Args:
        config: the optimizer. A group without a trained parameter, or with one of another group,
            is a UserError when the state is made.
        rate: the learning rate. With `config.groups` it is a function (count, *, group) such as
            `schedules.make_schedule` returns.
        layers: number of layers of the model, or of each of its parts by name; only layer_decay
            needs it.
    """
    by_layer, by_rate = optax.identity(), optax.scale_by_learning_rate(rate)
    if config.groups:
        if not callable(rate):
            raise ValueError("groups need a schedule such as make_schedule returns.")
        by_rate = _scale_by_rates(config.groups, rate)
    if config.layer_decay != 1.0:
        if layers is None:
            raise ValueError("layer_decay needs the number of layers of the model.")
        by_layer = scale_by_layer(config.layer_decay, layers)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        OPTIMIZERS[config.name](config),
        by_layer,
        by_rate,
    )


def decay_mask(params: Any) -> Any:
    """Returns True for parameters with weight decay: all except LayerNorm and biases."""

    def decayed(path: tuple, _: object) -> bool:
        *modules, leaf = path_name(path).split("/")
        return leaf != "bias" and not any(name.endswith("layer_norm") for name in modules)

    return tree_map_with_path(decayed, params)


def scale_by_layer(
    layer_decay: float, layers: int | Mapping[str, int]
) -> optax.GradientTransformation:
    """Multiplies every update by `param_groups.scale_of` its path."""

    def scaled(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf * param_groups.scale_of(path_name(path), layer_decay, layers)

    return optax.stateless(lambda updates, params: tree_map_with_path(scaled, updates))


def _scale_by_rates(
    groups: Sequence[ParamGroup], rate: Callable[..., Any]
) -> optax.GradientTransformation:
    """Multiplies every update by minus the rate(count, group=...) of its group, or of None.

    Its state is that of `optax.scale_by_learning_rate`.
    """

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        param_groups.owners(groups, params)
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        owners = param_groups.owners(groups, updates)
        factors = {group: -rate(state.count, group=group) for group in (None, *groups)}

        def scaled(path: tuple, leaf: jax.Array) -> jax.Array:
            return leaf * factors[owners.get(path_name(path))]

        return tree_map_with_path(scaled, updates), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def scale_by_adam(
    beta1: float, beta2: float, eps: float, *, bias_correction: bool = True
) -> optax.GradientTransformation:
    """Scales by Adam, as `optax.scale_by_adam`, or without bias correction.

    optax computes 1 - beta^count in float32, where beta = 0.999 loses five digits: after twenty
    updates its parameters deviate from float64 by up to 1e-5, and these by 2e-7 (measured).
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, updates)
        if bias_correction:
            mean, square = (_correction(beta, count) for beta in (beta1, beta2))
            scaled = jax.tree.map(lambda m, v: m / mean / (jnp.sqrt(v / square) + eps), mu, nu)
        else:
            scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _correction(beta: float, count: jax.Array) -> jax.Array:
    """Returns 1 - beta^count, the share of the gradients in a moment that began at 0."""
    return -jnp.expm1(count * (math.log(beta) if beta else -math.inf))


def _adam(config: OptimizerConfig, eps: float, **options: bool) -> optax.GradientTransformation:
    """Adam and weight decay; `eps` is the default of the optimizer."""
    eps = eps if config.eps is None else config.eps
    adam = scale_by_adam(config.beta1, config.beta2, eps, **options)
    return optax.chain(adam, _weight_decay(config))


def _weight_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)


def _lamb(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam with each tensor's update scaled to the norm of the tensor, as FusedLAMB of NVIDIA's
    apex (multi_tensor_lamb.cu): after weight decay, and only for parameters that have it."""
    trust_ratio = optax.masked(optax.scale_by_trust_ratio(), decay_mask)
    return optax.chain(_adam(config, 1e-6), trust_ratio)


def _stable_adamw(config: OptimizerConfig) -> optax.GradientTransformation:
    """StableAdamW (Wortsman et al. 2023, arXiv 2304.13013, algorithm 2): AdamW, weight decay
    included, divided by the root mean square of g / sqrt(v) of each tensor where that exceeds 1."""
    eps = 1e-6 if config.eps is None else config.eps
    adam = _adam(config, eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        changes, state = adam.update(updates, state, params)
        share = _correction(config.beta2, state[0].count)

        def limited(change: jax.Array, g: jax.Array, v: jax.Array) -> jax.Array:
            mean = jnp.mean(jnp.square(g) / jnp.maximum(v / share, eps**2))
            return change / jnp.maximum(1.0, jnp.sqrt(mean))

        return jax.tree.map(limited, changes, updates, state[0].nu), state

    return optax.GradientTransformation(adam.init, update)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon (Jordan 2024) with Nesterov momentum 0.95, as in Moonlight's muon.py (arXiv 2502.16982);
    AdamW for all but the matrices of layers."""

    def kind(path: tuple, leaf: Any) -> str:
        return "muon" if param_groups.in_layer(path_name(path)) and leaf.ndim == 2 else "adamw"

    eps = 1e-8 if config.eps is None else config.eps
    orthogonalized = optax.stateless(lambda updates, _: jax.tree.map(_orthogonalized, updates))
    kinds: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(optax.trace(0.95, nesterov=True), orthogonalized),
        "adamw": scale_by_adam(config.beta1, config.beta2, eps),
    }
    return optax.chain(
        optax.partition(kinds, functools.partial(tree_map_with_path, kind)), _weight_decay(config)
    )


def _orthogonalized(matrix: jax.Array) -> jax.Array:
    """Brings the singular values of a matrix [m, n] near 0.2 sqrt(max(m, n)), so that the mean
    square of its entries is about that of an update of AdamW.

    It needs the whole matrix: on a mesh every device gathers the momentum once, and all compute the
    same.
    """

    def whole(array: jax.Array) -> jax.Array:
        meshless = jax.sharding.get_abstract_mesh().empty
        return array if meshless else jax.lax.with_sharding_constraint(array, PartitionSpec())

    tall = matrix.shape[0] > matrix.shape[1]
    x = whole(matrix.T if tall else matrix)
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):  # Newton-Schulz with Jordan's coefficients
        square = x @ x.T
        x = whole(3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x)
    return 0.2 * math.sqrt(max(matrix.shape)) * (x.T if tall else x)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw_google": lambda config: _adam(config, 1e-6, bias_correction=False),
    "adamw": lambda config: _adam(config, 1e-8),
    "lamb": _lamb,
    "stable_adamw": _stable_adamw,
    "muon": _muon,
}
"""Name -> configuration -> transformation of clipped gradients to updates, before the learning rate
and its sign. A recipe can add its own; a resumed run must have the same name."""

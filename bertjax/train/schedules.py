"""Learning rate schedules, computed by one pure function.

Every schedule rises linearly from 0 to its peak during the warm-up. Afterwards

- linear_google falls linearly, counted from update 0, so that the rate drops at the end of the
  warm-up (`create_optimizer` of Google's optimization.py);
- polynomial falls likewise, by a power of the remaining share of updates. A power of 1 is
  linear_google; NVIDIA trains with LAMB and 0.5 (`PolyWarmUpScheduler` of DeepLearningExamples'
  PyTorch BERT, which counts from 1: its first update has the rate of our second);
- linear falls linearly from the end of the warm-up (Hugging Face's
  `get_linear_schedule_with_warmup`);
- cosine falls by half a cosine from the end of the warm-up (`get_cosine_schedule_with_warmup`);
- inverse_sqrt is peak * (warmup / step)^0.5 (fairseq's `inverse_sqrt`). With the peak
  factor * warmup^-0.5 it is the Transformer's schedule (Vaswani et al. 2017, equation 3; `noam` in
  other programs), which counts from 1: its first update has the rate of our second. The factor is
  d_model^-0.5 there. Liu and Lapata 2019 (section 3.3) have 2e-3 for the encoder, a peak of 1.4e-5
  after 20,000 updates, and 0.1 for the decoder, a peak of 1e-3 after 10,000 (their program: 0.2);
- wsd (warm-up, stable, decay; arXiv 2404.06395) keeps the peak and falls linearly at the end;
- constant keeps the peak.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax.errors import UserError
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.param_groups import ParamGroup


def learning_rate(
    config: OptimizerConfig,
    count: Any,
    *,
    peak: Any,
    warmup: Any,
    total: Any,
    group: ParamGroup | None = None,
) -> jax.Array:
    """Computes the float32 learning rate [] of the next update. All but `config` may be traced.

    Args:
        config: the schedule; `peak` and `warmup` replace its learning_rate and warmup_steps.
        count: number of updates applied so far.
        peak: maximum rate.
        warmup: number of updates to reach the peak; less than `total`; 0 disables the warm-up.
        total: number of all updates; the rate stays constant after them.
        group: a group of `config.groups`, whose peak and warm-up replace the given ones.
    """
    if group is not None:
        peak = group.learning_rate
        warmup = warmup if group.warmup_steps is None else group.warmup_steps
    count = jnp.asarray(count, jnp.float32)
    # The schedule stops where the cooldown begins.
    at = jnp.minimum(count, total - config.cooldown_steps)

    def remaining(start: Any) -> jax.Array:
        return jnp.clip((total - at) / jnp.maximum(total - start, 1.0), 0.0, 1.0)

    name = config.schedule
    if name == "constant":
        share = jnp.ones(())
    elif name == "linear":
        share = remaining(warmup)
    elif name == "cosine":
        # (1 + cos(pi t)) / 2 without the difference of two nearly equal numbers near the end.
        share = jnp.sin(0.5 * jnp.pi * remaining(warmup)) ** 2
    elif name == "inverse_sqrt":
        start = jnp.maximum(warmup, 1.0)
        share = jnp.sqrt(start / jnp.maximum(at, start))
    elif name == "wsd":
        share = remaining(total - _decay_share(config) * total)
    elif name == "polynomial":
        share = remaining(0.0) ** (0.5 if config.power is None else config.power)
    else:
        share = remaining(0.0)
    if config.end_ratio:
        share = config.end_ratio + (1.0 - config.end_ratio) * share
    decayed = peak * share
    rate = jnp.where(at < warmup, peak * at / jnp.maximum(warmup, 1.0), decayed)
    if config.cooldown_steps:
        rate = rate * jnp.clip((total - count) / config.cooldown_steps, 0.0, 1.0)
    return jnp.asarray(rate, jnp.float32)


def make_schedule(
    config: OptimizerConfig, total_steps: int, section: str = "optimizer"
) -> optax.Schedule:
    """Makes the schedule: number of updates applied so far -> learning rate of the next one.

    With the keyword `group`, a group of `config.groups`, it returns that group's rate.

    Raises UserError if warm-up and decay do not fit into the training steps. Its message names
    warmup_steps in `section` of the user's configuration.
    """
    warmup = total_steps // 10 if config.warmup_steps is None else config.warmup_steps
    _check_warmup(config, warmup, total_steps, f"`{section}.warmup_steps`")
    for group in config.groups:
        if group.warmup_steps is not None:
            field = f"`{section}.groups`: the warm-up of {group.name}"
            _check_warmup(config, group.warmup_steps, total_steps, field)
    return functools.partial(
        learning_rate, config, peak=config.learning_rate, warmup=warmup, total=total_steps
    )


def _check_warmup(config: OptimizerConfig, warmup: int, total_steps: int, field: str) -> None:
    if not warmup and config.schedule == "inverse_sqrt":
        raise UserError(f"{field} is 0: the schedule inverse_sqrt needs a warm-up of 1 or more.")
    if warmup and warmup >= total_steps:
        raise UserError(
            f"{field} is {warmup} and must be less than the {total_steps} training steps, or the "
            "learning rate never reaches its peak."
        )
    if warmup + config.cooldown_steps > total_steps:
        raise UserError(
            f"{field} ({warmup}) and `optimizer.cooldown_steps` ({config.cooldown_steps}) exceed "
            f"the {total_steps} training steps: reduce one of them."
        )
    share = _decay_share(config)
    before_decay = total_steps * (1 - share) * (1 + 1e-9)  # 1000 * (1 - 0.9) is below 100
    if config.schedule == "wsd" and warmup > before_decay:
        raise UserError(
            f"{field} ({warmup}) reaches into the decay of the schedule wsd, the last {share:.0%} "
            f"of {total_steps} steps: reduce it or `optimizer.decay_share`."
        )


def _decay_share(config: OptimizerConfig) -> float:
    return 0.1 if config.decay_share is None else config.decay_share

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
- wsd (warm-up, stable, decay; arXiv 2404.06395) keeps the peak and falls linearly at the end;
- constant keeps the peak.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

ScheduleName = Literal["linear_google", "linear", "polynomial", "cosine", "wsd", "constant"]
POWER, DECAY_SHARE = 0.5, 0.1
"""Defaults of polynomial and of wsd."""


def learning_rate(
    name: ScheduleName,
    count: Any,
    *,
    peak: Any,
    warmup: Any,
    total: Any,
    power: float | None = None,
    end_ratio: float = 0.0,
    decay_share: float | None = None,
    cooldown: int = 0,
) -> jax.Array:
    """Computes the learning rate of the next update. Arguments of type Any may be traced.

    Args:
        name: schedule.
        count: number of updates applied so far.
        peak: maximum rate.
        warmup: number of updates to reach the peak; less than `total`; 0 disables the warm-up.
        total: number of all updates; the rate stays constant after them.
        power: exponent of polynomial; the default is `POWER`.
        end_ratio: final rate of a decaying schedule, as a fraction of the peak.
        decay_share: fraction of all updates in which wsd falls; the default is `DECAY_SHARE`.
        cooldown: number of last updates in which the rate falls linearly to 0.

    Returns:
        float32 [].
    """
    count = jnp.asarray(count, jnp.float32)
    at = jnp.minimum(count, total - cooldown)  # the schedule stops where the cooldown begins

    def remaining(start: Any) -> jax.Array:
        return jnp.clip((total - at) / jnp.maximum(total - start, 1.0), 0.0, 1.0)

    if name == "constant":
        share = jnp.ones(())
    elif name == "linear":
        share = remaining(warmup)
    elif name == "cosine":
        # (1 + cos(pi t)) / 2 without the difference of two nearly equal numbers near the end.
        share = jnp.sin(0.5 * jnp.pi * remaining(warmup)) ** 2
    elif name == "wsd":
        share = remaining(total - (DECAY_SHARE if decay_share is None else decay_share) * total)
    elif name == "polynomial":
        share = remaining(0.0) ** (POWER if power is None else power)
    else:
        share = remaining(0.0)
    decayed = peak * (share if name == "constant" else end_ratio + (1.0 - end_ratio) * share)
    rate = jnp.where(at < warmup, peak * at / jnp.maximum(warmup, 1.0), decayed)
    if cooldown:
        rate = rate * jnp.clip((total - count) / cooldown, 0.0, 1.0)
    return jnp.asarray(rate, jnp.float32)

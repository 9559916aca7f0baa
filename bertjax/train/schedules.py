"""Learning rates by the names of the recipes they reproduce: one pure function for every use."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

ScheduleName = Literal["linear_google", "linear", "polynomial", "cosine", "wsd", "constant"]
POWER, DECAY_SHARE = 0.5, 0.1
"""What polynomial and wsd have where nothing is said."""


def learning_rate(
    name: ScheduleName,
    count: Any,
    *,
    peak: Any,
    warmup: Any,
    total: Any,
    power: float = POWER,
    end_ratio: float = 0.0,
    decay_share: float = DECAY_SHARE,
    cooldown: int = 0,
) -> jax.Array:
    """The learning rate of the next update. Numbers of type Any may be traced.

    Every schedule reaches its peak by a linear warm-up from 0. Then

    - linear_google falls by a line that is counted from update 0, with the warm-up spliced in: at
      its end the rate falls by a step (`create_optimizer` of Google's optimization.py);
    - polynomial falls likewise, by a power of the share that is left: 1 makes it linear_google, and
      with 0.5 NVIDIA trains by LAMB (`PolyWarmUpScheduler` of DeepLearningExamples' PyTorch BERT;
      it counts from 1, so that its first update has the rate of our second);
    - linear falls by a line from the end of the warm-up (Hugging Face's
      `get_linear_schedule_with_warmup`);
    - cosine falls by half a cosine from the end of the warm-up (`get_cosine_schedule_with_warmup`);
    - wsd (warm-up, stable, decay; arXiv 2404.06395) keeps the peak, and falls by a line over the
      last updates;
    - constant keeps the peak.

    Args:
        name: of the schedule.
        count: updates applied so far.
        peak: the highest rate.
        warmup: updates until the peak; 0: none. Less than `total`.
        total: updates in all; the rate stays what it is there.
        power: of polynomial.
        end_ratio: what all but constant end at, as a share of the peak.
        decay_share: of wsd: the share of all updates in which it falls.
        cooldown: the last so many updates fall by a line to 0 from what the schedule has there; 0:
            none.

    Returns:
        float32 [].
    """
    count = jnp.asarray(count, jnp.float32)
    at = jnp.minimum(count, total - cooldown)  # the schedule stands still while it cools down

    def left(start: Any) -> jax.Array:
        return jnp.clip((total - at) / jnp.maximum(total - start, 1.0), 0.0, 1.0)

    if name == "constant":
        share = jnp.ones(())
    elif name == "linear":
        share = left(warmup)
    elif name == "cosine":
        # (1 + cos(pi t)) / 2, without the difference of two nearly equal numbers near its end.
        share = jnp.sin(0.5 * jnp.pi * left(warmup)) ** 2
    elif name == "wsd":
        share = left(total - decay_share * total)
    elif name == "polynomial":
        share = left(0.0) ** power
    else:
        share = left(0.0)
    decayed = peak * (share if name == "constant" else end_ratio + (1.0 - end_ratio) * share)
    rate = jnp.where(at < warmup, peak * at / jnp.maximum(warmup, 1.0), decayed)
    if cooldown:
        rate = rate * jnp.clip((total - count) / cooldown, 0.0, 1.0)
    return jnp.asarray(rate, jnp.float32)

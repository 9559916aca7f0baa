"""Settings of a pre-training run that its checkpoints record."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from bertjax.config import BertConfig
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.phases import Phase, data_settings, immutable_at, second_mutable
from bertjax.text.tokenizer import Tokenizer
from bertjax.train.checkpoint.settings import ORDER, RunSettings
from bertjax.train.optimizer import RATE_FIELDS

UNSET_NAMES = (
    *("data", ORDER, "length_buckets", "pack", "seed", "initialization"),
    *("objective", "masking", "evaluation_masking", "batch_size"),
)
"""Immutable settings without a value in the first checkpoint of a converted run."""


CHANGED_MASKS = ("final_masking_rate", "causal_share")
"""Immutable settings of single runs, which the others do not record."""
HELD = ("freeze", "ema_decay")
"""Settings of the optimizer that decide the state's arrays; its other ones may change."""


def known_settings(config: PretrainConfig) -> dict[str, Any]:
    """Returns the immutable settings that are known before data and tokenizer are read."""
    return {
        "seed": config.seed,
        "batch_size": config.batch_size,
        "initialization": dataclasses.asdict(config.initialization),
        "masking": dataclasses.asdict(config.masking),
        "evaluation_masking": dataclasses.asdict(config.evaluation_masking),
        "optimizer": config.optimizer.name,
        **{name: value for name in CHANGED_MASKS if (value := getattr(config, name))},
        **{name: value for name in HELD if (value := getattr(config.optimizer, name))},
    }


def run_settings(
    config: PretrainConfig,
    model: BertConfig,
    params: Iterable[str],
    tokenizer: Tokenizer,
    phases: Sequence[Phase],
    teacher: str | None = None,
) -> RunSettings:
    """Returns the settings that a resumed run must share, and those that it may change.

    `params` names the top-level subtrees of the parameters, and `teacher` is the hash of a
    teacher's.
    """
    objective, optimizer = phases[0].objective, dataclasses.asdict(config.optimizer)
    for held in HELD:
        del optimizer[held]
    name = optimizer.pop("name")
    rescheduled = "the learning rate follows the new schedule from here on"
    immutable = {
        **weights_settings(model, params, tokenizer, name),
        **known_settings(config),
        "objective": {"name": objective.name, **dataclasses.asdict(objective)},
        **data_settings(phases[0]),
        **({"teacher": teacher} if teacher else {}),
    }
    return RunSettings(
        immutable=functools.partial(immutable_at, phases=phases, immutable=immutable),
        mutable={
            "optimizer": optimizer,
            "mesh": dataclasses.asdict(config.mesh),
            "devices": jax.device_count(),
            "execution": dataclasses.asdict(config.execution),
            "accumulation": config.accumulation,
            "eval_examples": config.eval_examples,
            **second_mutable(config),
        },
        effects={
            "train_steps": rescheduled,
            **{f"optimizer.{field}": rescheduled for field in RATE_FIELDS},
            **{f"second.{field}": rescheduled for field in ("learning_rate", "warmup_steps")},
        },
    )


def weights_settings(
    model: BertConfig, params: Iterable[str], tokenizer: Tokenizer, optimizer: str
) -> dict[str, Any]:
    """Returns the immutable settings that weights and moments determine, converted ones too."""
    return {
        "model": model.to_dict(),
        "heads": sorted({*params} - {"embeddings", "encoder"}),
        "tokenizer": tokenizer.sha256,
        "optimizer": optimizer,
    }

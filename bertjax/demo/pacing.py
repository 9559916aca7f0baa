"""How long each stage of the demo trains, from the speed of a few steps on this machine."""

import functools
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.data.shards import read_manifest
from bertjax.demo.hyperparameters import Hyperparameters
from bertjax.model.flops import encoder_flops
from bertjax.objectives.table import choose_objective
from bertjax.pretrain.config import PretrainConfig

_REPEATS = 8
_EVALUATIONS = 10
_CHECKPOINT = 0.5  # seconds for the end of a run
_OTHER_STAGES = 8.0  # seconds for TF-IDF, predictions and the report
# Masking, the optimizer, and waiting for the host add 15% to the gradient of a small model.
_STEP_OVER_GRADIENT = 1.15


class Speed(NamedTuple):
    """Speed of this machine, in seconds."""

    pretrain_step: float
    finetune_step: float
    read_row: float  # forward pass of one row, as in an evaluation
    compile: float  # compilation of one program


def measure(config: PretrainConfig, hyper: Hyperparameters) -> Speed:
    """Times the gradient of pre-training on random ids, for a few seconds."""
    manifest = read_manifest(config.directories[0])
    model, length = config.model.resolve(manifest.vocab_size), manifest.max_seq_length
    predictions = config.masking.predictions(length)
    rows, generator = config.batch_size, np.random.default_rng(0)
    ids = generator.integers(0, model.vocab_size, (rows, length), np.int32)
    batch = {
        "input_ids": jnp.asarray(ids),
        "attention_mask": jnp.ones((rows, length), jnp.int32),
        "token_type_ids": jnp.zeros((rows, length), jnp.int32),
        "masked_positions": jnp.sort(generator.integers(0, length, (rows, predictions), np.int32)),
        "masked_labels": jnp.asarray(ids[:, :predictions]),
        "masked_weights": jnp.ones((rows, predictions), jnp.float32),
        "next_sentence_label": jnp.asarray(ids[:, 0] % 2),
    }
    objective = choose_objective(config.objective, manifest.segments)
    params = jax.jit(functools.partial(objective.init_params, model))(jax.random.key(config.seed))
    gradient = jax.jit(jax.grad(functools.partial(objective.loss, config=model), has_aux=True))

    def seconds() -> float:
        started = time.monotonic()
        jax.block_until_ready(gradient(params, batch))
        return time.monotonic() - started

    first = seconds()
    each = float(np.median([seconds() for _ in range(_REPEATS)]))
    # Fine-tuning has no masked-LM head and reads [CLS] alone.
    share = encoder_flops(model, length, 1) / objective.flops(model, length, predictions)
    finetune_step = each * share * hyper.finetune_batch_size / rows
    return Speed(
        pretrain_step=each * _STEP_OVER_GRADIENT,
        finetune_step=finetune_step * _STEP_OVER_GRADIENT,
        # A backward pass takes twice as long as a forward pass.
        read_row=finetune_step / hyper.finetune_batch_size / 3,
        compile=first - each,
    )


class Budget(NamedTuple):
    """Work that fits into the time; all but `steps` in seconds."""

    steps: int  # steps of pre-training
    pretrain: float
    embedding: float
    finetune: dict[str, float]  # fine-tuning one of the two models on train, few and fewest
    late: float  # time beyond what was asked for; 0 if the demo fits


def budget(
    hyper: Hyperparameters, speed: Speed, *, rows: dict[str, int], examples: int, seconds: float
) -> Budget:
    """Gives pre-training the time that the other stages leave.

    `rows` are those of `passages.Corpus`. `examples` is the number of training examples of
    pre-training, `seconds` the time left for all unfinished stages.
    """
    scoring = (rows["dev"] + rows["test"]) * speed.read_row + _CHECKPOINT
    finetune = {}
    for name in ("train", "few", "fewest"):
        steps = hyper.label_epochs(name) * math.ceil(rows[name] / hyper.finetune_batch_size)
        finetune[name] = speed.compile + hyper.seeds * (steps * speed.finetune_step + scoring)
    embedded = 2 * rows["pairs"] / hyper.finetune_batch_size  # in steps of fine-tuning
    embedding = embedded * speed.finetune_step + 2 * speed.compile + _CHECKPOINT
    evaluations = _EVALUATIONS * hyper.eval_examples * speed.read_row
    fixed = 2 * sum(finetune.values()) + embedding + 2 * speed.compile + evaluations
    fixed += _OTHER_STAGES
    max_steps = hyper.max_epochs * examples / hyper.batch_size
    fitting = min((seconds - fixed) / speed.pretrain_step, max_steps)
    steps = max(hyper.min_steps, 10 * int(fitting / 10))
    pretrain = steps * speed.pretrain_step + 2 * speed.compile + evaluations
    late = max(0.0, fixed + steps * speed.pretrain_step - seconds)
    return Budget(steps, pretrain, embedding, finetune, late)

"""What the demo trains, and how long: planned by the speed of a few steps on this machine."""

import dataclasses
import functools
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig
from bertjax.data.shards import read_manifest
from bertjax.model.bert import init_params
from bertjax.objectives.losses import pretraining_loss
from bertjax.pretrain.config import PretrainConfig

_REPEATS = 8
_EVALUATIONS = 10
_CHECKPOINT = 0.5  # seconds for the end of a run
_OTHER_PHASES = 8.0  # seconds for TF-IDF, predictions and the report
# What masking, the optimizer, and waiting for the host add to the gradient of a small model.
_REST_OF_A_STEP = 1.15


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the demo trains; chosen on the dev passages, never on the test passages."""

    size: str = "tiny"
    """Named size of the model."""
    vocab_size: int = 8192
    """Most words whole: what a passage is about lies in its words, not in their pieces."""
    max_seq_length: int = 64
    batch_size: int = 32
    """Small: more updates by the same text."""
    masking_rate: float = 0.3
    """More predictions of the same text than BERT's 0.15 asks for, and fewer neighbours to guess
    by, so that more is learned of what a passage is about."""
    learning_rate: float = 2e-3
    beta2: float = 0.98
    """0.999 averages over a thousand steps, as many as there are."""
    initializer_range: float = 0.05
    """The usual 0.02 suits a width of 768; a narrow model starts learning sooner from this."""
    warmup_share: float = 0.1
    least_steps: int = 900
    """Whatever the time says: next sentences are learned from about here on."""
    most_epochs: float = 40.0
    """Above it the text is only learned by heart."""
    finetune_rates: tuple[float, ...] = (1e-3, 2e-3)
    finetune_batch_size: int = 32
    epochs: int = 4
    epochs_few: int = 10
    seeds: int = 3
    held_out: float = 0.03
    eval_examples: int = 256

    @classmethod
    def of(cls, minutes: float) -> "Recipe":
        """The recipe for a budget of time."""
        if minutes < 20:
            return cls()
        # 0.02 times the root of 768 / 256: the same size of activations as in BERT-base.
        return cls(
            size="mini",
            learning_rate=1e-3,
            initializer_range=0.035,
            least_steps=1500,
            finetune_rates=(5e-4, 1e-3),
        )


class Speed(NamedTuple):
    """All in seconds."""

    pretrain_step: float
    finetune_step: float
    read_row: float
    """One row forward, as in an evaluation."""
    compile: float
    """Of one program."""


def measure(config: PretrainConfig, recipe: Recipe) -> Speed:
    """Times the gradient of pre-training on random ids, for a few seconds.

    Args:
        config: of pre-training; its data give the vocabulary and the length.
        recipe: gives the batch size of fine-tuning.
    """
    finetune_batch_size = recipe.finetune_batch_size
    manifest = read_manifest(config.directories[0])
    model, length = config.model.resolve(manifest.vocab_size), manifest.max_seq_length
    predictions = config.masking.predictions(length)
    batch = _random_batch(model, config.batch_size, length, predictions)
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(config.seed))
    gradient = jax.jit(jax.grad(functools.partial(pretraining_loss, config=model), has_aux=True))

    def seconds() -> float:
        started = time.monotonic()
        jax.block_until_ready(gradient(params, batch))
        return time.monotonic() - started

    first = seconds()
    each = float(np.median([seconds() for _ in range(_REPEATS)]))
    encoder_share = _encoder_share(model, length, predictions)
    finetune_step = each * encoder_share * finetune_batch_size / config.batch_size
    return Speed(
        pretrain_step=each * _REST_OF_A_STEP,
        finetune_step=finetune_step * _REST_OF_A_STEP,
        # Forward is a third of forward and backward.
        read_row=finetune_step / finetune_batch_size / 3,
        compile=first - each,
    )


class Plan(NamedTuple):
    """What fits into the time; all but `steps` in seconds."""

    steps: int
    """Of pre-training."""
    pretrain: float
    train: float
    """Fine-tuning with all labels, of one of the two models."""
    few: float
    """The same with few labels."""
    late: float
    """What the demo takes beyond the time that was asked for; 0 if it fits."""


def plan(
    recipe: Recipe, speed: Speed, *, rows: dict[str, int], examples: int, seconds: float
) -> Plan:
    """Gives pre-training the time that the other phases leave.

    Args:
        recipe: what to train.
        speed: of this machine.
        rows: labelled rows: train, few, dev, test.
        examples: training examples of pre-training.
        seconds: left for everything that is still to do.
    """
    runs = len(recipe.finetune_rates) + recipe.seeds - 1
    scoring = (rows["dev"] + rows["test"]) * speed.read_row + _CHECKPOINT
    finetune = {}
    for name, epochs in (("train", recipe.epochs), ("few", recipe.epochs_few)):
        steps = epochs * math.ceil(rows[name] / recipe.finetune_batch_size)
        finetune[name] = speed.compile + runs * (steps * speed.finetune_step + scoring)
    evaluations = _EVALUATIONS * recipe.eval_examples * speed.read_row
    fixed = 2 * sum(finetune.values()) + 2 * speed.compile + evaluations + _OTHER_PHASES
    most = recipe.most_epochs * examples / recipe.batch_size
    fitting = min((seconds - fixed) / speed.pretrain_step, most)
    steps = max(recipe.least_steps, 10 * int(fitting / 10))
    pretrain = steps * speed.pretrain_step + 2 * speed.compile + evaluations
    late = max(0.0, fixed + steps * speed.pretrain_step - seconds)
    return Plan(steps, pretrain, finetune["train"], finetune["few"], late)


def _encoder_share(model: BertConfig, length: int, predictions: int) -> float:
    """The encoder's part of a step's multiplications; the rest is the masked-LM head's."""
    width, wide = model.hidden_size, model.intermediate_size
    layer = 4 * width * width + 2 * width * wide + 2 * length * width
    encoder = model.num_hidden_layers * layer * length
    head = predictions * (width * width + width * model.vocab_size)
    return encoder / (encoder + head)


def _random_batch(
    model: BertConfig, rows: int, length: int, predictions: int
) -> dict[str, jax.Array]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, model.vocab_size, (rows, length), np.int32)
    positions = np.sort(generator.integers(0, length, (rows, predictions), np.int32))
    return {
        "input_ids": jnp.asarray(ids),
        "attention_mask": jnp.ones((rows, length), jnp.int32),
        "token_type_ids": jnp.zeros((rows, length), jnp.int32),
        "masked_positions": jnp.asarray(positions),
        "masked_labels": jnp.asarray(ids[:, :predictions]),
        "masked_weights": jnp.ones((rows, predictions), jnp.float32),
        "next_sentence_label": jnp.asarray(ids[:, 0] % 2),
    }

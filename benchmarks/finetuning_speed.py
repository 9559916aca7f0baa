"""Real tokens a second of fine-tuning in bertjax and with the step of transformers' Trainer."""

import contextlib
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tasks import ARC, minilm
from transformers.trainer_pt_utils import LengthGroupedSampler

import bertjax as bj
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import read_task
from bertjax.finetune.trainer import Trainer
from bertjax.interop.huggingface import from_pretrained

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TASKS = {
    "finetuning": (
        bj.ClassificationConfig(column_names=("text", "label")),
        ("sst2/train.tsv", "sst2/dev.tsv"),
        transformers.AutoModelForSequenceClassification,
    ),
    "tagging": (
        bj.TokenClassificationConfig(),
        ("ner/wnut17/wnut17train.conll", "ner/wnut17/emerging.dev.conll"),
        transformers.AutoModelForTokenClassification,
    ),
    "choice": (
        bj.MultipleChoiceConfig(**ARC),
        ("multiple_choice/arc_challenge_dev.csv", "multiple_choice/arc_challenge_test.csv"),
        transformers.AutoModelForMultipleChoice,
    ),
}
"""Part -> options, training and dev file, and the class of transformers."""


def torch_optimizer(model):
    """Makes AdamW like the Trainer: fused, without decay for biases and LayerNorms."""
    plain = {n for n, _ in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n}
    named = dict(model.named_parameters())
    groups = [
        {"params": [named[name] for name in named if name not in plain]},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, eps=1e-8, weight_decay=0.01, fused=True)


def torch_step(model, loss_of, dtype):
    """Returns a step like the Trainer's: loss, gradients, clipping, AdamW, schedule."""
    optimizer = torch_optimizer(model)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 100, 10_000)
    mixed = dtype == "bfloat16"

    def step(batch):
        with torch.autocast(DEVICE, torch.bfloat16) if mixed else contextlib.nullcontext():
            loss = loss_of(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def their_side(part, asked, directory, task, *, order, width=None):
    """Returns a step of transformers' model, which returns its real tokens.

    `order` yields the rows; they are padded to `width`, or else to the longest of a batch.
    """
    torch.manual_seed(0)
    options = {} if part == "choice" else {"num_labels": task.head.outputs}
    model = TASKS[part][2].from_pretrained(directory, **options).to(DEVICE).train()
    step = torch_step(model, lambda **batch: model(**batch).loss, asked.dtype)
    lengths = task.train.lengths

    def run():
        rows = np.array(list(itertools.islice(order, asked.batch_size)))
        batch = task.train.batch(rows, width or int(lengths[rows].max()))
        labels = batch["label"]
        if part == "tagging":
            labels = np.where(batch["label_weight"] > 0, labels, -100)  # as run_ner.py
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {**{name: batch[name] for name in names}, "labels": labels}
        step({name: torch.tensor(array).long().to(DEVICE) for name, array in inputs.items()})
        return real(batch)

    return run


def real(batch):
    """Returns the tokens of a batch of bertjax, without padding rows and padding choices."""
    rows = np.asarray(batch["example_weight"]) > 0
    counted = np.asarray(batch["attention_mask"])
    if "choice_mask" in batch:
        counted = counted * np.asarray(batch["choice_mask"])[..., None]
    return int(counted[rows].sum())


def our_side(asked, config, model, task):
    """Returns a step of bertjax, which returns its real tokens."""
    trainer = Trainer(config, model, task, lambda line: None, progress=False)
    schedule = trainer.schedule(trainer.settings[0])
    held = {"state": trainer.programs.make_state(trainer.initial_params(0)), "step": 0}
    given = trainer.hyperparameters(0, schedule)
    batches = (trainer.batch(0, schedule, step) for step in range(schedule.epoch_steps))
    for batch in {batch["input_ids"].shape: batch for batch in batches}.values():
        held["state"], _ = trainer.programs.train_step(held["state"], batch, given)  # compiles

    def run():
        batch = trainer.batch(0, schedule, held["step"])
        held["state"], metrics = trainer.programs.train_step(held["state"], batch, given)
        metrics["loss"].block_until_ready()
        held["step"] += 1
        return real(batch)

    return run


def finetuning(part, asked):
    """Measures fine-tuning of a task."""
    directory, data = minilm(), Path(os.environ["BERTJAX_TEST_DATA"])
    model = from_pretrained(str(directory))
    options, (train, dev), _ = TASKS[part]
    with tempfile.TemporaryDirectory(prefix="bertjax-finetuning-") as room:
        configs = {
            grouped: FinetuneConfig(
                model=str(directory),
                train=str(data / train),
                dev=str(data / dev),
                workdir=f"{room}/{grouped}",
                task=options,
                batch_size=asked.batch_size,
                group_by_length=grouped,
                execution=bj.Execution(dtype=asked.dtype),
            )
            for grouped in (False, True)
        }
        task = read_task(configs[False], model, lambda line: None)
        count, lengths = len(task.train), task.train.lengths.tolist()
        random = np.random.default_rng(0).permutation(count).tolist()
        generator = torch.Generator().manual_seed(0)
        sampler = LengthGroupedSampler(asked.batch_size, lengths=lengths, generator=generator)
        # The sampler sorts steps from long to short, so shuffle them.
        whole = np.array(list(sampler)[: count // asked.batch_size * asked.batch_size])
        steps = np.random.default_rng(0).permutation(whole.reshape(-1, asked.batch_size))

        def side(order, **how):
            return their_side(part, asked, directory, task, order=itertools.cycle(order), **how)

        sides = {
            "bertjax": our_side(asked, configs[False], model, task),
            "bertjax_grouped": our_side(asked, configs[True], model, task),
            "padded_to_128": side(random, width=128),
            "padded_to_longest": side(random),
            "grouped": side(steps.reshape(-1).tolist()),
        }
        return real_tokens(asked, sides)


def real_tokens(asked, sides):
    """Returns tokens a second of each side; the sides take turns, and three steps are not timed."""
    for run in sides.values():
        for _ in range(3):
            run()
    rates = {name: [] for name in sides}
    for _ in range(asked.rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            tokens = sum(run() for _ in range(asked.steps))
            rates[name].append(tokens / (time.perf_counter() - started))
    ratio = {}
    for ours, theirs in itertools.product(("bertjax", "bertjax_grouped"), list(sides)[2:]):
        pairs = zip(rates[ours], rates[theirs], strict=True)
        ratio[f"{ours} / {theirs}"] = round(statistics.median(a / b for a, b in pairs), 3)
    medians = {name: round(statistics.median(found)) for name, found in rates.items()}
    return {"steps": asked.steps, "tokens_per_second": medians, "ratio": ratio}

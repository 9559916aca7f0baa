"""Files, a configuration and a finished run that the tests of fine-tuning share.

They share one shape of batches, 16 rows of 16 tokens, so that one step and one forward program are
compiled for most of them.
"""

import dataclasses
import json
import pathlib
import random
import shutil

import pytest

from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import finetune, read_task
from bertjax.finetune.trainer import Trainer
from bertjax.interop.huggingface import save_pretrained
from bertjax.train.optimizer import OptimizerConfig

WORDS = {"pos": ("good", "great", "fine"), "neg": ("bad", "awful", "poor")}


def write_rows(path, count, seed):
    """Writes rows of many lengths, whose words tell the label."""
    generator = random.Random(seed)
    lines = ["text\tlabel\tstars"]
    for _ in range(count):
        label = generator.choice(["pos", "neg"])
        words = generator.choices(WORDS[label], k=generator.randint(1, 26))
        stars = 4.5 if label == "pos" else 1
        lines.append(f"the film was {' '.join(words)} .\t{label}\t{stars}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    return {
        "train": write_rows(directory / "train.tsv", 60, 0),
        "dev": write_rows(directory / "dev.tsv", 21, 1),
        "test": write_rows(directory / "test.tsv", 13, 2),
    }


@pytest.fixture(scope="session")
def short(files, tiny_model, tmp_path_factory):
    """One epoch of 60 rows in batches of 16, of which the last one is ragged."""
    directory = tmp_path_factory.mktemp("short")
    save_pretrained(directory / "model", tiny_model)
    return FinetuneConfig(
        model=str(directory / "model"),
        train=files["train"],
        dev=files["dev"],
        workdir=str(directory / "run"),
        epochs=1,
        batch_size=16,
        max_seq_length=16,
        optimizer=OptimizerConfig(learning_rate=3e-3),
    )


@pytest.fixture
def config(short, tmp_path):
    """Enough epochs to learn."""
    return dataclasses.replace(short, workdir=str(tmp_path / "run"), epochs=10)


@pytest.fixture(scope="session")
def straight(short):
    """The result of one epoch without an interruption."""
    return finetune(short, quiet, progress=False)


@pytest.fixture
def finished(short, straight, tmp_path):
    """The configuration of a finished run of one epoch, in a directory of the test's own."""
    shutil.copytree(straight.workdir, tmp_path / "run")
    return dataclasses.replace(short, workdir=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def make_trainer(tiny_model):
    """Makes the trainer of a configuration, and the schedule of its first setting."""

    def make(config):
        trainer = Trainer(config, tiny_model, read_task(config, tiny_model, quiet), quiet, False)
        return trainer, trainer.schedule(trainer.settings[0])

    return make


@pytest.fixture(scope="session")
def train_kind(tiny_model, tmp_path_factory):
    """Trains a task on files that a function (path, count, seed) writes; returns the files too.

    Without dropout, which doubles the time to compile a step.
    """

    def train(write, suffix, counts, task, **options):
        directory = tmp_path_factory.mktemp(task.kind)
        files = {
            name: write(directory / f"{name}{suffix}", count, seed)
            for seed, (name, count) in enumerate(counts.items())
        }
        save_pretrained(directory / "model", tiny_model)
        config = FinetuneConfig(
            model=str(directory / "model"),
            workdir=str(directory / "run"),
            task=task,
            batch_size=16,
            eval_every=100,
            optimizer=OptimizerConfig(learning_rate=1e-2),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **files,
            **options,
        )
        lines = []
        return files, (config, finetune(config, lines.append, progress=False), lines)

    return train


@pytest.fixture(scope="session")
def with_task():
    """Changes options of the task in a configuration."""

    def change(config, **options):
        return dataclasses.replace(config, task=dataclasses.replace(config.task, **options))

    return change


@pytest.fixture(scope="session")
def read_records():
    """Reads the metrics of the first seed."""

    def read(result):
        text = (pathlib.Path(result.seeds[0].workdir) / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    return read


def quiet(line):
    del line

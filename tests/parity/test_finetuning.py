"""Fine-tunes a small model on every kind of task as transformers and PyTorch do, step by step."""

import dataclasses
import json

import numpy as np
import pytest

import bertjax as bj
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import load_model, read_task
from bertjax.tasks.batches import epoch_order

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]

ROWS, DEV = 29, 24  # the last step of an epoch has 5 rows
TAGS = ("O", "B-PER", "B-LOC")
CURVE = 1e-5


def sentences(rng, count):
    words = ["good", "great", "bad", "the", "a", "film", "was", "is", "not", "and", "films"]
    return [" ".join(rng.choice(words, rng.integers(2, 12))) for _ in range(count)]


def pairs(rng, count, label):
    head = "sentence1\tsentence2\tlabel"
    texts = zip(sentences(rng, count), sentences(rng, count), strict=True)
    return "\n".join([head, *(f"{a}\t{b}\t{label(rng)}" for a, b in texts)])


def tagged(rng, count):
    rows = [text.split() for text in sentences(rng, count)]
    tags = [rng.choice(TAGS, len(row)) for row in rows]
    return "\n\n".join(
        "\n".join(f"{word} {tag}" for word, tag in zip(row, each, strict=True))
        for row, each in zip(rows, tags, strict=True)
    )


def questions(rng, count):
    rows = []
    for text in sentences(rng, count):
        choices = sentences(rng, rng.integers(2, 5))
        answer = int(rng.integers(len(choices)))
        rows.append(json.dumps({"question": text, "choices": choices, "answer": answer}))
    return "\n".join(rows)


PAIR = {"text_column": "sentence1", "pair_column": "sentence2"}
KINDS = {
    "classification": (
        bj.ClassificationConfig(**PAIR),
        "tsv",
        lambda rng, count: pairs(rng, count, lambda rng: rng.choice(["no", "yes"])),
    ),
    "regression": (
        bj.ClassificationConfig(**PAIR, regression=True),
        "tsv",
        lambda rng, count: pairs(rng, count, lambda rng: round(rng.uniform(0, 5), 2)),
    ),
    "tagging": (bj.TokenClassificationConfig(scheme="iob2"), "conll", tagged),
    "choice": (bj.MultipleChoiceConfig(answer_form="from_0"), "jsonl", questions),
}


@pytest.fixture
def finetuning(load_helper):
    """The loop of PyTorch, which tests/parity/tagging.py and benchmarks/tasks.py use too."""
    pytest.importorskip("torch", reason="torch comes with the extra parity")
    return load_helper("parity/finetuning.py")


def their_model(kind, labels, encoder, directory):
    """Returns a model of transformers with a new head, and writes it with its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    auto, options = transformers.AutoModelForSequenceClassification, {"num_labels": 1}
    if kind == "choice":
        auto, options = transformers.AutoModelForMultipleChoice, {}
    elif kind == "tagging":
        auto = transformers.AutoModelForTokenClassification
    if labels:
        options = {"id2label": dict(enumerate(labels))}
    model = auto.from_pretrained(encoder, **options)
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(encoder).save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_all_steps(kind, finetuning, tiny_model, tmp_path, hold):
    options, suffix, write = KINDS[kind]
    rng = np.random.default_rng(0)
    for name, count in (("train", ROWS), ("dev", DEV)):
        (tmp_path / f"{name}.{suffix}").write_text(write(rng, count) + "\n")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = dataclasses.replace(
        tiny_model, config=dataclasses.replace(tiny_model.config, **still)
    )
    bj.save_pretrained(tmp_path / "encoder", encoder)
    config = FinetuneConfig(
        model=str(tmp_path / "encoder"),
        train=str(tmp_path / f"train.{suffix}"),
        dev=str(tmp_path / f"dev.{suffix}"),
        workdir=str(tmp_path / "run"),
        task=options,
        batch_size=8,
        epochs=3,
        log_every=1,
        optimizer=bj.OptimizerConfig(
            name="adamw", learning_rate=5e-3, schedule="linear", weight_decay=0.1, clip_norm=1.0
        ),
    )
    task = read_task(config, load_model(config), lambda line: None)
    model = their_model(kind, task.labels, tmp_path / "encoder", tmp_path / "start")
    expected = []

    def loss(rows):
        found = finetuning.loss_of(*finetuning.logits_and_labels(model, task.train, rows))
        expected.append(found.item())
        return found

    def score():
        rows = np.arange(len(task.dev))
        return finetuning.loss_of(*finetuning.logits_and_labels(model, task.dev, rows)).item()

    dev_loss = finetuning.train_torch(
        model, loss, score, ROWS, config, 0, order=lambda epoch: epoch_order(0, epoch, ROWS)
    )

    result = bj.fit(
        dataclasses.replace(config, model=str(tmp_path / "start"), keep_head=True),
        log=lambda line: None,
    )
    records = map(json.loads, (tmp_path / "run/seed-0/metrics.jsonl").read_text().splitlines())
    found = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(found) == len(expected) == 12
    difference = np.abs(np.array(found) / expected - 1).max()
    hold(f"fine-tuning, {kind}, 12 steps", difference, CURVE, "losses, relative")
    difference = abs(result.seeds[0].metrics["loss"] / dev_loss - 1)
    hold(f"fine-tuning, {kind}, dev", difference, CURVE, "loss after training, relative")

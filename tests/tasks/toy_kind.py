"""A kind of task from outside the package: each word of a text gets a tag."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from bertjax.model import bert
from bertjax.objectives.losses import cross_entropy
from bertjax.tasks.tables import MAX_FIELD, read_table
from bertjax.tasks.task import Head, Task, TaskKind, trained_length
from bertjax.tasks.texts import TextFeatures, tokenize


@dataclasses.dataclass(frozen=True)
class TaggingConfig:
    """Tag each word of a text as other (O) or as praise (P)."""

    kind: ClassVar[str] = "tagging"

    tag_column: str = "tags"
    """Column of the tags, one letter per word."""


@dataclasses.dataclass(frozen=True)
class TaggedFeatures(TextFeatures):
    def batch(self, indices, width):
        batch = super().batch(indices, width)
        label = np.zeros_like(batch["input_ids"])
        label[:, 1 : 1 + self.labels.shape[1]] = batch["label"][:, : width - 1]
        return {**batch, "label": label}


def tagging_loss(params, batch, config, *, normalizers, execution, dropout_key, sample_key=None):
    del sample_key
    logits = bert.task_logits(
        params, batch, config, HEAD.name, execution=execution, dropout_key=dropout_key
    )
    weights = batch["attention_mask"] * batch["example_weight"][:, None]
    right = (logits.argmax(-1) == batch["label"]) * weights
    loss = (cross_entropy(logits, batch["label"]) * weights).sum()
    metrics = {"loss": (loss, weights.sum()), "accuracy": (right.sum(), weights.sum())}
    return loss / jnp.maximum(normalizers["tokens"], 1), metrics


def tagging_normalizers(batch):
    return {"tokens": (batch["attention_mask"] * batch["example_weight"][:, None]).sum()}


HEAD = Head("token_classification", 2, tagging_loss, tagging_normalizers)


def read_features(path, column, tokenizer, length):
    table = read_table(path, ["text", column])
    tags = [["OP".index(tag) for tag in row] for row in table.columns[column]]
    labels = np.zeros((len(tags), length), np.int32)
    for row, each in enumerate(tags):
        labels[row, : len(each)] = each
    rows = tokenize(table.columns["text"], None, tokenizer, length, labels)
    return TaggedFeatures(*(getattr(rows, field.name) for field in dataclasses.fields(rows)))


def accuracy(features, outputs):
    """Outputs are of tokens: the logits [n, T, 2] of each batch have its width."""
    right = total = 0
    for rows, logits in outputs:
        for row, values in zip(rows, logits, strict=True):
            words = features.lengths[row] - 2
            wanted = features.labels[row][:words]
            right += (values[1 : 1 + words].argmax(-1) == wanted).sum()
            total += words
    return {"accuracy": float(right / total)}


def read(options, files):
    features = [
        read_features(path, options.tag_column, files.tokenizer, files.max_seq_length)
        for path in files.paths
    ]
    return Task(
        HEAD,
        *(*features, None)[:3],
        data_hash="train",
        dev_hash="dev",
        metric="accuracy",
        metrics=("accuracy",),
        scores=accuracy,
        immutable={},
        export=lambda scores: {"tag_column": options.tag_column, "dev": scores.get("accuracy")},
    )


class Tagger:
    forward = staticmethod(bert.task_logits)
    chunk_lines, max_line = None, MAX_FIELD

    def __init__(self, model, options):
        self.model, self.max_seq_length = model, trained_length(model)

    def parse_line(self, line, where):
        return line

    def predict(self, inputs, run, *, where=None):
        features = tokenize(inputs, None, self.model.tokenizer, self.max_seq_length)
        answers = [None] * len(inputs)
        for rows, logits in run(features):
            for row, values in zip(rows, logits, strict=True):
                tags = values[1 : features.lengths[row] - 1].argmax(-1)
                answers[row] = {"text": inputs[row], "tags": "".join("OP"[tag] for tag in tags)}
        return answers

    def evaluate(self, path, run):
        column, tokenizer = self.model.task["tag_column"], self.model.tokenizer
        features = read_features(path, column, tokenizer, self.max_seq_length)
        return accuracy(features, run(features))


TAGGING = TaskKind(
    options=TaggingConfig, heads=(HEAD.name,), max_seq_length=16, read=read, predictor=Tagger
)

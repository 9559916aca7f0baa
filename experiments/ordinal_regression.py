"""Ordinal regression: a kind of task of one's own, in one file. docs/kinds.md explains it.

    python experiments/ordinal_regression.py finetune --task ordinal --model all-MiniLM-L6-v2 \\
      --train train.tsv --dev dev.tsv --label-column stars --order 1 2 3 4 5 --workdir runs/stars
    python experiments/ordinal_regression.py predict runs/stars < lines.txt

The columns of a row are a text and a label. The labels have an order, and a model of C labels has
C - 1 outputs: the probabilities that a text is above the first label, above the second one, and so
on (Frank and Hall 2001; one network for all outputs as in Niu et al. 2016). Mistaking a 5 for a 4
costs less than mistaking it for a 1. The export is an ordinary BertForSequenceClassification.

Hardware: two CPU cores. Result: not run on real data.
"""

import dataclasses
from typing import ClassVar

import numpy as np

import bertjax as bj
from bertjax import cli
from bertjax.errors import UserError
from bertjax.model import bert
from bertjax.tasks import kinds
from bertjax.tasks.batches import gather
from bertjax.tasks.classification.losses import classification_normalizers
from bertjax.tasks.labels import label_ids
from bertjax.tasks.metrics import sigmoid
from bertjax.tasks.tables import MAX_FIELD, read_table
from bertjax.tasks.task import Baseline, Head, Task, TaskKind, data_hash, trained_length
from bertjax.tasks.texts import tokenize


@dataclasses.dataclass(frozen=True)
class OrdinalConfig:
    """Predict one of several labels that have an order, such as stars."""

    kind: ClassVar[str] = "ordinal"

    order: tuple[str, ...] = ()
    """All labels, from the lowest to the highest."""
    text_column: str = "text"
    """Column of the text."""
    label_column: str = "label"
    """Column of the label."""


def read_features(options, path, tokenizer, max_length):
    columns = {options.text_column: "text_column", options.label_column: "label_column"}
    table = read_table(path, columns)
    ranks = label_ids(table, options.label_column, options.order)
    levels = (ranks[:, None] > np.arange(len(options.order) - 1)).astype(np.int32)  # [N, C - 1]
    return tokenize(table.columns[options.text_column], None, tokenizer, max_length, levels)


def metrics(predicted, levels):
    """Predicted ranks [N] and true levels [N, C - 1] -> metrics."""
    difference = np.abs(predicted - levels.sum(1))
    return {"mae": float(difference.mean()), "accuracy": float((difference == 0).mean())}


def scores(features, outputs):
    return metrics((gather(outputs) >= 0).sum(1), features.labels)


def read(options, files):
    if len(set(options.order)) < max(2, len(options.order)):
        raise UserError(f"`order` is {options.order}: give at least two labels, each once.")
    how = (files.tokenizer, files.max_seq_length)
    train, dev, *test = [read_features(options, path, *how) for path in files.paths]
    files.log(f"Training on {len(train):,} rows, evaluating on {len(dev):,}.")
    head = Head(HEAD, len(options.order) - 1, bj.multi_label_loss, classification_normalizers)
    middle = np.full(len(dev), np.median(dev.labels.sum(1)))
    recorded = dataclasses.asdict(options)
    return Task(
        head,
        train,
        dev,
        test[0] if test else None,
        *(data_hash([each.input_ids, each.labels]) for each in (train, dev)),
        metric="mae",
        metrics=("mae", "accuracy"),
        scores=scores,
        immutable={"order": options.order},
        export=lambda _: {**recorded, "labels": [f"above {each}" for each in options.order[:-1]]},
        baseline=Baseline("median", "the median label", metrics(middle, dev.labels)),
        train_metrics=(),
        dev_metrics=("accuracy",),
    )


class OrdinalPredictor:
    forward = staticmethod(bert.task_logits)
    chunk_lines, max_line = None, MAX_FIELD

    def __init__(self, model, options):
        self.tokenizer, self.max_seq_length = model.tokenizer, trained_length(model)
        names = [field.name for field in dataclasses.fields(OrdinalConfig)]
        self.recorded = OrdinalConfig(**{name: model.task[name] for name in names})

    def parse_line(self, line, where):
        return line

    def predict(self, inputs, run, *, where=None):
        logits = gather(run(tokenize(inputs, None, self.tokenizer, self.max_seq_length)))
        labels = [self.recorded.order[rank] for rank in (logits >= 0).sum(1)]
        each = zip(inputs, labels, sigmoid(logits).tolist(), strict=True)
        return [{"text": text, "label": label, "above": above} for text, label, above in each]

    def evaluate(self, path, run):
        features = read_features(self.recorded, path, self.tokenizer, self.max_seq_length)
        return {"examples": len(features), **scores(features, run(features))}


HEAD = "multi_label_classification"
ORDINAL = TaskKind(
    options=OrdinalConfig, heads=(), max_seq_length=128, read=read, predictor=OrdinalPredictor
)

if __name__ == "__main__":
    kinds.register(ORDINAL)
    cli.main()

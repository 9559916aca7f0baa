"""A fine-tuning configuration's files -> the `Task` that is trained."""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from bertjax.interop.huggingface import Pretrained
from bertjax.objectives import losses
from bertjax.tasks import classification, tables
from bertjax.tasks.task import Chance, Head, Task

if TYPE_CHECKING:
    from bertjax.runs.finetune import FinetuneConfig, Log


def read_task(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    """Reads and tokenizes the files of a configuration.

    Raises:
        UserError: something is wrong with a file; the sentence names the line.
    """
    columns = [config.text_column, config.label_column]
    if config.pair_column:
        columns.insert(1, config.pair_column)

    def read(path: str) -> tables.Table:
        return tables.read_table(path, columns, column_names=config.column_names)

    table = read(config.train)
    labels: tuple[str, ...] = ()
    if not config.regression:
        labels = classification.find_labels(table, config.label_column)

    def examples(table: tables.Table) -> classification.Examples:
        return classification.tokenize(
            table.columns[config.text_column],
            table.columns[config.pair_column] if config.pair_column else None,
            model.tokenizer,
            config.max_seq_length,
            classification.read_labels(table, config.label_column, labels or None),
        )

    # All files are read before any is tokenized: a mistake in the last shows at once.
    others = [read(path) for path in (config.dev, config.test) if path]
    for other in others:
        classification.read_labels(other, config.label_column, labels or None)
    train, dev, *test = [examples(each) for each in (table, *others)]
    data_hash, dev_hash = (
        hashlib.sha256(json.dumps([labels, each.columns]).encode()).hexdigest()
        for each in (table, others[0])
    )
    full = int((train.lengths == config.max_seq_length).sum())
    log(
        f"Training on {len(train):,} rows"
        + (f" with {len(labels)} labels ({', '.join(labels[:8])})" if labels else "")
        + f", evaluating on {len(dev):,}; {full:,} training rows fill all {config.max_seq_length} "
        "tokens."
    )
    return Task(
        _classifier(labels),
        train,
        dev,
        test[0] if test else None,
        data_hash,
        dev_hash,
        config.max_seq_length,
        metric=classification.main_metric(config.regression),
        scores=classification.scores,
        identity={"objective": "regression" if config.regression else "classification"},
        fields=lambda _: {
            "labels": list(labels),
            "text_column": config.text_column,
            "pair_column": config.pair_column,
            "label_column": config.label_column,
            "max_seq_length": config.max_seq_length,
        },
        labels=labels,
        chance=_majority(dev.labels) if labels else None,
        shown=("loss", "pearson"),
    )


def _classifier(labels: tuple[str, ...]) -> Head:
    """The head of these labels; of none, regression's."""
    if not labels:
        return Head("regression", 1, losses.regression_loss, losses.classification_weights)
    return Head(
        "sequence_classification",
        len(labels),
        losses.classification_loss,
        losses.classification_weights,
    )


def _majority(labels: np.ndarray) -> Chance:
    counts = np.bincount(labels)
    return Chance("majority", "the commonest label alone", float(counts.max() / counts.sum()))

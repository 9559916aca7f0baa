"""Labeled files of texts -> a `Task`."""

import dataclasses
from typing import Any

import numpy as np

from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.classification.errors import largest_errors
from bertjax.tasks.classification.features import Reading, targets_of
from bertjax.tasks.classification.targets import Targets, find_targets
from bertjax.tasks.labels import label_weights, looks_like_numbers, read_labeled
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.report_tables import ReportTable
from bertjax.tasks.tables import Table
from bertjax.tasks.task import Outputs, Scores, Task, TaskFiles, data_hash
from bertjax.tasks.texts import TextFeatures


def read(options: ClassificationConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes labeled files.

    Raises:
        UserError: something is wrong with a file; the sentence names the line.
    """
    reading = _reading(options, files.max_seq_length)
    tables = [read_labeled(path, options) for path in files.paths]
    targets = find_targets(options, tables[0])
    # Read all targets before tokenizing: a mistake in the last file shows at once.
    values = [targets.read(table, options.label_column) for table in tables]
    train, dev, *test = [
        _tokenize(options, reading, files, table, targets_of_file)
        for table, targets_of_file in zip(tables, values, strict=True)
    ]
    if options.class_weights is not None:
        weights = label_weights(options.class_weights, targets.labels, values[0])
        train = _weighted(train, weights)
    files.log(_summary(targets, reading, tables, train))
    if looks_like_numbers(targets.labels) and not options.multi_label:
        files.log("Warning: the labels look like numbers: set `regression` to predict numbers.")
    texts = [
        list(zip(*(table.columns[name] for name in options.columns[:-1]), strict=True))
        for table in tables
    ]
    for line in overlaps(files.paths, texts):
        files.log(line)

    def scores(features: TextFeatures, outputs: Outputs) -> Scores:
        return targets.metrics(reading.logits(features, outputs), targets_of(features))

    def report_tables(outputs: Outputs) -> list[ReportTable]:
        columns = {name: tables[1].columns[name] for name in options.columns}
        return largest_errors(targets, reading.logits(dev, outputs), values[1], columns)

    return Task(
        targets.head,
        train,
        dev,
        test[0] if test else None,
        *(data_hash([targets.labels, table.columns]) for table in tables[:2]),
        metric=targets.metric_names[0],
        metrics=targets.metric_names,
        scores=scores,
        immutable={"head": targets.head.name},
        export=lambda _: _export(options, targets, reading),
        labels=targets.labels,
        baseline=targets.baseline(values[1]),
        test_baseline=targets.baseline(values[2]) if test else None,
        train_metrics=targets.train_metrics,
        dev_metrics=("accuracy", "loss", "pearson", "exact_match"),
        report_tables=report_tables,
    )


def _reading(options: ClassificationConfig, max_seq_length: int) -> Reading:
    overlap = options.overlap(max_seq_length) if options.reads_windows else None
    return Reading(max_seq_length, overlap, options.window_logits)


def _tokenize(
    options: ClassificationConfig,
    reading: Reading,
    files: TaskFiles,
    table: Table,
    targets: np.ndarray,
) -> TextFeatures:
    pairs = table.columns[options.pair_column] if options.pair_column else None
    return reading.tokenize(table.columns[options.text_column], pairs, files.tokenizer, targets)


def _weighted(features: TextFeatures, label_weights: np.ndarray) -> TextFeatures:
    """Multiplies the weight of each row by that of its label; label_weights float32 [C]."""
    weights = label_weights[features.labels]
    if features.weights is not None:
        weights = features.weights * weights
    return dataclasses.replace(features, weights=weights)


def _summary(targets: Targets, reading: Reading, tables: list[Table], train: TextFeatures) -> str:
    labels, length = targets.labels, reading.max_seq_length
    names = f" with {len(labels)} labels ({', '.join(labels[:8])})" if labels else ""
    full = int((train.lengths == length).sum())
    tail = f"{full:,} training rows fill all {length} tokens."
    if reading.overlap is not None:
        tail = f"the training rows are {len(train):,} windows of up to {length} tokens."
    return f"Training on {len(tables[0]):,} rows{names}, evaluating on {len(tables[1]):,}; {tail}"


def _windows(options: ClassificationConfig, reading: Reading) -> dict[str, Any]:
    if reading.overlap is None:
        return {}
    return {
        "long_documents": options.long_documents,
        "window_overlap": reading.overlap,
        "window_logits": reading.window_logits,
    }


def _export(options: ClassificationConfig, targets: Targets, reading: Reading) -> dict[str, Any]:
    fields = {
        "labels": list(targets.labels),
        "text_column": options.text_column,
        "pair_column": options.pair_column,
        "label_column": options.label_column,
    }
    if options.multi_label:
        fields["label_separator"] = options.label_separator
    if options.drop_unlabeled:
        fields["drop_unlabeled"] = True
    return fields | _windows(options, reading)

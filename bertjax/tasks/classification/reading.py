"""Labelled rows -> the `Task` of classification, with one label or several, or of regression."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.objectives import losses
from bertjax.tasks import tables
from bertjax.tasks.classification import features, long_documents, multi_label
from bertjax.tasks.classification.long_documents import LongDocuments
from bertjax.tasks.task import Baseline, Head, Task

if TYPE_CHECKING:
    from bertjax.finetune.run import FinetuneConfig, Log


class _Answers(NamedTuple):
    """What stands in the label column, and what becomes of it."""

    objective: str
    """One of the run's immutable settings."""
    labels: tuple[str, ...]
    """Empty for regression."""
    read: Callable[[tables.Table], np.ndarray]
    """The labels of a file."""
    head: Head
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    """Of logits and labels."""
    names: tuple[str, ...]
    """Of the metrics, the main one first."""


def read_classification(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    """Reads and tokenizes the files of a configuration; as `read_task`."""
    length = config.row_length(model.config.max_position_embeddings)
    columns = [config.text_column, config.label_column]
    if config.pair_column:
        columns.insert(1, config.pair_column)
    paths = [path for path in (config.train, config.dev, config.test) if path]
    files = [tables.read_table(path, columns, column_names=config.column_names) for path in paths]
    answers = _answers(config, files[0])
    # All labels are read before any text is tokenized: a mistake in the last file shows at once.
    labels_of_files = [answers.read(table) for table in files]
    train, dev, *test = [
        _tokenize(config, model, length, table, labels)
        for table, labels in zip(files, labels_of_files, strict=True)
    ]
    _say(answers, files, train, length, log)
    data_hash, dev_hash = (
        hashlib.sha256(json.dumps([answers.labels, table.columns]).encode()).hexdigest()
        for table in files[:2]
    )
    return Task(
        answers.head,
        _weighted(config, answers, train, labels_of_files[0]),
        dev,
        test[0] if test else None,
        data_hash,
        dev_hash,
        length,
        metric=answers.names[0],
        scores=_scores(config, answers),
        immutable={"objective": answers.objective, **_immutable(config, length)},
        fields=lambda _: _fields(config, answers, length),
        labels=answers.labels,
        baseline=_majority(labels_of_files[1]) if answers.objective == "classification" else None,
        shown=("loss", "pearson", "exact_match"),
        metrics=answers.names,
    )


def _answers(config: "FinetuneConfig", table: tables.Table) -> _Answers:
    """What the configuration says that the label column is; the labels are those of `table`."""
    column, separator = config.label_column, config.label_separator
    normalizers_fn = losses.classification_normalizers
    if config.regression:
        return _Answers(
            "regression",
            (),
            lambda table: features.target_values(table, column),
            Head("regression", 1, losses.regression_loss, normalizers_fn),
            features.metrics,
            features.metric_names(0),
        )
    if config.multi_label:
        labels = multi_label.find_labels(table, column, separator)
        kind = "multi_label_classification"
        return _Answers(
            "multi-label classification",
            labels,
            lambda table: multi_label.label_sets(table, column, labels, separator),
            Head(kind, len(labels), losses.multi_label_loss, normalizers_fn),
            multi_label.metrics,
            multi_label.METRICS,
        )
    labels = features.find_labels(table, column)
    kind = "sequence_classification"
    return _Answers(
        "classification",
        labels,
        lambda table: features.label_ids(table, column, labels),
        Head(kind, len(labels), losses.classification_loss, normalizers_fn),
        features.metrics,
        features.metric_names(len(labels)),
    )


def _tokenize(
    config: "FinetuneConfig",
    model: Pretrained,
    length: int,
    table: tables.Table,
    labels: np.ndarray,
) -> features.Examples | LongDocuments:
    texts = table.columns[config.text_column]
    if config.long_documents == "windows":
        overlap = _overlap(config, length)
        return long_documents.tokenize(texts, model.tokenizer, length, overlap, labels)
    pairs = table.columns[config.pair_column] if config.pair_column else None
    return features.tokenize(texts, pairs, model.tokenizer, length, labels)


def _overlap(config: "FinetuneConfig", length: int) -> int:
    """Tokens that two windows of at most `length` tokens share."""
    overlap = length // 4 if config.window_overlap is None else config.window_overlap
    if overlap >= length - 2:
        raise UserError(
            f"window_overlap {overlap} leaves nothing new in a window, which holds {length - 2} "
            f"tokens of a text: give less than {length - 2}."
        )
    return overlap


def _scores(config: "FinetuneConfig", answers: _Answers) -> Callable[..., dict[str, float]]:
    if config.long_documents == "windows":
        how = config.window_logits
        return functools.partial(long_documents.scores, metrics=answers.metrics, how=how)
    return functools.partial(features.scores, metrics=answers.metrics)


def _say(
    answers: _Answers,
    files: list[tables.Table],
    train: features.Examples | LongDocuments,
    length: int,
    log: "Log",
) -> None:
    labels = answers.labels
    names = f" with {len(labels)} labels ({', '.join(labels[:8])})" if labels else ""
    full = int((train.lengths == length).sum())
    tail = f"{full:,} training rows fill all {length} tokens."
    if isinstance(train, LongDocuments):
        tail = f"the training rows are {len(train):,} windows of up to {length} tokens."
    log(f"Training on {len(files[0]):,} rows{names}, evaluating on {len(files[1]):,}; {tail}")


def _weighted(
    config: "FinetuneConfig",
    answers: _Answers,
    train: features.Examples | LongDocuments,
    labels: np.ndarray,
) -> features.Examples | LongDocuments:
    """The training rows, each with the weight of its label."""
    if config.class_weights is None:
        return train
    weights = features.label_weights(config.class_weights, answers.labels, labels)
    if isinstance(train, LongDocuments):
        return train.with_weights(weights[train.windows.labels])
    return dataclasses.replace(train, weights=weights[train.labels])


def _immutable(config: "FinetuneConfig", length: int) -> dict[str, Any]:
    """What else decides what is learned, where it is not as it always was."""
    found: dict[str, Any] = {}
    if config.class_weights is not None:
        found["class_weights"] = config.class_weights
    if config.long_documents == "windows":
        found |= _windows_fields(config, length)
    return found


def _windows_fields(config: "FinetuneConfig", length: int) -> dict[str, Any]:
    return {
        "long_documents": config.long_documents,
        "window_overlap": _overlap(config, length),
        "window_logits": config.window_logits,
    }


def _fields(config: "FinetuneConfig", answers: _Answers, length: int) -> dict[str, Any]:
    """What the export has to know of the task."""
    fields = {
        "labels": list(answers.labels),
        "text_column": config.text_column,
        "pair_column": config.pair_column,
        "label_column": config.label_column,
        "max_seq_length": length,
    }
    if config.multi_label:
        fields["label_separator"] = config.label_separator
    if config.long_documents == "windows":
        fields |= _windows_fields(config, length)
    return fields


def _majority(labels: np.ndarray) -> Baseline:
    counts = np.bincount(labels)
    return Baseline("majority", "the commonest label alone", float(counts.max() / counts.sum()))

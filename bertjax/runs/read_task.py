"""A fine-tuning configuration's files -> the `Task` that is trained."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertjax.interop.huggingface import Pretrained
from bertjax.objectives import losses
from bertjax.tasks import (
    classification,
    multi_label,
    question_answering,
    squad,
    squad_metric,
    tables,
    windows,
    word_overlap,
)
from bertjax.tasks.task import Chance, Head, Task

if TYPE_CHECKING:
    from bertjax.runs.finetune import FinetuneConfig, Log


class _Answers(NamedTuple):
    """What stands in the label column, and what becomes of it."""

    objective: str
    """In the identity of the run."""
    labels: tuple[str, ...]
    """Empty for regression."""
    read: Callable[[tables.Table], np.ndarray]
    """The labels of a file."""
    head: Head
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    """Of logits and labels."""
    names: tuple[str, ...]
    """Of the metrics, the main one first."""


def read_task(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    """Reads and tokenizes the files of a configuration.

    Raises:
        UserError: something is wrong with a file; the sentence names the line, or the question.
    """
    return _READERS[config.task](config, model, log)


def _read_classification(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    length = config.row_length(model.config.max_position_embeddings)
    columns = [config.text_column, config.label_column]
    if config.pair_column:
        columns.insert(1, config.pair_column)

    def read(path: str) -> tables.Table:
        return tables.read_table(path, columns, column_names=config.column_names)

    table = read(config.train)
    answers = _answers(config, table)
    labels = answers.labels

    def examples(table: tables.Table) -> classification.Examples:
        return classification.tokenize(
            table.columns[config.text_column],
            table.columns[config.pair_column] if config.pair_column else None,
            model.tokenizer,
            length,
            answers.read(table),
        )

    # All files are read before any is tokenized: a mistake in the last shows at once.
    others = [read(path) for path in (config.dev, config.test) if path]
    for other in others:
        answers.read(other)
    train, dev, *test = [examples(each) for each in (table, *others)]
    data_hash, dev_hash = (
        hashlib.sha256(json.dumps([labels, each.columns]).encode()).hexdigest()
        for each in (table, others[0])
    )
    full = int((train.lengths == length).sum())
    log(
        f"Training on {len(train):,} rows"
        + (f" with {len(labels)} labels ({', '.join(labels[:8])})" if labels else "")
        + f", evaluating on {len(dev):,}; {full:,} training rows fill all {length} tokens."
    )
    return Task(
        answers.head,
        train,
        dev,
        test[0] if test else None,
        data_hash,
        dev_hash,
        length,
        metric=answers.names[0],
        scores=functools.partial(classification.scores, metrics=answers.metrics),
        identity={"objective": answers.objective},
        fields=lambda _: {
            "labels": list(labels),
            "text_column": config.text_column,
            "pair_column": config.pair_column,
            "label_column": config.label_column,
            "max_seq_length": length,
            **({"label_separator": config.label_separator} if config.multi_label else {}),
        },
        labels=labels,
        chance=_majority(dev.labels) if answers.objective == "classification" else None,
        shown=("loss", "pearson", "exact_match"),
        metrics=answers.names,
    )


def _answers(config: "FinetuneConfig", table: tables.Table) -> _Answers:
    """What the configuration says that the label column is; the labels are those of `table`."""
    column, separator, weights_fn = (
        config.label_column,
        config.label_separator,
        losses.classification_weights,
    )
    if config.regression:
        return _Answers(
            "regression",
            (),
            lambda table: classification.target_values(table, column),
            Head("regression", 1, losses.regression_loss, weights_fn),
            classification.metrics,
            classification.metric_names(0),
        )
    if config.multi_label:
        labels = multi_label.find_labels(table, column, separator)
        kind = "multi_label_classification"
        return _Answers(
            "multi-label classification",
            labels,
            lambda table: multi_label.label_sets(table, column, labels, separator),
            Head(kind, len(labels), losses.multi_label_loss, weights_fn),
            multi_label.metrics,
            multi_label.METRICS,
        )
    labels = classification.find_labels(table, column)
    kind = "sequence_classification"
    return _Answers(
        "classification",
        labels,
        lambda table: classification.label_ids(table, column, labels),
        Head(kind, len(labels), losses.classification_loss, weights_fn),
        classification.metrics,
        classification.metric_names(len(labels)),
    )


def _majority(labels: np.ndarray) -> Chance:
    counts = np.bincount(labels)
    return Chance("majority", "the commonest label alone", float(counts.max() / counts.sum()))


def _read_question_answering(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    options = config.question_answering
    length = config.row_length(model.config.max_position_embeddings)
    options.check_fits(length)
    files = [squad.read_squad(path) for path in (config.train, config.dev, config.test) if path]
    train, dev, *test = [
        windows.make_windows(
            each.questions,
            model.tokenizer,
            max_seq_length=length,
            max_query_length=options.max_query_length,
            doc_stride=options.doc_stride,
            has_unanswerable=each.has_unanswerable,
        )
        for each in files
    ]
    answered = int((train.positions[:, 0] > 0).sum())
    log(
        f"Training on {len(files[0]):,} questions in {len(train):,} windows of up to {length} "
        f"tokens, {answered:,} with an answer; evaluating on {len(files[1]):,} questions in "
        f"{len(dev):,} windows."
    )
    return Task(
        Head(
            "question_answering",
            2,
            losses.question_answering_loss,
            losses.question_answering_weights,
        ),
        train,
        dev,
        test[0] if test else None,
        files[0].sha256,
        files[1].sha256,
        length,
        metric="f1",
        scores=functools.partial(
            question_answering.scores, max_answer_length=options.max_answer_length
        ),
        identity={
            "objective": "question_answering",
            "question_answering": dataclasses.asdict(options),
        },
        fields=lambda scores: {
            "max_seq_length": length,
            **dataclasses.asdict(options),
            "has_unanswerable": any(each.has_unanswerable for each in files[:2]),
            "null_threshold": scores.get("best_f1_threshold", 0.0),
        },
        chance=_without_learning(files[0], files[1]),
        shown=("exact", "best_f1"),
        metrics=("f1", "exact", *(("best_f1", "best_exact") if files[1].has_unanswerable else ())),
    )


def _without_learning(train: squad.Questions, dev: squad.Questions) -> Chance:
    """The better of two ways to answer without a model."""
    length = word_overlap.usual_length(train.questions)
    answers = {each.id: word_overlap.overlap_answer(each, length) for each in dev.questions}
    ways = [("word overlap", "the words nearest the question's", answers)]
    if dev.has_unanswerable:
        ways.append(("no answer", "never answering", dict.fromkeys(answers, "")))
    chances = [
        Chance(
            name,
            said,
            squad_metric.squad_scores(dev.questions, texts, has_unanswerable=dev.has_unanswerable)[
                "f1"
            ],
        )
        for name, said, texts in ways
    ]
    return max(chances, key=lambda chance: chance.score)


_READERS = {
    "classification": _read_classification,
    "question_answering": _read_question_answering,
}

"""Labeled files of questions -> a `Task`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.tasks.batches import gather
from bertjax.tasks.metrics import classification_metrics
from bertjax.tasks.multiple_choice import losses
from bertjax.tasks.multiple_choice.config import MultipleChoiceConfig
from bertjax.tasks.multiple_choice.features import ChoiceFeatures, make_features
from bertjax.tasks.multiple_choice.questions import Answered, read_questions
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.report_tables import MAX_ROWS, ReportTable, examples
from bertjax.tasks.task import (
    Baseline,
    Head,
    Outputs,
    Scores,
    Task,
    TaskFiles,
    data_hash,
)

HEAD = Head(
    "multiple_choice",
    1,
    losses.multiple_choice_loss,
    losses.multiple_choice_normalizers,
    forward=losses.choice_logits,
)
METRICS = ("accuracy", "loss")


def read(options: MultipleChoiceConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of questions with choices.

    Raises:
        UserError: something is wrong with a file; the sentence names the line.
    """
    first = read_questions(files.train, options)
    options = dataclasses.replace(options, answer_form=first.form)
    sources = [first, *(read_questions(path, options) for path in files.paths[1:])]
    choices = max(len(each.choices) for source in sources for each in source.questions)
    train, dev, *test = [
        make_features(
            source.questions, files.tokenizer, files.max_seq_length, choices, source.answers
        )
        for source in sources
    ]
    for line in (
        *_summary(files, sources, train),
        *overlaps(files.paths, [source.questions for source in sources]),
    ):
        files.log(line)
    recorded = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("column_names", "num_choices")
    }
    return Task(
        HEAD,
        train,
        dev,
        test[0] if test else None,
        *(data_hash([source.questions, source.answers]) for source in sources[:2]),
        metric=METRICS[0],
        metrics=METRICS,
        scores=scores,
        immutable={},
        export=lambda _: {**recorded, "choices": choices},
        report_tables=lambda outputs: _largest_errors(sources[1], gather(outputs)),
        baseline=_baseline(dev),
        test_baseline=_baseline(test[0]) if test else None,
        dev_metrics=("loss",),
        sequence_lengths=train.sequences.lengths,
    )


def scores(features: ChoiceFeatures, outputs: Outputs) -> Scores:
    """Returns accuracy and loss."""
    found = classification_metrics(gather(outputs), features.answers)
    return {name: found[name] for name in METRICS}


def _summary(files: TaskFiles, sources: Sequence[Answered], train: ChoiceFeatures) -> list[str]:
    counts = train.counts
    of = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    full = int((train.lengths == files.max_seq_length).sum())
    lines = [
        f"Training on {len(train):,} questions with {of} choices, evaluating on "
        f"{len(sources[1]):,}; {full:,} training questions fill all {files.max_seq_length} tokens. "
        f"Answers are read as {sources[0].form}."
    ]
    return lines + [
        f"Left out {source.left_out:,} rows of {path} without two choices and an answer among them."
        for path, source in zip(files.paths, sources, strict=True)
        if source.left_out
    ]


def _baseline(features: ChoiceFeatures) -> Baseline:
    """The best rule that gives the same place to all answers."""
    most = np.bincount(features.answers).max() / len(features)
    return Baseline("place", "the most common place", {"accuracy": float(most)})


def _largest_errors(source: Answered, logits: np.ndarray) -> list[ReportTable]:
    """Returns a table of wrong choices, the largest differences of logits first."""
    rows = np.arange(len(source))
    errors = logits.max(1) - logits[rows, source.answers]
    order = [int(row) for row in np.argsort(-errors, kind="stable")[:MAX_ROWS] if errors[row] > 0]
    if not order:
        return []
    questions = [source.questions[row] for row in order]
    given: dict[str, Any] = {
        "context": [each.context for each in questions],
        "question": [each.question for each in questions],
        "answer": [source.questions[row].choices[source.answers[row]] for row in order],
    }
    if not any(given["context"]):
        del given["context"]
    chosen = [source.questions[row].choices[logits[row].argmax()] for row in order]
    return [examples("Largest errors on the dev rows", given, {"predicted": chosen})]

"""What a fine-tuned model says: labels, numbers, answers, metrics of a file."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import answer, fill_mask, likelihood, programs
from bertjax.inference.texts import Text, chunks, max_length, parse_pair, split_pairs
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import tables
from bertjax.tasks.classification import features, long_documents, multi_label

_DEFAULT = Execution()
# Of whole texts.
_KINDS = ("sequence_classification", "regression", "multi_label_classification")
_FILLING = ("pretraining", "masked_lm")
LINE_KINDS = (*_KINDS, answer.KIND, *_FILLING)
"""Kinds of models that `predict_lines` can answer with; every kind embeds."""


def predict(
    model: Pretrained,
    texts: Sequence[Text],
    *,
    k: int = 5,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> list[dict[str, Any]]:
    """Labels for texts, values for a regression model, or answers for questions.

    Args:
        model: fine-tuned.
        texts: N texts, or N pairs of texts if the model was trained on pairs; for a model that
            answers questions N pairs (question, document of any length).
        k: answers to give for a question.
        batch_size: most rows at a time; texts of like length go together.
        execution: how to compute.

    Returns:
        For each text, in order: {"text", "label", "score", "scores": {label: probability}}, and
        "pair" if there is one; {"text", "score"} for regression; {"text", "labels", "scores"} where
        a text may have several labels: those of probability 0.5 or more. For each question:
        {"question", "text": the answer as it stands in the document, "start", "end": its first
        character and one past its last, "score", "n_best": k of {"text", "start", "end", "score"},
        the best first}, the scores being probabilities among the 20 best. A model that was trained
        on unanswerable questions adds "null_difference", how much likelier no answer is than the
        best one (logits); above the model's threshold "text" is "" and "start" and "end" are None.

    Raises:
        UserError: the model has no such head, or a text can't be read.
    """
    if model.kind == answer.KIND:
        questions = answer.as_questions(texts)
        return answer.answer(model, questions, k=k, batch_size=batch_size, execution=execution)
    if model.kind not in _KINDS:
        raise UserError(
            f"The model does {model.kind}, which predict can't: fine-tune it first (bertjax "
            "finetune), or use embed or fill-mask."
        )
    firsts, seconds = split_pairs(model, texts)
    logits = _logits(model, firsts, seconds, batch_size, execution)
    results: list[dict[str, Any]] = []
    for row, text in enumerate(firsts):
        result: dict[str, Any] = {"text": text}
        if seconds is not None:
            result["pair"] = seconds[row]
        results.append(result | _answer(model, logits[row]))
    return results


def evaluate(
    model: Pretrained,
    path: epath.PathLike,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    column_names: Sequence[str] | None = None,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> dict[str, float]:
    """The metrics of a fine-tuned model on a labelled file, over every row.

    Args:
        model: fine-tuned.
        path: .tsv, .csv or .jsonl; for a model that answers questions .json in SQuAD's format.
        text_column: name of the text's column; by default, as in training.
        pair_column: the same for the second text.
        label_column: the same for the label.
        column_names: names of all columns, of a file without a header.
        batch_size: most rows at a time.
        execution: how to compute.

    Returns:
        examples, and the metrics of `tasks.classification.metrics`, or of
        `tasks.multi_label.metrics` where a text may have several labels, or of
        `tasks.question_answering.scores` at the model's null_threshold, which is named too.

    Raises:
        UserError: the model is not fine-tuned, or something is wrong with the file.
    """
    if model.kind == answer.KIND:
        if text_column or pair_column or label_column or column_names:
            raise UserError(
                f"The model does {model.kind}, whose files have no columns: name none of them."
            )
        return answer.evaluate(model, path, batch_size=batch_size, execution=execution)
    if model.kind not in _KINDS:
        raise UserError(
            f"The model does {model.kind}, which evaluate can't: fine-tune it first (bertjax "
            "finetune)."
        )
    task = model.task or {}
    text: str = text_column or task.get("text_column") or "text"
    pair: str | None = pair_column or task.get("pair_column")
    label: str = label_column or task.get("label_column") or "label"
    columns = [text, *([pair] if pair else []), label]
    table = tables.read_table(path, columns, column_names=column_names)
    labels = _read_labels(model, table, label)
    seconds = table.columns[pair] if pair else None
    logits = _logits(model, table.columns[text], seconds, batch_size, execution)
    several = model.kind == "multi_label_classification"
    scores = (multi_label if several else features).metrics(logits, labels)
    return {"examples": float(len(table)), **scores}


def predict_lines(
    model: Pretrained,
    lines: Iterable[str],
    *,
    k: int | None = None,
    pseudo_log_likelihood: bool = False,
    batch_size: int = 32,
) -> Iterator[str]:
    """One JSON line for each line of text, in order: `predict`, or `fill_mask` if the model can.

    A line is a text; for a model of pairs, two texts with a tab between them; for one that answers
    questions, {"question": ..., "context": ...} as JSON, or both with a tab between.

    Args:
        model: one of LINE_KINDS.
        lines: to answer.
        k: words to give for a [MASK], or answers for a question; None: 5.
        pseudo_log_likelihood: give that of each text instead.
        batch_size: most rows at a time.

    Raises:
        UserError: a line can't be read; the sentence says which.
    """
    if pseudo_log_likelihood:
        if k is not None:
            raise UserError(f"k is {k}: a likelihood has no words to choose from; leave k out.")
        # A line is read once for each of its tokens: few at a time, so that answers come.
        yield from likelihood.likelihood_lines(model, chunks(lines, 64), batch_size=batch_size)
        return
    k = 5 if k is None else k
    if model.kind == answer.KIND:
        # Documents may be long: few at a time, and lines of any length.
        read = chunks(lines, 64, longest=None)
        yield from answer.answer_lines(model, read, k=k, batch_size=batch_size)
        return
    if model.kind in _FILLING:
        yield from fill_mask.fill_lines(model, chunks(lines), k=k, batch_size=batch_size)
        return
    takes_pairs = bool((model.task or {}).get("pair_column"))
    for first, chunk in chunks(lines):
        texts: list[Text] = list(chunk)
        if takes_pairs:
            texts = [parse_pair(line, first + row) for row, line in enumerate(chunk)]
        results = predict(model, texts, batch_size=batch_size)
        yield from (json.dumps(result, ensure_ascii=False) for result in results)


def _logits(
    model: Pretrained,
    firsts: Sequence[str],
    seconds: Sequence[str] | None,
    batch_size: int,
    execution: Execution,
) -> np.ndarray:
    """[N, C] of texts or pairs; of a model that reads windows, of all windows of a text."""
    length, task = max_length(model), model.task or {}
    outputs = functools.partial(
        programs.task_outputs,
        model.params,
        config=model.config,
        batch_size=batch_size,
        execution=execution,
    )
    if task.get("long_documents") != "windows" or seconds is not None:
        return outputs(features.tokenize(firsts, seconds, model.tokenizer, length))
    # From a file: what can't be is as if it were left out.
    overlap = task.get("window_overlap")
    if not isinstance(overlap, int) or not 0 <= overlap < length - 2:
        overlap = length // 4
    long = long_documents.tokenize(firsts, model.tokenizer, length, overlap)
    how = "max" if task.get("window_logits") == "max" else "mean"
    return long_documents.pool(outputs(long.windows), long.documents, how)


def _answer(model: Pretrained, logits: np.ndarray) -> dict[str, Any]:
    labels = _names(model)
    if labels is None:
        return {"score": float(logits[0])}
    if model.kind == "multi_label_classification":
        chances = multi_label.probabilities(logits)
        given = [name for name, yes in zip(labels, multi_label.decide(logits), strict=True) if yes]
        scores = {name: float(value) for name, value in zip(labels, chances, strict=True)}
        return {"labels": given, "scores": scores}
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponents / exponents.sum()
    best = int(probabilities.argmax())
    scores = {label: float(value) for label, value in zip(labels, probabilities, strict=True)}
    return {"label": labels[best], "score": float(probabilities[best]), "scores": scores}


def _read_labels(model: Pretrained, table: tables.Table, column: str) -> np.ndarray:
    names = _names(model)
    if names is None or model.kind != "multi_label_classification":
        return features.read_labels(table, column, names)
    separator = (model.task or {}).get("label_separator") or multi_label.SEPARATOR
    return multi_label.label_sets(table, column, names, separator)


def _names(model: Pretrained) -> list[str] | None:
    """The labels; None for regression."""
    if model.kind == "regression":
        return None
    outputs = len(model.params["classifier"]["bias"])
    return (model.task or {}).get("labels") or [f"LABEL_{index}" for index in range(outputs)]

"""What a trained model says: labels, answers, filled blanks, embeddings, metrics of a file."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.runs import answer, inference
from bertjax.runs.inference import Pooling
from bertjax.tasks import classification, long_documents, multi_label, tables

Text = str | tuple[str, str]

MASK = "[MASK]"
_CHUNK = 1024  # lines read before the first answer: enough to group them by length
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
    firsts, seconds = _split_pairs(model, texts)
    logits = _logits(model, firsts, seconds, batch_size, execution)
    results: list[dict[str, Any]] = []
    for row, text in enumerate(firsts):
        result: dict[str, Any] = {"text": text}
        if seconds is not None:
            result["pair"] = seconds[row]
        results.append(result | _answer(model, logits[row]))
    return results


def fill_mask(
    model: Pretrained,
    texts: Sequence[str],
    k: int = 5,
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> list[dict[str, Any]]:
    """The likeliest tokens for every [MASK] in the texts.

    Args:
        model: with a masked-LM head.
        texts: each with at least one "[MASK]".
        k: how many tokens for each.
        batch_size: most rows at a time.
        execution: how to compute.

    Returns:
        For each text, in order: {"text", "masks": one list for each [MASK] of k times {"token",
        "score"}, the likeliest first}.

    Raises:
        UserError: the model has no such head, or a text has no [MASK] that the model gets to read.
    """
    _check_texts(texts)
    return _fill_mask(model, texts, k, batch_size, execution, where=lambda row: f"Text {row + 1}")


def _fill_mask(
    model: Pretrained,
    texts: Sequence[str],
    k: int,
    batch_size: int,
    execution: Execution,
    where: Callable[[int], str],
) -> list[dict[str, Any]]:
    if "mlm" not in model.params:
        raise UserError(
            f"The model does {model.kind} and has no masked-LM head: give the export of a "
            "pre-training run."
        )
    if not 1 <= k <= model.tokenizer.vocab_size:
        raise UserError(f"k is {k}: give a number from 1 to {model.tokenizer.vocab_size}.")
    length = _max_length(model)
    examples = classification.tokenize(texts, None, model.tokenizer, length, parse_mask=True)
    places = [np.flatnonzero(ids == model.tokenizer.mask_id) for ids in examples.input_ids]
    for row, text in enumerate(texts):
        if MASK not in text:
            raise UserError(f"{where(row)} has no {MASK}: write it where the model should guess.")
        if len(places[row]) < text.count(MASK):
            raise UserError(
                f"{where(row)} has a {MASK} beyond the {length} tokens that the model reads: "
                "shorten the text before it."
            )
    answers: list[list[list[dict[str, Any]]]] = [[] for _ in texts]
    for rows, batch in inference.batches(examples, batch_size, length):
        # P a power of two: few programs.
        most = 1 << (max(len(places[row]) for row in rows) - 1).bit_length()
        positions = np.zeros((len(batch["label"]), most), np.int32)
        for at, row in enumerate(rows):
            positions[at, : len(places[row])] = places[row]
        best = inference.likeliest_tokens(
            model.params,
            inference.model_inputs(batch),
            positions,
            pieces=model.tokenizer.vocab_size,
            k=k,
            config=model.config,
            execution=execution,
        )
        scores, ids = jax.device_get(best)
        for at, row in enumerate(rows):
            answers[row] = [
                _tokens(model, scores[at, place], ids[at, place])
                for place in range(len(places[row]))
            ]
    return [{"text": text, "masks": masks} for text, masks in zip(texts, answers, strict=True)]


def embed(
    model: Pretrained,
    texts: Sequence[Text],
    layer: int | tuple[int, ...] = -1,
    pooling: Pooling = "mean",
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> np.ndarray:
    """One vector for each text: [N, D] float32, or [N, D * layers] for several layers.

    Args:
        model: any.
        texts: N texts or N pairs.
        layer: 0 is the embeddings' output, 1 the first layer's, -1 the last one's; of several the
            vectors are joined (the paper's section 5.3 joins the last four).
        pooling: mean over the tokens ([CLS] and [SEP] included), cls: the first token, pooler: the
            trained layer over the first token (of the last layer only).
        batch_size: most rows at a time.
        execution: how to compute.

    Raises:
        UserError: no such layer or pooling, or a text can't be read.
    """
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    depth = model.config.num_hidden_layers
    for number in layers:
        if not -depth - 1 <= number <= depth:
            raise UserError(
                f"layer is {number}: the model has {depth} layers; give {-depth - 1} to {depth}."
            )
    if pooling not in ("mean", "cls", "pooler"):
        raise UserError(f"pooling is {pooling!r}: use mean, cls or pooler.")
    if pooling == "pooler" and (layers not in ((-1,), (depth,)) or "pooler" not in model.params):
        raise UserError(
            "pooling is pooler, which reads the last layer of a model that has a pooler: leave "
            "layer at -1, or use mean or cls."
        )
    if not layers:
        raise UserError("layer is empty: name at least one layer.")
    firsts, seconds = _split_pairs(model, texts, any_form=True)
    length = _max_length(model)
    examples = classification.tokenize(firsts, seconds, model.tokenizer, length)
    result = np.zeros((len(firsts), model.config.hidden_size * len(layers)), np.float32)
    for rows, batch in inference.batches(examples, batch_size, length):
        vectors = inference.pooled_vectors(
            model.params,
            inference.model_inputs(batch),
            layers=layers,
            pooling=pooling,
            config=model.config,
            execution=execution,
        )
        result[rows] = np.asarray(vectors)[: len(rows)]
    return result


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
    scores = (multi_label if several else classification).metrics(logits, labels)
    return {"examples": float(len(table)), **scores}


def predict_lines(
    model: Pretrained, lines: Iterable[str], *, k: int = 5, batch_size: int = 32
) -> Iterator[str]:
    """One JSON line for each line of text, in order: `predict`, or `fill_mask` if the model can.

    A line is a text; for a model of pairs, two texts with a tab between them; for one that answers
    questions, {"question": ..., "context": ...} as JSON, or both with a tab between.

    Raises:
        UserError: a line can't be read; the sentence says which.
    """
    if model.kind == answer.KIND:
        # Documents may be long: few at a time, and lines of any length.
        chunks = _chunks(lines, 64, longest=None)
        yield from answer.answer_lines(model, chunks, k=k, batch_size=batch_size)
        return
    takes_pairs = bool((model.task or {}).get("pair_column"))
    for first, chunk in _chunks(lines):
        if model.kind in _FILLING:
            results = _fill_mask(
                model,
                chunk,
                k,
                batch_size,
                _DEFAULT,
                where=lambda row, first=first: f"Line {first + row}",
            )
        else:
            texts: list[Text] = list(chunk)
            if takes_pairs:
                texts = [_pair(line, first + row) for row, line in enumerate(chunk)]
            results = predict(model, texts, batch_size=batch_size)
        yield from (json.dumps(result, ensure_ascii=False) for result in results)


def embed_lines(
    model: Pretrained,
    lines: Iterable[str],
    *,
    layer: int | tuple[int, ...] = -1,
    pooling: Pooling = "mean",
    batch_size: int = 32,
) -> Iterator[np.ndarray]:
    """The vector of every line of text, in order; as `embed`."""
    for _, chunk in _chunks(lines):
        yield from embed(model, chunk, layer, pooling, batch_size=batch_size)


def _max_length(model: Pretrained) -> int:
    """Tokens that the model was trained to read."""
    positions = model.config.max_position_embeddings
    said = (model.task or {}).get("max_seq_length")
    return min(said, positions) if isinstance(said, int) and said > 3 else positions


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    for row, text in enumerate(texts):
        tables.check_text(text, f"Text {row + 1}")


def _split_pairs(
    model: Pretrained, texts: Sequence[Text], *, any_form: bool = False
) -> tuple[list[str], list[str] | None]:
    """First and second texts, checked; None where there are no second ones."""
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    pairs = [text for text in texts if not isinstance(text, str)]
    task = model.task or {}
    if not any_form and "pair_column" in task and texts:
        wanted = task["pair_column"] is not None
        if (len(pairs) > 0) != wanted:
            form = "(text, pair)" if wanted else "one text"
            raise UserError(f"The model was trained on {form} a row: give that for every text.")
    if pairs and len(pairs) != len(texts):
        raise UserError("Some texts are pairs and some are not: give one form for all.")
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    seconds = [text[1] for text in pairs] if pairs else None
    _check_texts(firsts)
    _check_texts(seconds or [])
    return firsts, seconds


def _logits(
    model: Pretrained,
    firsts: Sequence[str],
    seconds: Sequence[str] | None,
    batch_size: int,
    execution: Execution,
) -> np.ndarray:
    """[N, C] of texts or pairs; of a model that reads windows, of all windows of a text."""
    length, task = _max_length(model), model.task or {}
    outputs = functools.partial(
        inference.task_outputs,
        model.params,
        config=model.config,
        batch_size=batch_size,
        execution=execution,
    )
    if task.get("long_documents") != "windows" or seconds is not None:
        return outputs(classification.tokenize(firsts, seconds, model.tokenizer, length))
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
        return classification.read_labels(table, column, names)
    separator = (model.task or {}).get("label_separator") or multi_label.SEPARATOR
    return multi_label.label_sets(table, column, names, separator)


def _names(model: Pretrained) -> list[str] | None:
    """The labels; None for regression."""
    if model.kind == "regression":
        return None
    outputs = len(model.params["classifier"]["bias"])
    return (model.task or {}).get("labels") or [f"LABEL_{index}" for index in range(outputs)]


def _tokens(model: Pretrained, scores: np.ndarray, ids: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "token": model.tokenizer.decode([int(token)], skip_special=False),
            "score": float(score),
        }
        for score, token in zip(scores, ids, strict=True)
    ]


def _pair(line: str, number: int) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab or "\t" in second:
        raise UserError(
            f"Line {number}: the model was trained on pairs; write two texts with a tab between."
        )
    return first, second


def _chunks(
    lines: Iterable[str], size: int = _CHUNK, *, longest: int | None = tables.MAX_FIELD
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) a chunk at a time, checked, without their ends."""
    chunk: list[str] = []
    first = 1
    for number, line in enumerate(lines, start=1):
        chunk.append(
            tables.check_text(
                line.removesuffix("\n").removesuffix("\r"), f"Line {number}", longest=longest
            )
        )
        if len(chunk) == size:
            yield first, chunk
            first, chunk = number + 1, []
    if chunk:
        yield first, chunk

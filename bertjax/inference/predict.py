"""Predictions and metrics of fine-tuned models, whatever their kind of task."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import fill_mask, likelihood, programs
from bertjax.inference.texts import chunks
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import kinds
from bertjax.tasks.batches import length_buckets
from bertjax.tasks.tables import MAX_FIELD
from bertjax.tasks.task import Features, Outputs, Predictor, Run, TaskKind


def can_predict(head: str) -> bool:
    """Whether `predict_lines` works for models with this head. Every model gives embeddings."""
    return head in fill_mask.HEADS or kinds.of_head(head) is not None


def predict(
    model: Pretrained,
    inputs: Sequence[Any],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    execution: Execution = Execution(),
) -> list[dict[str, Any]]:
    """Answers inputs with a fine-tuned model.

    Args:
        model: a fine-tuned model.
        inputs: N inputs in the form of its task. Models of texts take texts, or pairs of texts if
            they were trained on pairs. Models that answer questions take pairs (question,
            document).
        top_k: number of alternatives, for tasks that give several.
        batch_size: maximum rows per batch; rows of similar length share one.
        execution: how to compute.

    Returns:
        For each input a dict of JSON values. For texts it is {"text", "label", "score", "scores":
        {label: probability}}, with several labels {"text", "labels", "scores"}, and for numbers
        {"text", "score"}; pairs add "pair". For questions it is {"question", "text": the answer,
        "start", "end": its characters in the document, "score", "n_best": top_k answers}, and for
        models that may refuse to answer also "null_difference".

    Raises:
        UserError: the model can't predict, or an input can't be read.
    """
    _, predictor, run = _predictor(model, "predict", batch_size, execution, top_k)
    if not isinstance(inputs, str) and not len(inputs):
        return []
    return predictor.predict(inputs, run, top_k=top_k)


def evaluate(
    model: Pretrained,
    path: epath.PathLike,
    *,
    batch_size: int = 32,
    execution: Execution = Execution(),
    **options: Any,
) -> dict[str, float]:
    """Computes the metrics of a fine-tuned model over every row of a labeled file.

    Args:
        model: a fine-tuned model.
        path: a file in a format of its task.
        batch_size: maximum rows per batch.
        execution: how to compute.
        **options: options of evaluating its task. For texts: text_column, pair_column,
            label_column, column_names; by default they are as in training.

    Returns:
        "examples", the number of examples, and the metrics.

    Raises:
        UserError: the model can't be evaluated, or something is wrong with the file.
    """
    kind, predictor, run = _predictor(model, "evaluate", batch_size, execution)
    names = [field.name for field in dataclasses.fields(kind.evaluation)]
    if unknown := [name for name in options if name not in names]:
        known = ", ".join(f"`{name}`" for name in names) or "none"
        raise UserError(
            f"`{unknown[0]}` is no option of evaluating a {kind.name} model; its options: {known}."
        )
    return predictor.evaluate(path, kind.evaluation(**options), run)


def predict_lines(
    model: Pretrained,
    lines: Iterable[str],
    *,
    top_k: int | None = None,
    pseudo_log_likelihood: bool = False,
    batch_size: int = 32,
) -> Iterator[str]:
    """Yields one JSON line for each line of text, in order.

    Fine-tuned models give the answers of `predict`, pre-trained ones those of `fill_mask`.

    Args:
        model: a model whose head passes `can_predict`.
        lines: one input per line. The two texts of a pair have a tab between them. Questions are
            {"question": ..., "context": ...} as JSON, or have a tab before the document.
        top_k: number of words for a [MASK], or of other alternatives; None: 5.
        pseudo_log_likelihood: whether to give that of each text instead.
        batch_size: maximum rows per batch.

    Raises:
        UserError: a line can't be read; the sentence names it.
    """
    answering = _answering(model, top_k, pseudo_log_likelihood, batch_size)
    for first, chunk in chunks(lines, answering.chunk_lines, max_length=answering.max_line):

        def where(index: int, first: int = first) -> str:
            return f"Line {first + index}"

        inputs = [answering.parse(line, where(index)) for index, line in enumerate(chunk)]
        for result in answering.answer(inputs, where=where):
            yield json.dumps(result, ensure_ascii=False)


class _Answering(NamedTuple):
    """How lines are answered; by default they are texts."""

    answer: Callable[..., list[dict[str, Any]]]
    parse: Callable[[str, str], Any] = lambda line, where: line
    chunk_lines: int | None = None
    max_line: int | None = MAX_FIELD


def _answering(
    model: Pretrained, top_k: int | None, pseudo_log_likelihood: bool, batch_size: int
) -> _Answering:
    if pseudo_log_likelihood:
        if top_k is not None:
            raise UserError("`pseudo_log_likelihood` has no alternatives: leave out `top_k`.")
        fill_mask.check_head(model)
        score = functools.partial(likelihood.pseudo_log_likelihood, model, batch_size=batch_size)
        # A line has a row per token: few lines at a time give answers soon.
        return _Answering(score, chunk_lines=64)
    top_k = 5 if top_k is None else top_k
    if model.kind in fill_mask.HEADS:
        fill = functools.partial(fill_mask.fill_mask, model, top_k=top_k, batch_size=batch_size)
        return _Answering(fill)
    _, predictor, run = _predictor(model, "predict", batch_size, Execution(), top_k)
    answer = functools.partial(predictor.predict, run=run, top_k=top_k)
    return _Answering(answer, predictor.parse_line, predictor.chunk_lines, predictor.max_line)


def _predictor(
    model: Pretrained, verb: str, batch_size: int, execution: Execution, top_k: int = 1
) -> tuple[TaskKind, Predictor, Run]:
    """Returns the kind of task, its predictor and a function that runs the model over rows."""
    kind = kinds.of_model(model)
    if kind is None:
        raise UserError(
            f"The model does {model.kind}, which {verb} can't: fine-tune it first (bertjax "
            "finetune), or use embed or fill-mask."
        )
    predictor = kind.predictor(model)
    if top_k < 1:
        raise UserError(f"`top_k` is {top_k}: give at least 1.")

    def run(features: Features) -> Outputs:
        return programs.output_batches(
            model.params,
            features,
            model.config,
            head=model.kind,
            forward=predictor.forward,
            batch_size=programs.row_bucket(len(features), batch_size),
            buckets=length_buckets(predictor.max_seq_length),
            execution=execution,
        )

    return kind, predictor, run

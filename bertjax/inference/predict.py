"""Predictions and metrics of fine-tuned models, whatever their kind of task."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import fill_mask, likelihood, programs
from bertjax.inference.config import MaskedLmOptions
from bertjax.inference.texts import Line, chunks, read_line
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import kinds
from bertjax.tasks.row_checks import check_inputs
from bertjax.tasks.tables import MAX_FIELD
from bertjax.tasks.task import Features, Outputs, Predictor, Run, TaskKind
from bertjax.train import sharding


def can_predict(head: str) -> bool:
    """Whether `predict_lines` works for models with this head. Every model gives embeddings."""
    return head in fill_mask.HEADS or kinds.of_head(head) is not None


def predict(
    model: Pretrained,
    inputs: Sequence[Any],
    *,
    batch_size: int = 32,
    execution: Execution = Execution(),
    mesh: Mesh | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Answers inputs with a fine-tuned model.

    Args:
        model: a fine-tuned model.
        inputs: N inputs in the form of its task. Models of texts take texts, or pairs of texts if
            they were trained on pairs. Models that answer questions take pairs (question,
            document), and models that choose among answers dicts like a row of their training file.
        batch_size: maximum rows per batch; rows of similar length share one.
        execution: how to compute.
        mesh: devices that share the rows, as `bertjax.train.sharding.make_mesh` makes it; None: one
            device.
        **options: options of predicting with its task. For questions: top_k, the number of answers
            (5). For texts to write: the fields of `GenerationConfig`, by default as in training.
            For extractive summaries: sentences and trigram_blocking, likewise.

    Returns:
        For each input a dict of JSON values. For texts it is {"text", "label", "score", "scores":
        {label: probability}}, with several labels {"text", "labels", "scores"}, and for numbers
        {"text", "score"}; pairs add "pair". For texts with tagged words it is {"text", "entities":
        a list of {"start", "end", "text", "label", "score"}}, with tags of no scheme {"text",
        "words"}, and for lists of words {"tokens", "tags", "scores"}. For questions it is
        {"question", "text": the answer, "start", "end": its characters in the document, "score",
        "n_best": top_k answers}, and for models that may refuse to answer also "null_difference".
        For choices it is {"question", "choice": the number of the choice, "answer": its text,
        "score", "scores": of all choices}. For texts to write it is {"source", "text", "score",
        "n_best": n of {"text", "score"}}, and for extractive summaries {"summary", "sentences": the
        numbers of its sentences, "scores"}.

    Raises:
        UserError: the model can't predict, an option is wrong, or an input can't be read.
    """
    kind = _kind(model, "predict")
    predictor = _predictor(kind, model, kind.prediction, options)
    if not isinstance(inputs, str) and not len(inputs):
        return []
    return predictor.predict(inputs, _runner(model, predictor, batch_size, execution, mesh))


def evaluate(
    model: Pretrained,
    path: epath.PathLike,
    *,
    batch_size: int = 32,
    execution: Execution = Execution(),
    mesh: Mesh | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Computes the metrics of a fine-tuned model over every row of a labeled file.

    Args:
        model: a fine-tuned model.
        path: a file in a format of its task.
        batch_size: maximum rows per batch.
        execution: how to compute.
        mesh: devices that share the rows, as `bertjax.train.sharding.make_mesh` makes it; None: one
            device.
        **options: options of evaluating its task. For texts: text_column, pair_column,
            label_column, column_names; by default they are as in training.

    Returns:
        "examples", the number of examples; the metrics; for ROUGE and BLEU also "notes", which say
        how each metric is computed.

    Raises:
        UserError: the model can't be evaluated, or something is wrong with an option or the file.
    """
    kind = _kind(model, "evaluate")
    predictor = _predictor(kind, model, kind.evaluation, options)
    return dict(predictor.evaluate(path, _runner(model, predictor, batch_size, execution, mesh)))


def predict_lines(
    model: Pretrained,
    lines: Iterable[Line],
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
    **options: Any,
) -> Iterator[str]:
    """Yields one JSON line for each line of text, in order.

    Fine-tuned models give the answers of `predict`, pre-trained ones those of `fill_mask` or
    `pseudo_log_likelihood`. A line that is blank or can't be read gives {"error": what is wrong}.

    Args:
        model: a model whose head passes `can_predict`.
        lines: one input per line, as text or as bytes of UTF-8. The two texts of a pair have a tab
            between them. Questions are {"question": ..., "context": ...} as JSON, or have a tab
            before the document.
        batch_size: maximum rows per batch.
        mesh: as in `predict`; pre-trained models use one device.
        **options: options of predicting with its task; those of `MaskedLmOptions` for pre-trained
            models.

    Raises:
        UserError: the model can't predict, or an option is wrong; or, after the last line, there
            were errors.
    """
    return answer_lines(_answering(model, batch_size, mesh, options), lines)


class Answering(NamedTuple):
    """How lines are answered."""

    answer: Callable[..., list[dict[str, Any]]]
    """(inputs, where=their names) -> an answer for each."""
    parse: Callable[[str, str], Any]
    """(line, its name) -> an input; raises a UserError if the line is none."""
    chunk_lines: int | None = None
    """Lines to read before the first answer; None: the default."""
    max_line: int | None = MAX_FIELD
    """Maximum characters of a line, or None."""


def answer_lines(answering: Answering, lines: Iterable[Line]) -> Iterator[str]:
    """Yields a JSON line for each line; see `predict_lines`."""
    count, errors = 0, []
    for chunk in chunks(lines, answering.chunk_lines):
        inputs, told = {}, {}
        for where, line in chunk.items():
            try:
                text = read_line(line, where, max_length=answering.max_line)
                if not text.strip():
                    raise UserError(f"{where} is blank: write an input, or remove the line.")
                inputs[where] = answering.parse(text, where)
            except UserError as error:
                told[where] = {"error": str(error)}
        names = list(inputs)
        if names:
            answers = answering.answer(list(inputs.values()), where=names.__getitem__)
            told |= zip(names, answers, strict=True)
        for where in chunk:
            yield json.dumps(told[where], ensure_ascii=False)
        count += len(chunk)
        errors += [told[where]["error"] for where in chunk if where not in inputs]
    if errors:
        raise UserError(
            f"{len(errors):,} of {count:,} lines have an error instead of an answer. {errors[0]}"
        )


def _answering(
    model: Pretrained, batch_size: int, mesh: Mesh | None, given: dict[str, Any]
) -> Answering:
    if kinds.of_model(model) is not None or model.kind not in fill_mask.HEADS:
        kind = _kind(model, "predict")
        predictor = _predictor(kind, model, kind.prediction, given)
        run = _runner(model, predictor, batch_size, Execution(), mesh)
        answer = functools.partial(predictor.predict, run=run)
        return Answering(answer, predictor.parse_line, predictor.chunk_lines, predictor.max_line)
    options = _options(MaskedLmOptions(), given, model.kind)
    fill_mask.check_head(model)
    if options.pseudo_log_likelihood:
        score = functools.partial(likelihood.pseudo_log_likelihood, model, batch_size=batch_size)
        # A line has a row per token: few lines at a time give answers soon.
        return Answering(score, functools.partial(likelihood.checked, model), chunk_lines=64)
    top_k = 5 if options.top_k is None else options.top_k
    fill = functools.partial(fill_mask.fill_mask, model, top_k=top_k, batch_size=batch_size)
    return Answering(fill, functools.partial(fill_mask.checked, model))


def _kind(model: Pretrained, verb: str) -> TaskKind:
    kind = kinds.of_model(model)
    if kind is None:
        others = "embed or predict" if model.kind in fill_mask.HEADS else "embed"
        if verb == "evaluate" and model.kind in fill_mask.HEADS:
            others += ", or evaluate it on shards of bertjax prepare"
        raise UserError(
            f"The model does {model.kind}, which {verb} can't: fine-tune it first (bertjax "
            f"finetune), or use {others}."
        )
    return kind


def _predictor(
    kind: TaskKind, model: Pretrained, options: type, given: dict[str, Any]
) -> Predictor:
    defaults = kind.defaults(options, model)
    return kind.predictor(model, _options(defaults, given, kind.name))


def _options(defaults: Any, given: dict[str, Any], task: str) -> Any:
    """Returns the dataclass `defaults` with the given values."""
    names = [field.name for field in dataclasses.fields(defaults)]
    if unknown := [name for name in given if name not in names]:
        known = ", ".join(f"`{name}`" for name in names) or "none"
        raise UserError(
            f"`{unknown[0]}` is no option of this verb for a {task} model; its options: {known}."
        )
    return dataclasses.replace(defaults, **given)


def _runner(
    model: Pretrained,
    predictor: Predictor,
    batch_size: int,
    execution: Execution,
    mesh: Mesh | None,
) -> Run:
    """Returns a function that runs the model over rows."""
    shards = 1 if mesh is None else sharding.batch_ways(mesh)

    @functools.cache
    def placed() -> Any:
        params = model.params
        if mesh is None:
            return params
        return jax.device_put(params, sharding.param_shardings(mesh, params))

    def run(features: Features) -> Outputs:
        check_inputs(features, model.tokenizer, model.config)
        rows = programs.row_bucket(len(features), batch_size)
        return programs.output_batches(
            placed(),
            features,
            model.config,
            head=model.kind,
            forward=predictor.forward,
            batch_size=-(-rows // shards) * shards,
            max_seq_length=predictor.max_seq_length,
            execution=execution,
            mesh=mesh,
        )

    return run

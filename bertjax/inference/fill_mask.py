"""The likeliest tokens for every [MASK] in a text."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.inference.texts import check_texts, max_length
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks.classification.features import tokenize

MASK = "[MASK]"
_DEFAULT = Execution()


def check_head(model: Pretrained) -> None:
    """Raises a UserError where the model has no masked-LM head."""
    if "mlm" not in model.params:
        raise UserError(
            f"The model does {model.kind} and has no masked-LM head: give the export of a "
            "pre-training run."
        )


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
    check_texts(texts)
    return _fill_mask(model, texts, k, batch_size, execution, where=lambda row: f"Text {row + 1}")


def fill_lines(
    model: Pretrained, chunks: Iterable[tuple[int, list[str]]], *, k: int = 5, batch_size: int = 32
) -> Iterator[str]:
    """See `bertjax.inference.predict.predict_lines`; of (number of the first line, lines)."""
    for first, lines in chunks:
        results = _fill_mask(
            model, lines, k, batch_size, _DEFAULT, lambda row, first=first: f"Line {first + row}"
        )
        yield from (json.dumps(result, ensure_ascii=False) for result in results)


def _fill_mask(
    model: Pretrained,
    texts: Sequence[str],
    k: int,
    batch_size: int,
    execution: Execution,
    where: Callable[[int], str],
) -> list[dict[str, Any]]:
    check_head(model)
    if not 1 <= k <= model.tokenizer.vocab_size:
        raise UserError(f"k is {k}: give a number from 1 to {model.tokenizer.vocab_size}.")
    length = max_length(model)
    examples = tokenize(texts, None, model.tokenizer, length, parse_mask=True)
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
    for rows, batch in programs.batches(examples, batch_size, length):
        # P a power of two: few programs.
        most = 1 << (max(len(places[row]) for row in rows) - 1).bit_length()
        positions = np.zeros((len(batch["label"]), most), np.int32)
        for at, row in enumerate(rows):
            positions[at, : len(places[row])] = places[row]
        best = programs.likeliest_tokens(
            model.params,
            programs.model_inputs(batch),
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


def _tokens(model: Pretrained, scores: np.ndarray, ids: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "token": model.tokenizer.decode([int(token)], skip_special=False),
            "score": float(score),
        }
        for score, token in zip(scores, ids, strict=True)
    ]

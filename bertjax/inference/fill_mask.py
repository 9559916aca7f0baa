"""The likeliest tokens for each [MASK] of a text."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks.row_checks import check_inputs
from bertjax.tasks.task import trained_length
from bertjax.tasks.texts import check_texts, name_text, tokenize
from bertjax.text.tokenizer import Tokenizer

MASK = "[MASK]"
HEADS = ("pretraining", "masked_lm")
"""Heads whose models are there to fill in [MASK]."""


def check_head(model: Pretrained) -> None:
    """Raises a UserError if the model has no masked-LM head."""
    if "mlm" not in model.shapes:
        raise UserError(
            f"The model does {model.kind} and has no masked-LM head: give the export of a "
            "pre-training run."
        )


def fill_mask(
    model: Pretrained,
    texts: Sequence[str],
    top_k: int = 5,
    *,
    batch_size: int = 32,
    execution: Execution = Execution(),
    where: Callable[[int], str] = name_text,
) -> list[dict[str, Any]]:
    """Finds the likeliest tokens for each [MASK] of the texts.

    Args:
        model: a model with a masked-LM head.
        texts: N texts, each with at least one "[MASK]".
        top_k: number of tokens for each [MASK].
        batch_size: maximum rows per batch.
        execution: how to compute.
        where: index of a text -> its name in errors.

    Returns:
        For each text {"text", "masks"}. "masks" has a list for each [MASK], the likeliest token
        first, of the keys of transformers' pipeline: {"score", "token", "token_str", "sequence"}.
        "token" is the id, and "sequence" the text as tokens with this [MASK] replaced.

    Raises:
        UserError: the model has no masked-LM head, or a text has no [MASK] within its row.
    """
    check_texts(texts, where)
    check_head(model)
    pieces, length = model.tokenizer.vocab_size, trained_length(model)
    if not 1 <= top_k <= pieces:
        raise UserError(f"`top_k` is {top_k}: give a number from 1 to {pieces}.")
    features = tokenize(texts, None, model.tokenizer, length, parse_mask=True)
    check_inputs(features, model.tokenizer, model.config)
    found = [np.flatnonzero(ids == model.tokenizer.mask_id) for ids in features.input_ids]
    for row, text in enumerate(texts):
        _check_masks(text, len(found[row]), length, where(row))
    results: list[dict[str, Any]] = [{"text": text, "masks": []} for text in texts]
    for rows, inputs in programs.batches(features, batch_size, length):
        # A power of two gives few programs.
        width = 1 << (max(len(found[row]) for row in rows) - 1).bit_length()
        positions = np.zeros((len(inputs["input_ids"]), width), np.int32)
        for at, row in enumerate(rows):
            positions[at, : len(found[row])] = found[row]
        best = programs.likeliest_tokens(
            model.params, inputs, positions, pieces, top_k, model.config, execution
        )
        scores, ids = jax.device_get(best)
        for at, row in enumerate(rows):
            own = zip(scores[at], ids[at], found[row], strict=False)
            results[row]["masks"] = [
                _guesses(model.tokenizer, features.input_ids[row], *each) for each in own
            ]
    return results


def checked(model: Pretrained, text: str, where: str) -> str:
    """Returns the text if `fill_mask` can answer it; otherwise raises a UserError."""
    length = trained_length(model)
    (ids,) = tokenize([text], None, model.tokenizer, length, parse_mask=True).input_ids
    _check_masks(text, int((ids == model.tokenizer.mask_id).sum()), length, where)
    return text


def _check_masks(text: str, found: int, length: int, where: str) -> None:
    """Raises a UserError unless the text has a [MASK], and all of them within its row."""
    if MASK not in text:
        raise UserError(f"{where} has no {MASK}: write it where the model should guess.")
    if found < text.count(MASK):
        raise UserError(
            f"{where} has a {MASK} beyond the {length} tokens that the model reads: shorten the "
            "text before it."
        )


def _guesses(
    tokenizer: Tokenizer, row: np.ndarray, scores: np.ndarray, ids: np.ndarray, position: int
) -> list[dict[str, Any]]:
    guesses = []
    for score, token in zip(scores.tolist(), ids.tolist(), strict=True):
        filled = [*row[1:position], token, *row[position + 1 : -1]]
        word, sequence = (tokenizer.decode(each, skip_special=False) for each in ([token], filled))
        guesses.append({"score": score, "token": token, "token_str": word, "sequence": sequence})
    return guesses

"""The pseudo-log-likelihood of sentences under a masked LM."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.inference.fill_mask import check_head
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import batches
from bertjax.tasks.task import trained_length
from bertjax.tasks.texts import check_texts, name_text


def pseudo_log_likelihood(
    model: Pretrained,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    execution: Execution = Execution(),
    where: Callable[[int], str] = name_text,
) -> list[dict[str, Any]]:
    """Sums log p(token | all other tokens) over the tokens of each text.

    Source: Salazar et al. 2020, "Masked Language Model Scoring", equation 1. The model reads a text
    of n tokens n times, with another token masked each time. Masked copies of all texts share
    batches by length, and exist only while their batch is computed.

    Args:
        model: a model with a masked-LM head.
        texts: N texts that fit into a row.
        batch_size: maximum masked copies per batch.
        execution: how to compute.
        where: index of a text -> its name in errors.

    Returns:
        For each text {"text", "pseudo_log_likelihood": the sum in nats, "tokens": their number
        without [CLS] and [SEP], "pseudo_perplexity": exp(-sum / tokens)}. A text without tokens has
        the sum 0 and the pseudo-perplexity None.

    Raises:
        UserError: the model has no masked-LM head, or a text can't be read or is too long.
    """
    check_texts(texts, where)
    check_head(model)
    rows = [_encode(model, text, where(index)) for index, text in enumerate(texts)]
    tokens = [len(row) - 2 for row in rows]
    sums = np.zeros(len(rows), np.float64)
    for owners, scores in _scores(model, rows, batch_size, execution):
        np.add.at(sums, owners, scores)
    return [
        {
            "text": text,
            "pseudo_log_likelihood": float(total),
            "tokens": count,
            "pseudo_perplexity": math.exp(-total / count) if count else None,
        }
        for text, total, count in zip(texts, sums, tokens, strict=True)
    ]


def checked(model: Pretrained, text: str, where: str) -> str:
    """Returns the text if `pseudo_log_likelihood` can score it; otherwise raises a UserError."""
    _encode(model, text, where)
    return text


def _encode(model: Pretrained, text: str, where: str) -> np.ndarray:
    """Returns int32 [length]: the ids of a text that fits into a row."""
    ids, max_tokens = model.tokenizer.encode(text).ids, trained_length(model) - 2
    if (count := len(ids) - 2) > max_tokens:
        raise UserError(
            f"{where} has {count:,} tokens, more than the {max_tokens:,} that the model reads at "
            "once: split it, because truncation would change its likelihood."
        )
    return np.asarray(ids, np.int32)


def _scores(
    model: Pretrained, rows: list[np.ndarray], batch_size: int, execution: Execution
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (row numbers, log p of one token of each) for all tokens of all rows."""
    lengths = np.array([len(row) for row in rows], np.int64)
    counts = lengths - 2
    # The row of each masked copy, and the position of its masked token, from 1 after [CLS].
    owners = np.repeat(np.arange(len(rows)), counts)
    places = np.arange(len(owners)) - np.repeat(counts.cumsum() - counts, counts) + 1
    types = [np.zeros(len(row), np.int32) for row in rows]
    size = programs.row_bucket(len(owners), batch_size)
    buckets = batches.length_buckets(trained_length(model))
    for copies, width in batches.length_batches(lengths[owners], size, buckets):
        real = copies >= 0
        at = np.where(real, owners[copies], -1)
        batch = batches.padded(rows, types, at, width, model.tokenizer.pad_id)
        # Padding copies mask [CLS], which every width has.
        positions = np.where(real, places[copies], 0)[:, None]
        targets = np.take_along_axis(batch["input_ids"], positions, axis=1)
        np.put_along_axis(batch["input_ids"], positions, model.tokenizer.mask_id, axis=1)
        inputs, positions = programs.model_inputs(batch), positions.astype(np.int32)
        scores = programs.token_log_likelihoods(
            model.params, inputs, positions, targets, model.config, execution
        )
        yield owners[copies[real]], np.asarray(scores)[real, 0]

"""How likely a sentence is to a masked LM: its pseudo-log-likelihood."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.config import Execution
from bertjax.errors import UserError
from bertjax.inference import programs
from bertjax.inference.fill_mask import check_head
from bertjax.inference.texts import check_texts, max_length
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import batches

_DEFAULT = Execution()


def pseudo_log_likelihood(
    model: Pretrained,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    execution: Execution = _DEFAULT,
) -> list[dict[str, Any]]:
    """The sum over a text's tokens of log p(token | all others), each masked alone.

    Salazar et al. 2020, "Masked Language Model Scoring", equation 1. A text of n tokens is read n
    times; the masked copies of all texts go together, those of like length in a batch, and exist
    only while their batch is computed.

    Args:
        model: with a masked-LM head.
        texts: N of them, each of at most as many tokens as the model reads.
        batch_size: most masked copies at a time.
        execution: how to compute.

    Returns:
        For each text, in order: {"text", "pseudo_log_likelihood": the sum in nats, "tokens": how
        many, without [CLS] and [SEP], "pseudo_perplexity": exp(-sum / tokens); None for a text of
        no tokens, whose sum is 0}.

    Raises:
        UserError: the model has no such head, or a text can't be read or is too long.
    """
    check_texts(texts)
    return _likelihoods(model, texts, batch_size, execution, lambda row: f"Text {row + 1}")


def likelihood_lines(
    model: Pretrained, chunks: Iterable[tuple[int, list[str]]], *, batch_size: int = 32
) -> Iterator[str]:
    """One JSON line for each line of text; of (number of the first line, lines)."""
    check_head(model)
    for first, lines in chunks:
        results = _likelihoods(
            model, lines, batch_size, _DEFAULT, lambda row, first=first: f"Line {first + row}"
        )
        yield from (json.dumps(result, ensure_ascii=False) for result in results)


def _likelihoods(
    model: Pretrained,
    texts: Sequence[str],
    batch_size: int,
    execution: Execution,
    where: Callable[[int], str],
) -> list[dict[str, Any]]:
    check_head(model)
    rows = [_row(model, text, where(number)) for number, text in enumerate(texts)]
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


def _row(model: Pretrained, text: str, where: str) -> np.ndarray:
    """[CLS] text [SEP], int32 [length], if the model reads it whole."""
    ids = np.asarray(model.tokenizer.encode(text).ids, np.int32)
    if len(ids) > max_length(model):
        raise UserError(
            f"{where} has {len(ids) - 2:,} tokens, more than the {max_length(model) - 2:,} that "
            "the model reads at once: split it, because the likelihood of a cut text is another."
        )
    return ids


def _scores(
    model: Pretrained, rows: list[np.ndarray], batch_size: int, execution: Execution
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers of rows, log p of one token of each) until every token of every row has come."""
    lengths = np.array([len(row) for row in rows], np.int64)
    counts = lengths - 2
    # Of every masked copy: whose it is, and which token is masked, after [CLS].
    owners = np.repeat(np.arange(len(rows)), counts)
    places = np.arange(len(owners)) - np.repeat(counts.cumsum() - counts, counts) + 1
    types = [np.zeros(len(row), np.int32) for row in rows]
    for copies, width in batches.length_batches(
        lengths[owners],
        programs.row_bucket(len(owners), batch_size),
        batches.length_buckets(max_length(model)),
    ):
        real = copies >= 0
        at = np.where(real, owners[copies], -1)
        batch = batches.padded(rows, types, at, width, model.tokenizer.pad_id)
        # A copy that fills the batch masks [CLS], which every width has.
        positions = np.where(real, places[copies], 0)[:, None]
        targets = np.take_along_axis(batch["input_ids"], positions, axis=1)
        np.put_along_axis(batch["input_ids"], positions, model.tokenizer.mask_id, axis=1)
        scores = programs.token_log_likelihoods(
            model.params,
            programs.model_inputs(batch),
            positions.astype(np.int32),
            targets,
            config=model.config,
            execution=execution,
        )
        yield owners[copies[real]], np.asarray(scores)[real, 0]

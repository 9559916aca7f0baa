"""Checks that a model can read the rows of a task: their tokens, and their second texts."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from bertjax.errors import UserError
from bertjax.tasks.task import Features

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

_ROWS = 256
# Shares of [UNK] above which there is a warning; an input of few words may have a rare character.
_MAX_IN_FILES, _MAX_IN_INPUTS = 0.05, 0.2
_told: set[str] = set()  # tokenizers by SHA-256


def warning(
    name: object,
    features: Features | None,
    tokenizer: "Tokenizer",
    config: Any,
    limit: float = _MAX_IN_FILES,
) -> str | None:
    """Returns a sentence if more than `limit` of the tokens of text are [UNK].

    Args:
        name: the name of the text in the sentence.
        features: the rows, of which up to 256 are read.
        tokenizer: made their ids.
        config: the shape of the model.
        limit: a share.

    Raises:
        UserError: a row has a token type that the model lacks.
    """
    if not features:
        return None
    rows = np.linspace(0, len(features) - 1, min(len(features), _ROWS)).astype(np.int64)
    longest = features.lengths[rows].max(axis=0)
    batch = features.batch(rows, longest.item() if longest.ndim == 0 else tuple(longest.tolist()))
    types = getattr(config, "encoder", config).type_vocab_size  # of an encoder-decoder's encoder
    if types and batch["token_type_ids"].max(initial=0) >= types:
        raise UserError(
            f"The model's type_vocab_size is {types}, so it can't tell the second text of a pair "
            "from the first: give single texts, or use a model that was trained on pairs."
        )
    ids = batch["input_ids"][batch["attention_mask"] > 0]
    is_unknown = ids[~tokenizer.special()[ids]] == tokenizer.unk_id
    share = float(is_unknown.mean()) if is_unknown.size else 0.0
    if share <= limit:
        return None
    return (
        f"Warning: {share:.0%} of the tokens of {name} are [UNK], because the model's vocabulary "
        "can't spell their words: use a model of the text's language, script and case."
    )


def check_inputs(features: Features, tokenizer: "Tokenizer", config: Any) -> None:
    """Warns, on the logger "bertjax", if many tokens of a model's inputs are [UNK].

    It does so once for a tokenizer. Raises `UserError` as `warning` does.
    """
    line = warning("the input", features, tokenizer, config, _MAX_IN_INPUTS)
    if line and tokenizer.sha256 not in _told:
        _told.add(tokenizer.sha256)
        logging.getLogger("bertjax").warning("%s", line)

"""Texts and pairs of texts: checked, tokenized and batched."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax import signals
from bertjax.errors import UserError
from bertjax.tasks import batches, tables

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

Text = str | tuple[str, str]


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Token ids of N rows [CLS] text [SEP] or [CLS] text [SEP] pair [SEP], and their labels."""

    input_ids: list[np.ndarray]
    """int32 [length] of each row."""
    token_type_ids: list[np.ndarray]
    """int32 [length] of each row."""
    labels: np.ndarray
    """[N] or [N, C]."""
    pad_id: int
    """Id of [PAD]."""
    weights: np.ndarray | None = None
    """float32 [N]: weight of each row in training; None: 1."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row, with [CLS] and [SEP]."""
        return np.array([len(ids) for ids in self.input_ids], np.int64)

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens.

        Args:
            indices: int [B], the rows to take. -1 is a padding row: row 0 with weight 0.
            width: T, at least the longest of these rows.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, T]; label [B] or [B, C];
            example_weight float32 [B].
        """
        rows = np.maximum(indices, 0)
        batch = batches.padded(self.input_ids, self.token_type_ids, indices, width, self.pad_id)
        if self.weights is not None:
            batch["example_weight"] = batch["example_weight"] * self.weights[rows]
        return {**batch, "label": self.labels[rows]}


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: "Tokenizer",
    max_length: int,
    labels: np.ndarray | None = None,
    *,
    parse_mask: bool = False,
) -> TextFeatures:
    """Tokenizes texts or pairs of texts and truncates the longer ones at their end.

    Args:
        texts: N texts.
        pairs: the second texts of the pairs, or None.
        tokenizer: gives the ids.
        max_length: maximum tokens of a row, with [CLS] and [SEP].
        labels: [N] or [N, C]; None, for prediction: zeros.
        parse_mask: read "[MASK]" in a text as the mask token.
    """
    input_ids: list[np.ndarray] = []
    token_type_ids: list[np.ndarray] = []
    for begin in range(0, len(texts), 256):
        signals.check()
        chunk = slice(begin, begin + 256)
        second = None if pairs is None else list(pairs[chunk])
        rows = tokenizer.batch(
            list(texts[chunk]), second, max_length=max_length, parse_mask=parse_mask
        )
        for ids, types, length in zip(
            rows["input_ids"], rows["token_type_ids"], rows["attention_mask"].sum(1), strict=True
        ):
            # A view would keep the whole padded chunk alive.
            input_ids.append(ids[:length].copy())
            token_type_ids.append(types[:length].copy())
    if labels is None:
        labels = np.zeros(len(texts), np.int32)
    return TextFeatures(input_ids, token_type_ids, labels, tokenizer.pad_id)


def name_text(index: int) -> str:
    """Returns the name of a text in errors."""
    return f"Text {index + 1}"


def check_texts(texts: Sequence[str], where: Callable[[int], str] = name_text) -> None:
    """Raises a UserError unless `texts` is a list of strings that a tokenizer can read."""
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    for index, text in enumerate(texts):
        tables.check_text(text, where(index))


def split_pairs(
    texts: Sequence[Text], *, paired: bool | None = None, where: Callable[[int], str] = name_text
) -> tuple[list[str], list[str] | None]:
    """Returns the checked first texts, and the second texts if the texts are pairs.

    Args:
        texts: texts, or pairs of texts.
        paired: whether the model was trained on pairs; None: unknown.
        where: index of a text -> its name in errors.

    Raises:
        UserError: texts and pairs are mixed, the model needs the other form, or a text can't be
            read.
    """
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    pairs = [text for text in texts if not isinstance(text, str)]
    if paired is not None and texts and bool(pairs) != paired:
        form = "(text, pair)" if paired else "one text"
        raise UserError(f"The model was trained on {form} per row: give that for every text.")
    if pairs and len(pairs) != len(texts):
        raise UserError("Some texts are pairs and some are not: give one form for all.")
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    seconds = [text[1] for text in pairs] if pairs else None
    check_texts(firsts, where)
    check_texts(seconds or [], where)
    return firsts, seconds


def parse_pair(line: str, where: str) -> tuple[str, str]:
    """Returns the two texts of a line, which a tab separates."""
    first, tab, second = line.partition("\t")
    if not tab or "\t" in second or not first.strip() or not second.strip():
        raise UserError(
            f"{where}: the model was trained on pairs; write two texts with a tab between."
        )
    return first, second

"""Documents as windows of whole sentences."""

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.model.extractive import min_length, places
from bertjax.tasks import batches
from bertjax.tasks.summarization_extractive.documents import Document
from bertjax.tasks.task import Outputs

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """N windows, rows of [CLS] sentence [SEP]; each sentence of a document is in one of them."""

    documents: Sequence[Document]
    """The documents."""
    tokens: list[list[np.ndarray]]
    """int32 [tokens] of each sentence of each document, with its [CLS] and [SEP]."""
    spans: np.ndarray
    """int64 [N, 3]: document, first sentence and number of sentences of each window."""
    pad_id: int
    """Id of [PAD]."""
    truncated: int
    """Number of sentences that are longer than a window, and lose their end."""
    second_type: int = 1
    """Token type of every second sentence."""

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row, or what places for its many short sentences take."""
        return np.array([_length(map(len, self._parts(row))) for row in range(len(self))], np.int64)

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens and S places for sentences; the index -1 is a padding row.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, T]; cls_positions,
            sentence_positions (in the document), sentence_mask, label int32 [B, S];
            example_weight float32 [B].
        """
        indices = np.asarray(indices)
        ids, types = [], []
        shape = (len(indices), places(width))
        names = ("cls_positions", "sentence_positions", "sentence_mask", "label")
        arrays = {name: np.zeros(shape, np.int32) for name in names}
        for at, row in enumerate(indices):
            parts = self._parts(max(row, 0))
            sizes = [len(part) for part in parts]
            ids.append(np.concatenate(parts))
            types.append(np.repeat(np.arange(len(parts)) % 2 * self.second_type, sizes))
            if row >= 0:
                document, first, count = self.spans[row]
                sentences = np.arange(first, first + count)
                labels = np.isin(sentences, self.documents[document].labels)
                starts = np.cumsum([0, *sizes[:-1]])
                for name, values in zip(names, (starts, sentences, 1, labels), strict=True):
                    arrays[name][at, :count] = values
        own = np.where(indices < 0, -1, np.arange(len(indices)))
        return {**batches.padded(ids, types, own, width, self.pad_id), **arrays}

    def by_document(self, outputs: Outputs) -> list[np.ndarray]:
        """Puts outputs [n, S] of rows in the order of sentences: float64 [sentences] each."""
        found = [np.zeros(len(document.sentences)) for document in self.documents]
        for rows, values in outputs:
            for (document, first, count), value in zip(self.spans[rows], values, strict=True):
                found[document][first : first + count] = value[:count]
        return found

    def _parts(self, row: int) -> list[np.ndarray]:
        document, first, count = self.spans[row]
        return self.tokens[document][first : first + count]


def make_windows(
    documents: Sequence[Document], tokenizer: "Tokenizer", max_seq_length: int
) -> Windows:
    """Cuts documents between sentences into as few windows as possible, of similar lengths.

    PreSumm reads one window of each document and drops the rest.

    Args:
        documents: the documents.
        tokenizer: gives the ids.
        max_seq_length: maximum tokens of a row. A longer sentence is truncated.
    """
    every = tokenizer.encode_sentences([each for one in documents for each in one.sentences])
    truncated = sum(len(ids) > max_seq_length - 2 for ids in every)
    ends = [tokenizer.cls_id], [tokenizer.sep_id]
    rows = iter(
        np.concatenate([ends[0], ids[: max_seq_length - 2], ends[1]]).astype(np.int32)
        for ids in every
    )
    tokens, spans = [], []
    for number, document in enumerate(documents):
        own = [next(rows) for _ in document.sentences]
        spans += [(number, *span) for span in _spans([len(ids) for ids in own], max_seq_length)]
        tokens.append(own)
    spans = np.array(spans, np.int64)
    return Windows(documents, tokens, spans, tokenizer.pad_id, truncated, tokenizer.second_type)


def _spans(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """(first sentence, number of sentences) of the fewest windows, the longest one minimal."""
    fewest = len(_fill(sizes, room))
    limits = range(max(sizes), room)
    shortest = bisect.bisect_left(limits, True, key=lambda to: len(_fill(sizes, to)) == fewest)
    return _fill(sizes, max(sizes) + shortest)


def _fill(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    spans, first = [], 0
    for at in range(1, len(sizes) + 1):
        if at == len(sizes) or _length(sizes[first : at + 1]) > room:
            spans.append((first, at - first))
            first = at
    return spans


def _length(sizes: Iterable[int]) -> int:
    """Tokens of a row of sentences; a row has a place for each."""
    sizes = list(sizes)
    return max(sum(sizes), min_length(len(sizes)))

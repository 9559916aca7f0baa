"""Sentences as windows of tokens, in which each token is tagged once."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax import signals
from bertjax.tasks import batches
from bertjax.tasks.task import Outputs

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer

_CHUNK = 8192  # words that are tokenized at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """N windows, rows [CLS] tokens [SEP], of sentences with W words and P tokens in all."""

    sentences: Sequence[Sequence[str]]
    """The words of each sentence."""
    ids: np.ndarray
    """int32 [P]: the tokens of all sentences, one sentence after the other."""
    first_tokens: np.ndarray
    """int64 [W]: the first token of each word, whose tag is that of the word."""
    spans: np.ndarray
    """int64 [N, 4]: first token and end of each window, and of the tokens that are tagged in it."""
    specials: tuple[int, int, int]
    """Ids of [CLS], [SEP] and [PAD]."""
    unreadable: int
    """Words without a token, such as control characters, which are read as [UNK]."""
    split: int
    """Sentences of more than one window."""
    tags: Sequence[Sequence[str]]
    """The tags of each sentence; none in prediction."""
    labels: np.ndarray
    """int32 [P]: the tag that each token is trained on."""
    weights: np.ndarray
    """float32 [P]: its weight; 0 for tokens without a tag."""

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of each row."""
        return self.spans[:, 1] - self.spans[:, 0] + 2

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to `width` tokens; the index -1 is a row of weight 0.

        Returns:
            input_ids, attention_mask, token_type_ids, label int32 [B, T]; label_weight float32
            [B, T]; example_weight float32 [B].
        """
        indices = np.asarray(indices)
        chosen = self.spans[np.maximum(indices, 0)]
        cls, sep, pad = self.specials
        rows = [np.concatenate([[cls], self.ids[each[0] : each[1]], [sep]]) for each in chosen]
        own = np.where(indices < 0, -1, np.arange(len(rows)))
        label = np.zeros((len(rows), width), np.int32)
        weight = np.zeros((len(rows), width), np.float32)
        for at, (first, _, begin, end) in enumerate(chosen):
            if indices[at] >= 0:
                places = slice(begin - first + 1, end - first + 1)
                label[at, places] = self.labels[begin:end]
                weight[at, places] = self.weights[begin:end]
        types = [np.zeros(len(row), np.int32) for row in rows]
        padded = batches.padded(rows, types, own, width, pad)
        return {**padded, "label": label, "label_weight": weight}

    def word_logits(self, outputs: Outputs) -> np.ndarray:
        """[W, C]: puts outputs [n, T, C] of rows in the order of words."""
        logits = np.zeros((len(self.ids), 0), np.float32)
        for rows, values in outputs:
            if not logits.shape[1]:
                logits = np.zeros((len(self.ids), values.shape[-1]), np.float32)
            for (first, _, begin, end), value in zip(self.spans[rows], values, strict=True):
                logits[begin:end] = value[begin - first + 1 : end - first + 1]
        return logits[self.first_tokens]

    def by_sentence(self, words: Sequence) -> Iterator[Sequence]:
        """Yields the parts of W values, one for each sentence."""
        end = 0
        for sentence in self.sentences:
            begin, end = end, end + len(sentence)
            yield words[begin:end]


def make_windows(
    sentences: Sequence[Sequence[str]],
    tokenizer: "Tokenizer",
    max_seq_length: int,
    *,
    documents: Sequence[int] | None = None,
    tags: Sequence[Sequence[str]] = (),
    labels: Sequence[str] = (),
    all_pieces: bool = False,
) -> Windows:
    """Cuts sentences into windows.

    A sentence that fits a row has one window. The windows of a longer one share a quarter of their
    tokens; each token is tagged in the window in which it is farther from the end.

    Args:
        sentences: the words of each sentence.
        tokenizer: gives the ids, word by word.
        max_seq_length: maximum tokens of a row.
        documents: number of the document of each sentence, ascending: windows are filled with the
            sentences around in the same document. None: a window has one sentence.
        tags: the tags of each sentence; none for prediction.
        labels: the tags that the model has.
        all_pieces: whether all tokens of a word are trained on its tag (I-PER after B-PER) and not
            the first one alone.
    """
    words = [word for sentence in sentences for word in sentence]
    ids: list[np.ndarray] = []
    for begin in range(0, len(words), _CHUNK):
        signals.check()
        ids += tokenizer.encode_words(words[begin : begin + _CHUNK])
    unknown = np.array([tokenizer.unk_id], np.int32)
    unreadable = sum(not len(each) for each in ids)
    ids = [each if len(each) else unknown for each in ids]
    sizes = np.array([len(each) for each in ids], np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)])  # [W + 1]
    sentence_ends = np.cumsum([0, *map(len, sentences)])
    bounds = ends[sentence_ends]  # [sentences + 1]
    spans, split = [], 0
    for at, within in enumerate(_documents(bounds, documents)):
        own = _spans(int(bounds[at]), int(bounds[at + 1]), max_seq_length - 2, within)
        split += len(own) > 1
        spans += own
    token_labels, weights = _labels(tags, labels, sizes, all_pieces)
    return Windows(
        sentences,
        np.concatenate([np.zeros(0, np.int32), *ids]),
        ends[:-1],
        np.array(spans, np.int64).reshape(-1, 4),
        (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id),
        unreadable,
        split,
        tags,
        token_labels,
        weights,
    )


def _labels(
    tags: Sequence[Sequence[str]], labels: Sequence[str], sizes: np.ndarray, all_pieces: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The labels and weights of the tokens of words with `sizes` tokens each; O without tags."""
    numbers = {label: number for number, label in enumerate(labels)}
    of_words = [numbers.get(tag, 0) for each in tags for tag in each] or [0] * len(sizes)
    inside = {f"B{tag[1:]}": at for tag, at in numbers.items() if tag[:2] in ("I", "I-")}
    further = [inside.get(label, number) for label, number in numbers.items()] or [0]
    found = np.repeat(np.array(further, np.int32)[of_words], sizes)
    weights = np.full(len(found), float(all_pieces), np.float32)
    firsts = np.cumsum(sizes) - sizes
    found[firsts], weights[firsts] = of_words, 1
    return found, weights


def _documents(bounds: np.ndarray, documents: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Yields the tokens [begin, end) of the document of each sentence."""
    if documents is None:
        yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        return
    numbers = np.asarray(documents)
    begins = np.searchsorted(numbers, numbers, "left")
    ends = np.searchsorted(numbers, numbers, "right")
    yield from zip(bounds[begins].tolist(), bounds[ends].tolist(), strict=True)


def _spans(
    begin: int, end: int, room: int, document: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """The windows of the tokens [begin, end), as `Windows.spans`, in a document [begin, end)."""
    spare = room - (end - begin)
    if spare >= 0:
        before, after = begin - document[0], document[1] - end
        left = min(before, max(spare // 2, spare - after))
        return [(begin - left, min(document[1], begin - left + room), begin, end)]
    overlap = room // 4
    firsts = range(begin, end - overlap, room - overlap)
    edges = [begin, *(first + (overlap + 1) // 2 for first in firsts[1:]), end]
    ends = [min(first + room, end) for first in firsts]
    return list(zip(firsts, ends, edges[:-1], edges[1:], strict=True))

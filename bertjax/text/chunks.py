"""Encoding of texts whose ids are those of the strings between their spaces, each found only once.

No rule of BERT's looks past a space. Text repeats its words, so that most of encoding is looking
them up: one look into a dictionary for each string, and the rest with arrays of all texts at once.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

# Of printable ASCII, BERT splits off whatever is neither letter nor digit.
_WORDS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")


class _Numbers(dict[str, int]):
    """Numbers strings in the order in which they are first looked up."""

    def __init__(self) -> None:
        self.new: list[str] = []

    def __missing__(self, chunk: str) -> int:
        number = self[chunk] = len(self)
        self.new.append(chunk)
        return number


class Chunks:
    """Remembers the ids of the strings between spaces, the chunks.

    Args:
        encode: the ids of each of some strings.
        most: chunks to remember; with more, all are forgotten.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], most: int) -> None:
        self._encode = encode
        self._most = most
        self._forget()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._numbers)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of texts.

        Returns:
            The ids of all texts one after the other, int32 [ids], and where those of each text
            begin, and their number: int64 [len(texts) + 1].

        Raises:
            Exception: what `encode` raises; then nothing is remembered.
        """
        if len(self._numbers) > self._most:
            self._forget()
        chunks = " ".join(texts).split(" ") if texts else []
        found = map(self._numbers.__getitem__, chunks)
        numbers = np.fromiter(found, np.int64, len(chunks))
        if self._numbers.new:
            try:
                self._learn()
            except BaseException:  # else some would have a number and no ids
                self._forget()
                raise
        starts = self._starts[numbers]
        lengths = self._starts[numbers + 1] - starts
        ends = np.zeros(len(chunks) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        # Where in self._ids each id is: a chunk's first one, and on from there.
        places = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
        bounds = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([text.count(" ") + 1 for text in texts], out=bounds[1:])
        return self._ids[places], ends[bounds]

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._words: dict[str, list[int]] = {}
        # The ids of the chunks in the order of their numbers, and where each one's begin.
        self._ids = np.zeros(0, np.int32)
        self._starts = np.zeros(1, np.int64)

    def _learn(self) -> None:
        """Finds the ids of new chunks by those of their words, which are far fewer."""
        rows = [
            _WORDS.findall(chunk) if chunk.isascii() and chunk.isprintable() else [chunk]
            for chunk in self._numbers.new
        ]
        words = self._words
        new = list({word: None for row in rows for word in row if word not in words})
        words.update(zip(new, self._encode(new), strict=True))
        ids = [[number for word in row for number in words[word]] for row in rows]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths)])
        flat = [number for row in ids for number in row]
        self._ids = np.concatenate([self._ids, np.array(flat, np.int32)])
        self._numbers.new = []

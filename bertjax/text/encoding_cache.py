"""A cache of encodings that makes WordPiece fast: each space-separated string is encoded once.

BERT's rules never look past a space, and text repeats its words. Encoding a text therefore needs
one dictionary lookup per string between spaces (a chunk); NumPy does the rest for all texts at
once.
"""

import collections
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

# BERT splits printable ASCII at every character that is neither a letter nor a digit.
_WORDS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")


class EncodingCache:
    """Encodes texts and remembers the ids of their chunks.

    `encode` returns the ids of each of several strings. The cache is emptied above `max_chunks`.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], max_chunks: int) -> None:
        self._encode = encode
        self._max_chunks = max_chunks
        self._clear()

    def __len__(self) -> int:
        """Returns the number of cached chunks."""
        return len(self._numbers)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts. An exception of the encoder empties the cache.

        Returns:
            The concatenated ids of all texts, int32 [ids], and the offset of each text's first id
            followed by the total: int64 [len(texts) + 1].
        """
        if len(self._numbers) > self._max_chunks:
            self._clear()
        chunks = " ".join(texts).split(" ") if texts else []
        numbers = np.fromiter(map(self._numbers.__getitem__, chunks), np.int64, len(chunks))
        if new := len(self._numbers) + 1 - len(self._starts):
            try:
                self._learn(list(itertools.islice(reversed(self._numbers), new))[::-1])
            except BaseException:  # some chunks have a number and no ids
                self._clear()
                raise
        starts = self._starts[numbers]
        lengths = self._starts[numbers + 1] - starts
        ends = np.zeros(len(chunks) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        # The index in self._ids of every output id: each chunk's ids are contiguous there.
        indices = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
        bounds = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([text.count(" ") + 1 for text in texts], out=bounds[1:])
        return self._ids[indices], ends[bounds]

    def _clear(self) -> None:
        # Numbers chunks in the order in which they are first looked up.
        self._numbers: collections.defaultdict[str, int] = collections.defaultdict()
        self._numbers.default_factory = self._numbers.__len__
        self._words: dict[str, list[int]] = {}
        # The ids of all chunks in the order of their numbers, and the offset of each chunk's ids.
        self._ids = np.zeros(0, np.int32)
        self._starts = np.zeros(1, np.int64)

    def _learn(self, chunks: list[str]) -> None:
        """Encodes new chunks through their words, which are far fewer than chunks."""
        rows = [
            _WORDS.findall(chunk) if chunk.isascii() and chunk.isprintable() else [chunk]
            for chunk in chunks
        ]
        words = self._words
        new = list({word: None for row in rows for word in row if word not in words})
        words.update(zip(new, self._encode(new), strict=True))
        ids = [[number for word in row for number in words[word]] for row in rows]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths)])
        flat = [number for row in ids for number in row]
        self._ids = np.concatenate([self._ids, np.array(flat, np.int32)])

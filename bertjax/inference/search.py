"""Exact search in the lines of a text by their vectors, which are kept beside it."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax import signals
from bertjax.errors import UserError
from bertjax.files import file_sha256, location, reading, write_atomically, writing
from bertjax.inference.config import SearchConfig
from bertjax.inference.embed import embed, followed_modules, write_vectors
from bertjax.inference.predict import Answering, answer_lines
from bertjax.inference.texts import CHUNK, chunks, open_lines, read_line
from bertjax.interop.huggingface import Pretrained, from_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.tasks.tables import read_json

_BLOCK = 65_536  # vectors that are compared at a time


class Lines(NamedTuple):
    """The lines of a text that are not blank."""

    texts: list[str]
    numbers: list[int]
    """Their numbers in the file, from 1."""
    sha256: str
    """Digest of the texts."""


def search_file(
    config: SearchConfig, say: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Answers the queries as `bertjax search` does; `note` gets what is not an answer.

    Raises:
        UserError: a file or the model can't be read, no model is known, or after the last query
            there were errors.
    """
    with open_lines(config.queries) as queries:
        lines = read_lines(config.texts)
        vectors, record = (location(f"{config.texts}.vectors{end}") for end in (".npy", ".json"))
        kept = _read_record(record)
        name = config.model or kept.get("model")
        if not isinstance(name, str):
            raise UserError(f"{config.texts}: has no vectors yet: give a `model` that makes them.")
        model = from_pretrained(name)
        made_from = {"texts": lines.sha256, "model": _identity(model)}
        matrix = (
            _load(vectors, str(kept.get("sha256"))) if kept.get("made_from") == made_from else None
        )
        if matrix is None:
            _make(model, lines, vectors, note)
            matrix = _load(vectors)
            name = str(location(name)) if location(name).exists() else name
            fields = {"model": name, "made_from": made_from, "sha256": file_sha256(vectors)}
            write_atomically(record, json.dumps(fields).encode())
        assert matrix is not None
        find = functools.partial(_find, model, lines, matrix, config)
        for line in answer_lines(Answering(find, lambda text, where: text), queries):
            say(line)


def read_lines(path: str) -> Lines:
    """Reads the lines of a file that are not blank.

    Raises:
        UserError: there are none, or one can't be read; the sentence names its line.
    """
    texts, numbers, digest = [], [], hashlib.sha256()
    with open_lines(path) as file:
        for name, line in (each for chunk in chunks(file) for each in chunk.items()):
            number = name.removeprefix("Line ")
            text = read_line(line, f"{path}:{number}")
            digest.update(text.encode() + b"\n")
            if text.strip():
                texts.append(text)
                numbers.append(int(number))
    if not texts:
        raise UserError(f"{path}: has only blank lines; write one text a line.")
    return Lines(texts, numbers, digest.hexdigest())


def nearest(vectors: np.ndarray, queries: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the vectors with the largest products with each query, by comparing all of them.

    Args:
        vectors: float32 [N, D], which may be mapped from a file.
        queries: float32 [Q, D].
        top_k: number of vectors to find for a query; all if there are fewer.

    Returns:
        Their numbers int64 [Q, K] and products float32 [Q, K], the largest first. Of equal products
        the first vector comes first.
    """
    numbers = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for begin in range(0, len(vectors), _BLOCK):
        signals.check()
        block = np.asarray(vectors[begin : begin + _BLOCK])
        found = np.broadcast_to(np.arange(begin, begin + len(block)), (len(queries), len(block)))
        numbers = np.concatenate([numbers, found], axis=1)
        scores = np.concatenate([scores, queries @ block.T], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        numbers, scores = (np.take_along_axis(each, best, axis=1) for each in (numbers, scores))
    return numbers, scores


def _find(
    model: Pretrained,
    lines: Lines,
    vectors: np.ndarray,
    config: SearchConfig,
    queries: Sequence[str],
    *,
    where: Any = None,
) -> list[dict[str, Any]]:
    del where
    asked = embed(model, queries, normalize=True)
    answers = []
    for query, numbers, scores in zip(queries, *nearest(vectors, asked, config.top_k), strict=True):
        results = [
            {"line": lines.numbers[row], "text": lines.texts[row], "score": round(float(score), 6)}
            for row, score in zip(numbers, scores, strict=True)
        ]
        answers.append({"query": query, "results": results})
    return answers


def _make(model: Pretrained, lines: Lines, path: epath.Path, note: Callable[[str], None]) -> None:
    """Computes the vectors of all lines, and writes them."""
    note(f"Computing the vectors of {len(lines.texts):,} lines ...")

    def vectors() -> Iterable[np.ndarray]:
        for begin in range(0, len(lines.texts), CHUNK):
            signals.check()
            texts = lines.texts[begin : begin + CHUNK]
            yield from embed(model, texts, normalize=True)

    with writing(path):
        note(f"Wrote {path}: {write_vectors(path, vectors())}.")


def _identity(model: Pretrained) -> str:
    """Returns a digest of all that decides the vectors of a model."""
    modules = followed_modules(model)
    parts = [weights_hash(model.params), model.tokenizer.sha256, repr(model.config)]
    parts += [str((model.task or {}).get("max_seq_length"))]
    digest = hashlib.sha256("\n".join(parts).encode())
    for name, data in sorted(modules.files.items()) if modules else ():
        digest.update(name.encode() + data)
    return digest.hexdigest()


def _read_record(path: epath.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with reading(path):
        record = read_json(path.read_text())
    return record if isinstance(record, dict) else {}


def _load(path: epath.Path, sha256: str | None = None) -> np.ndarray | None:
    """Reads vectors; None if the file is absent or not the one with the given digest."""
    if not path.is_file():
        return None
    with reading(path):
        if sha256 not in (None, file_sha256(path)):
            return None
        with path.open("rb") as file:
            return np.load(file, allow_pickle=False)

"""Changes the vocabulary of a trained model: adds words, or replaces the whole vocabulary.

Two tensors have one row per token: the word embeddings, to which the masked-LM decoder is tied, and
the masked-LM bias. An old token keeps its rows bit for bit, with their optimizer moments. A new
token starts as the mean of the pieces that the old vocabulary splits its text into. Before
training, its logit at every position is therefore the mean of the logits of these pieces. Its
moments start at zero. Nothing is random.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.wordpiece import MAX_WORD_CHARACTERS, WordPieceTokenizer

_UNUSED = re.compile(r"\[unused\d+\]")
_MAX_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Resized:
    """A model with a changed vocabulary, and the origin of its rows."""

    model: Pretrained
    """The model, to save or to train."""
    moments: tuple[dict[str, Any], ...]
    """The given trees of moments with the new shapes."""
    kept: int
    """Number of rows of old tokens."""
    averaged: int
    """Number of new rows that are the mean of old pieces."""
    unknown: int
    """Number of new rows without old pieces, which are the mean of all old tokens."""
    report: str
    """One sentence for the log."""


def add_words(
    model: Pretrained, words: Iterable[str], moments: Sequence[Mapping[str, Any]] = ()
) -> Resized:
    """Gives words tokens of their own in a WordPiece vocabulary.

    New tokens take the unused slots ([unused0], [unused1], ... in Google's vocabularies) in order,
    then ids at the end. No other id changes. A text keeps its ids unless one of its words begins
    with a new word, which is then the longest match: after adding "foo", "foobar" becomes "foo" and
    the pieces of "##bar", or [UNK] if the vocabulary has no such pieces.

    Args:
        model: a model of any kind.
        words: words in the tokenizer's spelling, e.g. lower-case for an uncased vocabulary. Words
            that have a token, and repeated words, are skipped and counted in the report.
        moments: trees like the parameters, such as Adam's mu and nu.

    Raises:
        UserError: there are no words; the vocabulary is SentencePiece; a word is empty or too long,
            or the tokenizer would split or spell it differently.
    """
    old = model.tokenizer
    if not isinstance(old, WordPieceTokenizer):
        raise UserError(
            f"Words can be added to a WordPiece vocabulary, and this model's is {old.kind}; train "
            "a vocabulary on text with these words, and replace the model's by it."
        )
    rows = model.bert_config("another vocabulary").vocab_size
    tokens = _tokens(old)
    given = list(words)
    for word in given:
        _check_word(old, word)
    if not given:
        raise UserError("There are no words to add: give at least one.")
    there = set(tokens)
    new = [word for word in dict.fromkeys(given) if word not in there]
    slots = [number for number, token in enumerate(tokens) if _UNUSED.fullmatch(token)][: len(new)]
    end = len(tokens) + len(new) - len(slots)
    numbers = [*slots, *range(len(tokens), end)]
    tokens += [""] * (end - len(tokens))
    for number, word in zip(numbers, new, strict=True):
        tokens[number] = word
    # A model may have more rows than tokens. The table grows only after these rows are used.
    kept = np.arange(max(rows, end))
    kept[numbers] = -1
    noun = "word" if len(new) == 1 else "words"
    report = (
        f"{len(new)} {noun} added: {len(slots)} in unused slots, {len(new) - len(slots)} at the "
        f"end of the vocabulary, which now has {end} tokens"
    )
    if skipped := len(given) - len(new):
        report += f"; {skipped} skipped, because they have a token or are repeated"
    new_tokenizer, pieces = old.with_tokens(tokens), _known_pieces(old, new)
    return _resize(model, new_tokenizer, moments, kept, pieces, report + ".")


def swap_vocabulary(
    model: Pretrained, tokenizer: Tokenizer, moments: Sequence[Mapping[str, Any]] = ()
) -> Resized:
    """Replaces the vocabulary of a model by another one, of any kind.

    A special token keeps the rows of the old token with its role ([CLS] keeps those of [CLS],
    whatever its id). A token in both vocabularies keeps its rows. Between kinds, tokens are equal
    if they have the same text at the same position in a word: "the" and "▁the", "##ing" and "ing";
    WordPiece's "," equals both "▁," and ",". Every other token is the mean of its old pieces.

    `moments` are trees like the parameters, such as Adam's mu and nu.
    """
    old = model.tokenizer
    roles = ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id")
    by_role = {getattr(tokenizer, role): getattr(old, role) for role in roles}
    by_entry: dict[str, int] = {}
    by_position: dict[tuple[str, bool], int] = {}
    for number, token in enumerate(_tokens(old)):
        if old.kind == tokenizer.kind:
            by_entry[token] = number
        for position in _positions(old, number):
            by_position.setdefault(position, number)
    kept, texts = np.full(tokenizer.vocab_size, -1), []
    for number, token in enumerate(_tokens(tokenizer)):
        positions = _positions(tokenizer, number)
        candidates = (by_role.get(number), by_entry.get(token), *map(by_position.get, positions))
        kept[number] = next((old_id for old_id in candidates if old_id is not None), -1)
        if kept[number] < 0:
            texts.append(positions[0][0] if positions else "")
    pieces = _known_pieces(old, texts)
    unknown = sum(not ids for ids in pieces)
    report = (
        f"Of {tokenizer.vocab_size} tokens in the new vocabulary, {len(kept) - len(pieces)} keep "
        f"their rows from the old one (of {old.vocab_size}), {len(pieces) - unknown} start as the "
        f"mean of old pieces, and {unknown} without old pieces as the mean of all old tokens."
    )
    return _resize(model, tokenizer, moments, kept, pieces, report)


def _resize(
    model: Pretrained,
    tokenizer: Tokenizer,
    moments: Sequence[Mapping[str, Any]],
    kept: np.ndarray,
    pieces: list[list[int]],
    report: str,
) -> Resized:
    """Changes the tables of the model and of the moments.

    `kept` int [V] has the old row that becomes each row, or -1 for a new row. `pieces` has the old
    rows whose mean becomes each new row; an empty list stands for all tokens.
    """
    new, old_tokens = kept < 0, model.tokenizer.vocab_size

    def means(table: np.ndarray) -> np.ndarray:
        result = table[kept]
        everything = table[:old_tokens].mean(0, dtype=np.float64)
        for number, ids in zip(np.flatnonzero(new), pieces, strict=True):
            result[number] = table[ids].mean(0, dtype=np.float64) if ids else everything
        return result

    def zeros(table: np.ndarray) -> np.ndarray:
        result = table[kept]
        result[new] = 0
        return result

    unknown = sum(not ids for ids in pieces)
    config = model.bert_config("another vocabulary")
    config = dataclasses.replace(config, vocab_size=len(kept))
    params = _with_tables(model.params, means)
    return Resized(
        dataclasses.replace(model, config=config, params=params, tokenizer=tokenizer),
        tuple(_with_tables(tree, zeros) for tree in moments),
        kept=len(kept) - len(pieces),
        averaged=len(pieces) - unknown,
        unknown=unknown,
        report=report,
    )


def _with_tables(tree: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> dict:
    """Returns the tree with `change` applied to the tables of one row per token, [V, D] and [V]."""

    def changed(table: Any) -> jax.Array:
        return jnp.asarray(change(np.asarray(table)))

    embeddings = dict(tree["embeddings"])
    words = embeddings["word_embeddings"]
    embeddings["word_embeddings"] = {**words, "embedding": changed(words["embedding"])}
    result = {**tree, "embeddings": embeddings}
    for name, part in tree.items():
        if {"transform", "bias"} <= part.keys():  # a masked-LM head, of the model or a generator
            result[name] = {**part, "bias": changed(part["bias"])}
    return result


def fill_rows(model: Pretrained) -> tuple[Pretrained, int]:
    """Gives every row of the model a token: [unused...] where the vocabulary has none.

    Models of some authors have more rows than tokens, so that their number divides by 8. Returns
    the model and the number of new tokens.

    Raises:
        UserError: rows are missing in a SentencePiece vocabulary.
    """
    old, rows = model.tokenizer, model.bert_config("another vocabulary").vocab_size
    if old.vocab_size == rows:
        return model, 0
    if not isinstance(old, WordPieceTokenizer):
        raise UserError(
            f"The tokenizer has {old.vocab_size} tokens and the model {rows}, and only a WordPiece "
            "vocabulary can get tokens for the rest: give a vocabulary of the model's size."
        )
    tokens = _tokens(old)
    there, added = set(tokens), rows - len(tokens)
    free = (name for n in itertools.count() if (name := f"[unused{n}]") not in there)
    tokens += itertools.islice(free, added)
    return dataclasses.replace(model, tokenizer=old.with_tokens(tokens)), added


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(number) for number in range(tokenizer.vocab_size)]


def _positions(tokenizer: Tokenizer, number: int) -> list[tuple[str, bool]]:
    """Returns (text, begins) for each place a token can have: beginning a word, or within one."""
    if (surface := tokenizer.surface(number)) is None:
        return []
    occurs = ((False, surface.continues), (True, surface.begins))
    return [(surface.text, begins) for begins, can in occurs if can]


def _known_pieces(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Returns the ids of each text and leaves out [UNK]."""
    encoded = tokenizer.encode_sentences(texts)
    return [[number for number in ids.tolist() if number != tokenizer.unk_id] for ids in encoded]


def _check_word(tokenizer: WordPieceTokenizer, word: str) -> None:
    if not word.strip():
        raise UserError(f"The word {word!r} is empty: leave it out.")
    if len(word) > MAX_WORD_CHARACTERS:
        raise UserError(
            f"The word {word[:20]!r}... has {len(word)} characters: a word of more than "
            f"{MAX_WORD_CHARACTERS} is always [UNK], so leave it out."
        )
    words = tokenizer.words(word)
    if not words:
        raise UserError(f"The tokenizer drops the word {word!r}: leave it out.")
    if len(words) > 1:
        shown = " ".join(words[:_MAX_SHOWN]) + (" ..." if len(words) > _MAX_SHOWN else "")
        raise UserError(
            f"The tokenizer splits the word {word!r} into {len(words)} words ({shown}), at spaces, "
            "punctuation and CJK characters: add them one by one."
        )
    if words != [word]:
        raise UserError(f"The tokenizer changes the word {word!r} to {words[0]!r}: write that.")

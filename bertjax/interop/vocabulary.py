"""Another vocabulary for weights that are trained already: words added to it, or all of it swapped.

Two tensors have a row a token: the word embeddings, to which the masked-LM decoder is tied, and
the masked-LM bias. A token that was there keeps its rows bit by bit, with their optimizer moments.
A new one starts as the mean of the pieces that the old vocabulary makes of its text, so that its
first logit is at every position the mean of theirs, never above the likeliest of them; nothing is
random. Its moments start at zero, as those of a first step.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.wordpiece import MAX_WORD_CHARACTERS, WordPieceTokenizer

_UNUSED = re.compile(r"\[unused\d+\]")
_MOST_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Surgery:
    """A model with another vocabulary, and what became of its rows."""

    model: Pretrained
    """What `save_pretrained` writes and training continues from."""
    moments: tuple[dict[str, Any], ...]
    """The trees of moments that were given, of the new shapes."""
    kept: int
    """Rows that are an old token's, bit by bit."""
    averaged: int
    """New rows that are the mean of old pieces."""
    unknown: int
    """New rows of whose text the old vocabulary knows nothing: the mean of all its tokens."""
    report: str
    """One sentence for the log."""


class _Plan(NamedTuple):
    kept: np.ndarray
    """int [V]: the old row that a new row is, or -1."""
    pieces: dict[int, list[int]]
    """Of every other new row: the old rows whose mean it is; none stands for all tokens."""


def add_words(
    model: Pretrained, words: Iterable[str], moments: Sequence[Mapping[str, Any]] = ()
) -> Surgery:
    """Gives words a token of their own in a WordPiece vocabulary.

    They go into its unused slots ([unused0], [unused1], ... of Google's vocabularies) in order,
    then to its end. No other id changes, so a text keeps its ids, and the model's outputs for it
    their bits, unless one of its words begins with a new word: there the new token is now the
    longest match (after adding "foo", "foobar" is "foo" and what follows it, or [UNK] where the
    vocabulary has no pieces for "##bar").

    Args:
        model: of any kind.
        words: as the tokenizer sees them: lower-case for an uncased vocabulary. Words that have a
            token already, or that come twice, are skipped, and the report says so.
        moments: trees like params, such as Adam's mu and nu.

    Raises:
        UserError: no words, a SentencePiece vocabulary, or a word that is empty, too long, or that
            the tokenizer would split or spell differently.
    """
    old = model.tokenizer
    if not isinstance(old, WordPieceTokenizer):
        raise UserError(
            f"Words can be added to a WordPiece vocabulary, and this model's is {old.kind}: train "
            "a vocabulary on text that holds these words and swap it in."
        )
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
    # A table may have more rows than there are tokens: the spare ones are used before it grows.
    rows = max(model.config.vocab_size, end)
    kept = np.arange(rows)
    kept[numbers] = -1
    pieces = dict(zip(numbers, _known_pieces(old, new), strict=True))
    report = (
        f"{len(new)} words added: {len(slots)} in unused slots, {len(new) - len(slots)} at the end "
        f"of the vocabulary, which has {end} tokens now"
    )
    if skipped := len(given) - len(new):
        report += f"; {skipped} skipped, as they have a token already or came twice"
    return _operate(model, old.with_tokens(tokens), moments, _Plan(kept, pieces), report + ".")


def swap_vocabulary(
    model: Pretrained, tokenizer: Tokenizer, moments: Sequence[Mapping[str, Any]] = ()
) -> Surgery:
    """Puts another vocabulary, of either kind, in the place of a model's own.

    Special tokens keep the rows of their role ([CLS] those of [CLS], whatever its id). A token that
    is in both vocabularies keeps its rows: the same entry, or, between kinds, the same text at the
    same place of a word ("the" and "▁the", "##ing" and "ing"; WordPiece's "," is both "▁," and
    ","). Any other is the mean of the pieces that the old vocabulary makes of its text.

    Args:
        model: of any kind.
        tokenizer: the new vocabulary.
        moments: trees like params, such as Adam's mu and nu.
    """
    old = model.tokenizer
    by_place, by_entry = _by_place(old), {}
    if old.kind == tokenizer.kind:
        by_entry = {token: number for number, token in enumerate(_tokens(old))}
    roles = {
        getattr(tokenizer, role): getattr(old, role)
        for role in ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id")
    }
    kept = np.full(tokenizer.vocab_size, -1)
    texts: dict[int, str] = {}
    for number, token in enumerate(_tokens(tokenizer)):
        surface = tokenizer.surface(number)
        candidates = [roles.get(number), by_entry.get(token)]
        if surface is not None:
            texts[number] = surface.text
            candidates.append(by_place.get((surface.text, False)) if surface.continues else None)
            candidates.append(by_place.get((surface.text, True)) if surface.begins else None)
        kept[number] = next((old_id for old_id in candidates if old_id is not None), -1)
    new = [int(number) for number in np.flatnonzero(kept < 0)]
    pieces = _known_pieces(old, [texts.get(number, "") for number in new])
    plan = _Plan(kept, dict(zip(new, pieces, strict=True)))
    unknown = sum(not ids for ids in pieces)
    report = (
        f"The vocabulary of {tokenizer.vocab_size} tokens took {len(kept) - len(new)} over from "
        f"the old one of {old.vocab_size}; {len(new) - unknown} start as the mean of old pieces, "
        f"and {unknown}, of which it knew nothing, as the mean of all its tokens."
    )
    return _operate(model, tokenizer, moments, plan, report)


def _operate(
    model: Pretrained,
    tokenizer: Tokenizer,
    moments: Sequence[Mapping[str, Any]],
    plan: _Plan,
    report: str,
) -> Surgery:
    tokens = model.tokenizer.vocab_size
    rows = len(plan.kept)
    unknown = sum(not ids for ids in plan.pieces.values())
    return Surgery(
        model=dataclasses.replace(
            model,
            config=dataclasses.replace(model.config, vocab_size=rows),
            params=_with_tables(model.params, lambda table: _means(table, plan, tokens)),
            tokenizer=tokenizer,
        ),
        moments=tuple(
            _with_tables(tree, lambda table: _zeros_for_new(table, plan)) for tree in moments
        ),
        kept=rows - len(plan.pieces),
        averaged=len(plan.pieces) - unknown,
        unknown=unknown,
        report=report,
    )


def _with_tables(tree: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray]) -> dict:
    """The tree with its tables that have a row a token, [V, D] and [V], changed."""

    def changed(table: Any) -> jax.Array:
        return jnp.asarray(change(np.asarray(table)))

    embeddings = dict(tree["embeddings"])
    words = embeddings["word_embeddings"]
    embeddings["word_embeddings"] = {**words, "embedding": changed(words["embedding"])}
    result = {**tree, "embeddings": embeddings}
    if "mlm" in tree:
        result["mlm"] = {**tree["mlm"], "bias": changed(tree["mlm"]["bias"])}
    return result


def _means(table: np.ndarray, plan: _Plan, tokens: int) -> np.ndarray:
    result = table[np.maximum(plan.kept, 0)]
    everything = table[:tokens].mean(0, dtype=np.float64)
    for number, pieces in plan.pieces.items():
        result[number] = table[pieces].mean(0, dtype=np.float64) if pieces else everything
    return result


def _zeros_for_new(table: np.ndarray, plan: _Plan) -> np.ndarray:
    result = table[np.maximum(plan.kept, 0)]
    result[plan.kept < 0] = 0
    return result


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(number) for number in range(tokenizer.vocab_size)]


def _by_place(tokenizer: Tokenizer) -> dict[tuple[str, bool], int]:
    """{(text, whether at the beginning of a word): id} of the tokens that texts give."""
    ids: dict[tuple[str, bool], int] = {}
    for number in range(tokenizer.vocab_size):
        surface = tokenizer.surface(number)
        if surface is not None:
            for begins in (True, False):
                if surface.begins if begins else surface.continues:
                    ids.setdefault((surface.text, begins), number)
    return ids


def _known_pieces(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of every text without [UNK], whose embedding says nothing about it."""
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
    if words == [word]:
        return
    if not words:
        raise UserError(f"The word {word!r} is nothing to this tokenizer: leave it out.")
    if len(words) == 1:
        raise UserError(
            f"The word {word!r} is {words[0]!r} to this tokenizer, which never sees it otherwise: "
            "write it so."
        )
    shown = " ".join(words[:_MOST_SHOWN]) + (" ..." if len(words) > _MOST_SHOWN else "")
    raise UserError(
        f"The word {word!r} is {len(words)} words to this tokenizer ({shown}), as it splits at "
        "spaces, punctuation and CJK characters: add them one by one."
    )

"""A SentencePiece model as the tokenizer.json of Hugging Face's libraries, with the same ids.

What the `tokenizers` library can't do as SentencePiece does is refused, never left out
(sentencepiece_model.proto and bpe_model.cc of google/sentencepiece; SpmConverter of transformers).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.text.pieces import SPECIALS

_SPACE = "▁"
_NO_CHARACTER = "\ufdd0"  # Unicode promises that no text has it
_UNIGRAM, _BPE, _KINDS = 1, 2, {3: "word", 4: "character"}
# Types of a piece.
_NORMAL, _USER_DEFINED, _UNUSED = 1, 4, 5


class _Model(NamedTuple):
    """The parts of a ModelProto that say which ids a text has."""

    pieces: list[tuple[str, float]]
    types: list[int]
    trainer: protobuf.Fields
    normalizer: protobuf.Fields


def tokenizer_json(
    model: bytes, special_ids: dict[str, int], normalize: Callable[[str], str]
) -> str:
    """The text of a tokenizer.json.

    It gives the ids that the model gives, but where

    - two ways of a unigram model to cut a word are as likely as each other to seven digits: the
      library adds up in 64 bits, SentencePiece in 32;
    - a text has letters with several marks as characters of their own (Unicode's NFD): the library
      looks a letter and its marks up together or one by one, SentencePiece as many as its table
      has.

    With it, as with BERT's own, a text can write a special token: "[SEP]" is one.

    Args:
        model: the bytes of a .model file.
        special_ids: id of every name in SPECIALS.
        normalize: the model's normalisation.

    Raises:
        UserError: the `tokenizers` library has no such model.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    parsed = _parse(model)
    if reason := _reason_against(parsed):
        raise UserError(
            f"The SentencePiece model can't be written as a tokenizer.json: {reason}; train one "
            "with `bertjax tokenizer train`."
        )
    trainer, rules = parsed.trainer, parsed.normalizer
    names = {name: parsed.pieces[number][0] for name, number in special_ids.items()}
    options: dict[str, Any] = {"byte_fallback": bool(protobuf.number(trainer, 35))}
    if _kind(parsed) == _UNIGRAM:
        cutter = models.Unigram(parsed.pieces, unk_id=special_ids["[UNK]"], **options)
    else:
        options |= {"unk_token": names["[UNK]"], "fuse_unk": True}
        ids = {piece: number for number, (piece, _) in enumerate(parsed.pieces)}
        cutter = models.BPE(ids, _merges(_scores(parsed)), **options)
    library = tokenizers.Tokenizer(cutter)
    steps: list[Any] = [
        normalizers.Precompiled(table) for table in protobuf.messages(rules, 2) if table
    ]
    if "A" not in normalize("A"):
        # Of a letter and its accents the library looks up the first part that the table has, and
        # drops the others: small letters, unlike capitals, are not in it alone.
        steps.insert(0, normalizers.Lowercase())
        if "\u0130" in normalize("\u0130"):
            # The one letter that a table which keeps accents leaves a capital (all of Unicode was
            # tried).
            steps.insert(0, normalizers.Replace("\u0130", _NO_CHARACTER))
            steps.append(normalizers.Replace(_NO_CHARACTER, "\u0130"))
    steps.append(normalizers.Replace(_SPACE, " "))
    steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(tokenizers.Regex("^ | $"), ""))
    library.normalizer = normalizers.Sequence(steps)
    prefix = "always" if protobuf.number(rules, 3, 1) else "never"  # add_dummy_prefix
    # split_by_whitespace says what training did, and the pieces whether words can be cut alone.
    words = protobuf.number(trainer, 22, 1) and not any(_SPACE in p[1:] for p, _ in parsed.pieces)
    library.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prefix, bool(words))
    library.decoder = decoders.Metaspace(_SPACE, prefix, bool(words))
    cls, sep = names["[CLS]"], names["[SEP]"]
    library.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, special_ids["[CLS]"]), (sep, special_ids["[SEP]"])],
    )
    library.add_special_tokens([names[name] for name in SPECIALS])
    return library.to_str(pretty=True)


def settings(tokens: Sequence[str], special_ids: dict[str, int]) -> dict[str, Any]:
    """What transformers' tokenizer_config.json says beside a tokenizer.json."""
    named = {f"{n[1:-1].lower()}_token": tokens[special_ids[n]] for n in SPECIALS}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **named,
    }


def _parse(model: bytes) -> _Model:
    """The message of a model that the sentencepiece library has read."""
    proto = protobuf.fields(model)
    pieces, types = [], []
    for message in protobuf.messages(proto, 1):
        piece = protobuf.fields(message)
        pieces.append((protobuf.messages(piece, 1)[0].decode(), protobuf.float32(piece, 2)))
        types.append(protobuf.number(piece, 3, _NORMAL))
    trainer, normalizer = (
        protobuf.fields(b"".join(protobuf.messages(proto, field))) for field in (2, 3)
    )
    return _Model(pieces, types, trainer, normalizer)


def _reason_against(model: _Model) -> str | None:
    """Why the `tokenizers` library can't give the ids of a model."""
    kind = _kind(model)
    if kind not in (_UNIGRAM, _BPE):
        return f"it is a {_KINDS.get(kind, kind)} model, and only unigram and BPE models can"
    if protobuf.number(model.trainer, 24):
        return "its spaces end a word instead of beginning it"
    if not protobuf.number(model.normalizer, 4, 1) or not protobuf.number(model.normalizer, 5, 1):
        return "it keeps spaces as they are"
    if _USER_DEFINED in model.types:
        piece = model.pieces[model.types.index(_USER_DEFINED)][0]
        return f"the user-defined piece {piece!r} would be found in other places"
    if _UNUSED in model.types:
        return "it has unused pieces"
    return _reason_against_merges(_scores(model)) if kind == _BPE else None


def _kind(model: _Model) -> int:
    return protobuf.number(model.trainer, 3, _UNIGRAM)


def _scores(model: _Model) -> dict[str, float]:
    """The pieces that text is cut into, and their scores."""
    pairs = zip(model.pieces, model.types, strict=True)
    return {piece: score for (piece, score), kind in pairs if kind == _NORMAL}


def _reason_against_merges(scores: dict[str, float]) -> str | None:
    """Why merges in a fixed order can't do what the scores of a BPE model do."""
    longer = [piece for piece in scores if len(piece) > 1]
    if len({scores[piece] for piece in longer}) < len(longer):
        return "several of its pieces have the same score"
    for piece in longer:
        if unknown := [character for character in piece if character not in scores]:
            return f"its piece {piece!r} has {unknown[0]!r} in it, which is no piece"
    return None


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The merges of a BPE model, the first ones first.

    SentencePiece joins, again and again, those neighbours that make the piece of the highest score,
    wherever that is cut. Yet each piece is only ever made from one pair: what happens between its
    two ends until it is made is what happens to the piece alone, as a join across an end would
    leave no such piece. So that pair is its only merge, and a piece that its own characters don't
    lead to has none.
    """
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        parts = list(piece)
        while len(parts) > 2:
            joined = [left + right for left, right in itertools.pairwise(parts)]
            best = max(joined, key=lambda each: scores.get(each, -math.inf))
            if best not in scores:
                break
            at = joined.index(best)
            parts[at : at + 2] = [best]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges

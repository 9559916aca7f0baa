"""Converts a SentencePiece model to the tokenizer.json of Hugging Face's libraries.

The result gives the same ids. A model that the `tokenizers` library cannot reproduce is refused
(sources: sentencepiece_model.proto and bpe_model.cc of google/sentencepiece; SpmConverter of
transformers).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.text.tokenizer_base import SPECIALS

_SPACE = "▁"
_PLACEHOLDER = "\ufdd0"  # a Unicode noncharacter, which no text contains
_UNIGRAM, _BPE, _OTHER_TYPES = 1, 2, {3: "word", 4: "character"}
# The types of a piece.
_NORMAL, _USER_DEFINED, _UNUSED = 1, 4, 5


class _Model(NamedTuple):
    """The fields of a ModelProto that determine the ids of a text."""

    pieces: list[tuple[str, float]]
    types: list[int]
    model_type: int
    trainer: protobuf.Fields
    normalizer: protobuf.Fields


def tokenizer_json(
    model: bytes, special_ids: dict[str, int], normalize: Callable[[str], str]
) -> str:
    """Returns the text of a tokenizer.json that gives the model's ids.

    Ids can differ in two cases:

    - Two segmentations of a word by a unigram model are equally likely to seven digits: the
      library adds scores in 64 bits, SentencePiece in 32.
    - A letter has several marks that are characters of their own (Unicode's NFD): the library looks
      up the letter and its marks together or one by one, SentencePiece the longest run in its
      table.

    As with BERT's own tokenizer.json, a text that contains "[SEP]" produces that special token.

    `model` is the bytes of a .model file, `special_ids` the id of every name in SPECIALS,
    `normalize` the model's normalization.

    Raises:
        UserError: the `tokenizers` library cannot reproduce the model.
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
    if parsed.model_type == _UNIGRAM:
        segmenter = models.Unigram(parsed.pieces, unk_id=special_ids["[UNK]"], **options)
    else:
        options |= {"unk_token": names["[UNK]"], "fuse_unk": True}
        ids = {piece: number for number, (piece, _) in enumerate(parsed.pieces)}
        segmenter = models.BPE(ids, _merges(_scores(parsed)), **options)
    library = tokenizers.Tokenizer(segmenter)
    tables = protobuf.messages(rules, 2)  # precompiled_charsmap
    library.normalizer = normalizers.Sequence(_normalization(tables, normalize))
    prefix = "always" if protobuf.number(rules, 3, 1) else "never"  # add_dummy_prefix
    # Words can be segmented alone if training split at spaces (split_by_whitespace) and no piece
    # has a space after its first character.
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


def _normalization(tables: Sequence[bytes], normalize: Callable[[str], str]) -> list[Any]:
    """Returns the library's normalizers that do what the model's tables do."""
    import tokenizers
    from tokenizers.normalizers import Lowercase, Precompiled, Replace

    steps: list[Any] = [Precompiled(table) for table in tables if table]
    if "A" not in normalize("A"):
        # For a letter with accents the library applies the first rule that matches a prefix and
        # drops the rest. Only capitals have such rules, so lowercase first.
        steps.insert(0, Lowercase())
        if "\u0130" in normalize("\u0130"):
            # Of all Unicode, a table that keeps accents leaves only this letter a capital.
            steps.insert(0, Replace("\u0130", _PLACEHOLDER))
            steps.append(Replace(_PLACEHOLDER, "\u0130"))
    steps.append(Replace(_SPACE, " "))
    steps.append(Replace(tokenizers.Regex(" {2,}"), " "))
    steps.append(Replace(tokenizers.Regex("^ | $"), ""))
    return steps


def settings(tokens: Sequence[str], special_ids: dict[str, int]) -> dict[str, Any]:
    """Returns the content of the tokenizer_config.json that belongs to a tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": tokens[special_ids[name]] for name in SPECIALS},
    }


def _parse(model: bytes) -> _Model:
    """Parses a ModelProto. The sentencepiece library has accepted its bytes before."""
    proto = protobuf.fields(model)
    pieces, types = [], []
    for message in protobuf.messages(proto, 1):
        piece = protobuf.fields(message)
        pieces.append((protobuf.messages(piece, 1)[0].decode(), protobuf.float32(piece, 2)))
        types.append(protobuf.number(piece, 3, _NORMAL))
    trainer, normalizer = (
        protobuf.fields(b"".join(protobuf.messages(proto, field))) for field in (2, 3)
    )
    return _Model(pieces, types, protobuf.number(trainer, 3, _UNIGRAM), trainer, normalizer)


def _reason_against(model: _Model) -> str | None:
    """Returns why the `tokenizers` library cannot give the ids of a model, None if it can."""
    if model.model_type not in (_UNIGRAM, _BPE):
        name = _OTHER_TYPES.get(model.model_type, model.model_type)
        return f"it is a {name} model, and only unigram and BPE models can"
    if protobuf.number(model.trainer, 24):
        return "its spaces end a word instead of beginning it"
    if not all(protobuf.number(model.normalizer, field, 1) for field in (4, 5)):
        return "it keeps spaces as they are"
    if _USER_DEFINED in model.types:
        piece = model.pieces[model.types.index(_USER_DEFINED)][0]
        return f"the user-defined piece {piece!r} would match at other positions"
    if _UNUSED in model.types:
        return "it has unused pieces"
    return _reason_against_merges(_scores(model)) if model.model_type == _BPE else None


def _scores(model: _Model) -> dict[str, float]:
    """Returns the scores of the pieces that text is segmented into."""
    pairs = zip(model.pieces, model.types, strict=True)
    return {piece: score for (piece, score), piece_type in pairs if piece_type == _NORMAL}


def _reason_against_merges(scores: dict[str, float]) -> str | None:
    """Returns why merges in a fixed order cannot reproduce a BPE model, None if they can."""
    longer = [piece for piece in scores if len(piece) > 1]
    if len({scores[piece] for piece in longer}) < len(longer):
        return "several of its pieces have the same score"
    for piece in longer:
        if unknown := [character for character in piece if character not in scores]:
            return f"its piece {piece!r} contains {unknown[0]!r}, which is not a piece"
    return None


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Returns the merges of a BPE model in their order.

    SentencePiece repeatedly joins the two neighbors whose concatenation has the highest score.
    Still, each piece is only ever made from one pair. Until the piece exists, no join crosses its
    ends, since that would prevent it; so the joins inside are those that happen when the piece is
    encoded alone. That pair is the piece's merge. A piece that its own characters do not lead to
    has no merge.
    """
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        symbols = list(piece)
        while len(symbols) > 2:
            joined = [left + right for left, right in itertools.pairwise(symbols)]
            best = max(joined, key=lambda each: scores.get(each, -math.inf))
            if best not in scores:
                break
            at = joined.index(best)
            symbols[at : at + 2] = [best]
        if len(symbols) == 2:
            merges.append((symbols[0], symbols[1]))
    return merges

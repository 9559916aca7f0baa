"""Reads the files that Hugging Face's libraries write beside or instead of vocab.txt.

tokenizer.json belongs to the `tokenizers` library; transformers 5 saves no other vocabulary file.
tokenizer_config.json and added_tokens.json belong to transformers. Any setting that would give
other ids than BERT's rules is refused.
"""

import re
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.text import wordpiece
from bertjax.text.tokenizer_base import SPECIALS

EXPORTED = "tokenizer.json"
_ADDED = "added_tokens.json"

_CLASSES = ("BertTokenizer", "DistilBertTokenizer")
_FAST_CLASSES = ("BertTokenizerFast", "DistilBertTokenizerFast")
# These classes read tokenizer.json and nothing else. The second is the name in transformers 5.
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# The rules of BERT that a setting can turn off.
_RULES = {
    "tokenize_chinese_chars": "each Chinese character is a word",
    "do_basic_tokenize": "text is cleaned and split at punctuation",
}

# Tokens that cannot be a line of a vocab.txt in UTF-8, so the tokenizer could not be saved.
_NO_LINE = re.compile(r"\A\Z|\n|\r\Z|[\ud800-\udfff]")

_SPECIAL_KEYS = {f"{token[1:-1].lower()}_token": token for token in SPECIALS}


def _piece(name: str, type_id: int) -> dict[str, Any]:
    """Returns a special token of a template or, for A and B, a text."""
    return {"SpecialToken" if name in SPECIALS else "Sequence": {"id": name, "type_id": type_id}}


_SINGLE = [_piece("[CLS]", 0), _piece("A", 0), _piece("[SEP]", 0)]
_TEMPLATE = {"single": _SINGLE, "pair": [*_SINGLE, _piece("B", 1), _piece("[SEP]", 1)]}


class Exported(NamedTuple):
    """The vocabulary and the rules of a tokenizer.json."""

    tokens: list[str]  # in the order of their ids
    lowercase: bool
    strip_accents: bool | None


def read_settings(file: epath.Path) -> dict[str, Any]:
    """Returns the settings of a tokenizer_config.json, {} if there is no file.

    Null settings are left out, except strip_accents, where null means "as do_lower_case".

    Raises:
        UserError: the file is not a JSON object, or a setting differs from BERT's rules.
    """
    if not file.is_file():
        return {}
    settings = read_json_object(file)
    for name in ("do_lower_case", "strip_accents"):
        value = settings.get(name)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{file}: {name} is {value!r}: write true or false.")
    for name, rule in _RULES.items():
        if settings.get(name) is False:
            raise UserError(
                f"{file}: {name} is false, but only BERT's own rule is supported: {rule}; use a "
                "model that was trained with it."
            )
    known = (*_CLASSES, *_FAST_CLASSES, *_GENERIC_CLASSES)
    if (name := settings.get("tokenizer_class")) is not None and name not in known:
        raise UserError(
            f"{file}: tokenizer_class is {name!r}, which may give other ids with this vocabulary; "
            f"only {' and '.join(_CLASSES)} are supported."
        )
    for key, token in _SPECIAL_KEYS.items():
        value = settings.get(key)
        name = value.get("content") if isinstance(value, dict) else value
        if name not in (None, token):
            raise _unlike_bert(file, f"{key} is {name!r}", token)
    return {name: v for name, v in settings.items() if v is not None or name == "strip_accents"}


def is_generic(settings: dict[str, Any]) -> bool:
    """Whether the settings' class reads tokenizer.json and nothing else."""
    return settings.get("tokenizer_class") in _GENERIC_CLASSES


def _unlike_bert(file: epath.Path, found: str, wanted: object) -> UserError:
    return UserError(
        f"{file}: {found}, but only BERT's own, {wanted}, is supported; use a model with a BERT "
        "tokenizer."
    )


def check_added(tokens: list[str], settings: dict[str, Any], file: epath.Path) -> None:
    """Checks the tokens that transformers adds to a vocabulary.

    They come from the settings and from an added_tokens.json beside them.

    Raises:
        UserError: the vocabulary does not hold a token at its id, or it would also match inside
            words.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    decoder = settings.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict) or not all(isinstance(v, dict) for v in decoder.values()):
        raise UserError(f"{file}: added_tokens_decoder must map ids to objects; save it again.")
    for number, entry in decoder.items():
        _check_id(ids, entry.get("content"), number, f"{file}: added_tokens_decoder")
        _check_special(entry, str(file))
    if (added := file.parent / _ADDED).is_file():
        for token, number in read_json_object(added).items():
            _check_id(ids, token, number, str(added))


def read_exported(file: epath.Path) -> Exported:
    """Reads a tokenizer.json with BERT's rules.

    Its added tokens become part of the vocabulary. As with [MASK], no text can produce one.

    Raises:
        UserError: the file is not such a JSON, a rule differs from BERT's, or ids have gaps or
            clash.
    """
    fields = read_json_object(file)
    model = _part(
        *(fields, "model", "WordPiece", file),
        unk_token="[UNK]",
        continuing_subword_prefix="##",
        max_input_chars_per_word=wordpiece.MAX_WORD_CHARACTERS,
    )
    rules = {"clean_text": True, "handle_chinese_chars": True}
    normalizer = _part(fields, "normalizer", "BertNormalizer", file, **rules)
    lowercase, strips = normalizer.get("lowercase"), normalizer.get("strip_accents")
    if not isinstance(lowercase, bool) or not isinstance(strips, bool | None):
        raise UserError(
            f"{file}: its normalizer's lowercase is {lowercase!r} and strip_accents {strips!r}: "
            "write true or false."
        )
    _part(fields, "pre_tokenizer", "BertPreTokenizer", file)
    _check_template(fields, file)
    return Exported(_vocabulary(model, fields, file), lowercase, strips)


def check_same(tokens: list[str], file: epath.Path) -> None:
    """Checks that a tokenizer.json beside a vocab.txt holds the same vocabulary.

    Its rules are not checked: in released models they do differ from tokenizer_config.json, which
    transformers follows in that case.

    Raises:
        UserError: the vocabularies differ, or the file is not a WordPiece tokenizer.json.
    """
    fields = read_json_object(file)
    if _vocabulary(_part(fields, "model", "WordPiece", file), fields, file) != tokens:
        raise UserError(
            f"{file}: holds another vocabulary than {wordpiece.FILE} beside it; delete the one "
            "that does not belong to the model."
        )


def _part(
    fields: dict[str, Any], name: str, wanted: str, file: epath.Path, **values: object
) -> dict[str, Any]:
    """Returns a part of a tokenizer.json, whose type and values must be these."""
    part = fields.get(name)
    found = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or found != wanted:
        raise _unlike_bert(file, f"its {name} is {found or 'missing'}", wanted)
    for key, value in values.items():
        if part.get(key) != value:
            raise _unlike_bert(file, f"its {name}'s {key} is {part.get(key)!r}", repr(value))
    return part


def _check_template(fields: dict[str, Any], file: epath.Path) -> None:
    processor = fields.get("post_processor")
    processor = processor if isinstance(processor, dict) else {}
    if processor.get("type") == "BertProcessing":
        names = [processor.get(name) for name in ("cls", "sep")]
        is_bert = [name[:1] for name in names if isinstance(name, list)] == [["[CLS]"], ["[SEP]"]]
    else:
        is_bert = all(processor.get(name) == pieces for name, pieces in _TEMPLATE.items())
    if not is_bert:
        raise UserError(
            f"{file}: its post_processor doesn't put [CLS] before a text and [SEP] after it and "
            "its pair, as BERT's does; use a model with a BERT tokenizer."
        )


def _vocabulary(model: dict[str, Any], fields: dict[str, Any], file: epath.Path) -> list[str]:
    vocabulary, added = model.get("vocab"), fields.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise UserError(f"{file}: its model holds no vocabulary; save the tokenizer again.")
    ids: dict[str, Any] = dict(vocabulary)
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise UserError(f"{file}: its added_tokens are not objects; save the tokenizer again.")
        token, number = entry["content"], entry.get("id")
        if ids.setdefault(token, number) != number:
            _check_id(ids, token, number, f"{file}: added_tokens")
        _check_special(entry, str(file))
    # Compare types exactly, since True == 1 and 1.0 == 1.
    if bad := [token for token, number in ids.items() if type(number) is not int]:
        raise UserError(f"{file}: the id of {bad[0]!r} is {ids[bad[0]]!r}: write a whole number.")
    tokens = sorted(ids, key=ids.__getitem__)
    for number, token in enumerate(tokens):
        if ids[token] != number:
            raise UserError(
                f"{file}: {token!r} has id {ids[token]}, but the next id is {number}; ids must "
                "count from 0 without gaps, so save the tokenizer again."
            )
    if bad := [token for token in tokens if _NO_LINE.search(token)]:
        raise UserError(
            f"{file}: the token {bad[0]!a} is empty, contains a line end or is half a character, "
            "which a BERT vocabulary cannot hold; save the tokenizer again."
        )
    if missing := [name for name in SPECIALS if name not in ids]:
        raise UserError(f"{file}: has no {', '.join(missing)}; is it a BERT vocabulary?")
    return tokens


def _check_id(ids: dict[str, Any], token: object, number: object, where: str) -> None:
    own = ids.get(token) if isinstance(token, str) else None
    if own is None or str(own) != str(number):
        found = "is missing" if own is None else f"has id {own}"
        raise UserError(
            f"{where} gives {token!r} the id {number}, but in the vocabulary it {found}; put the "
            "vocabulary that belongs to the model beside it."
        )


def _check_special(entry: dict[str, Any], where: str) -> None:
    if entry.get("special") is not True:
        raise UserError(
            f"{where}: the added token {entry.get('content')!r} is not special, so it would also "
            "match inside words, unlike BERT's rules; give a vocabulary without added words."
        )

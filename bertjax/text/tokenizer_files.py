"""Reads the files that Hugging Face's libraries write beside or instead of vocab.txt.

tokenizer.json belongs to the `tokenizers` library; transformers 5 saves no other vocabulary file.
tokenizer_config.json belongs to transformers. Any setting that would give other ids than BERT's
rules is refused.
"""

import json
import re
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.text import added_tokens, wordpiece
from bertjax.text.tokenizer_base import SPECIALS

EXPORTED = "tokenizer.json"

_CLASSES = ("BertTokenizer", "DistilBertTokenizer")
_CONFIG = "config.json"
_FAST_CLASSES = ("BertTokenizerFast", "DistilBertTokenizerFast")
# These classes read tokenizer.json and nothing else. The second is the name in transformers 5.
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_BASIC = "text is cleaned and split at spaces, punctuation and Chinese characters"
# The rules of BERT that a setting can replace, and the values that keep them beside null.
_RULES: dict[str, tuple[list[Any], str]] = {
    "tokenize_chinese_chars": ([True], "each Chinese character is a word"),
    "do_basic_tokenize": ([True], _BASIC),
    "never_split": ([[]], _BASIC),
    "word_tokenizer_type": ([], _BASIC),  # BertJapaneseTokenizer's: MeCab, Sudachi or Juman++
    "subword_tokenizer_type": ([], "words are split into the longest tokens"),
    "split_special_tokens": ([False], "special tokens are found in text"),
}

# A model with these fields is a WordPiece. The library named no types until 2020.
_WORDPIECE = {"continuing_subword_prefix", "max_input_chars_per_word"}

# Tokens that cannot be a line of a vocab.txt in UTF-8, so the tokenizer could not be saved.
_NO_LINE = re.compile(r"\A\Z|\n|\r\Z|[\ud800-\udfff]")


def _piece(name: str, type_id: int) -> dict[str, Any]:
    """Returns a special token of a template or, for A and B, a text."""
    return {"SpecialToken" if name in SPECIALS else "Sequence": {"id": name, "type_id": type_id}}


_SINGLE = [_piece("[CLS]", 0), _piece("A", 0), _piece("[SEP]", 0)]
_TEMPLATE = {"single": _SINGLE, "pair": [*_SINGLE, _piece("B", 1), _piece("[SEP]", 1)]}


class Exported(NamedTuple):
    """The vocabulary and the rules of a tokenizer.json."""

    tokens: list[str]  # in the order of their ids, without added tokens other than BERT's own
    added: list[added_tokens.Entry]
    lowercase: bool
    strip_accents: bool | None


def read_settings(file: epath.Path) -> dict[str, Any]:
    """Returns the settings of a tokenizer_config.json, if there is one.

    Its class may be named in the config.json beside it instead. Null settings are left out, except
    strip_accents, where null means "as do_lower_case".

    Raises:
        UserError: the file is not a JSON object, or a setting differs from BERT's rules.
    """
    settings = read_json_object(file) if file.is_file() else {}
    for name in ("do_lower_case", "strip_accents"):
        value = settings.get(name)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{file}: {name} is {value!r}: write true or false.")
    for name, (values, rule) in _RULES.items():
        if (value := settings.get(name)) is not None and value not in values:
            raise UserError(
                f"{file}: {name} is {json.dumps(value)}, but only BERT's own rule is supported: "
                f"{rule}; use a model that was trained with it."
            )
    _check_class(file, settings)
    if settings.get("tokenizer_class") is None and (model := file.parent / _CONFIG).is_file():
        _check_class(model, fields := read_json_object(model))
        settings["tokenizer_class"] = fields.get("tokenizer_class")
    return {name: v for name, v in settings.items() if v is not None or name == "strip_accents"}


def _check_class(file: epath.Path, fields: dict[str, Any]) -> None:
    """Refuses a tokenizer that is another class of transformers or code of its own."""
    known = (*_CLASSES, *_FAST_CLASSES, *_GENERIC_CLASSES)
    if (name := fields.get("tokenizer_class")) is not None and name not in known:
        raise UserError(
            f"{file}: tokenizer_class is {name!r}, which may give other ids with this vocabulary; "
            f"only {' and '.join(_CLASSES)} are supported."
        )
    code = fields.get("auto_map")
    if isinstance(code, dict) and "AutoTokenizer" in code:
        raise UserError(
            f"{file}: auto_map names code for the tokenizer ({code['AutoTokenizer']}), which is "
            "not run; use a model with a BERT tokenizer."
        )


def is_generic(settings: dict[str, Any]) -> bool:
    """Whether the settings' class reads tokenizer.json and nothing else."""
    return settings.get("tokenizer_class") in _GENERIC_CLASSES


def _unlike_bert(file: epath.Path, found: str, wanted: object) -> UserError:
    return UserError(
        f"{file}: {found}, but only BERT's own, {wanted}, is supported; use a model with a BERT "
        "tokenizer."
    )


def read_exported(file: epath.Path) -> Exported:
    """Reads a tokenizer.json with BERT's rules.

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
    _part(fields, "normalizer", "BertNormalizer", file, **rules)
    _part(fields, "pre_tokenizer", "BertPreTokenizer", file)
    _check_template(fields, file)
    return _exported(model, fields, file)


def read_beside(tokens: list[str], file: epath.Path) -> Exported:
    """Reads a tokenizer.json beside a vocab.txt with the given tokens.

    Its rules other than case and accents are not checked: in released models they do differ from
    tokenizer_config.json, which transformers follows in that case.

    Raises:
        UserError: the vocabularies differ, or the file is not a WordPiece tokenizer.json.
    """
    fields = read_json_object(file)
    exported = _exported(_part(fields, "model", "WordPiece", file), fields, file)
    if exported.tokens != tokens:
        raise UserError(
            f"{file}: holds another vocabulary than {wordpiece.FILE} beside it; delete the one "
            "that does not belong to the model."
        )
    return exported


def _part(
    fields: dict[str, Any], name: str, wanted: str, file: epath.Path, **values: object
) -> dict[str, Any]:
    """Returns a part of a tokenizer.json, whose type and values must be these."""
    part = fields.get(name)
    found = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and "type" not in part and part.keys() >= _WORDPIECE:
        found = "WordPiece"
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


def _exported(model: dict[str, Any], fields: dict[str, Any], file: epath.Path) -> Exported:
    """Returns what the parts of a tokenizer.json say."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict):
        raise UserError(f"{file}: its model holds no vocabulary; save the tokenizer again.")
    added = added_tokens.of_exported(fields.get("added_tokens") or [], file)
    own = {e.token.content: e.id for e in added if e.token.content in SPECIALS}
    tokens = _tokens({**own, **vocabulary}, file)
    normalizer = fields.get("normalizer")
    normalizer = normalizer if isinstance(normalizer, dict) else {}
    lowercase, strips = normalizer.get("lowercase"), normalizer.get("strip_accents")
    if not isinstance(lowercase, bool) or not isinstance(strips, bool | None):
        raise UserError(
            f"{file}: its normalizer's lowercase is {lowercase!r} and strip_accents {strips!r}: "
            "write true or false."
        )
    return Exported(tokens, added, lowercase, strips)


def _tokens(ids: dict[str, Any], file: epath.Path) -> list[str]:
    """Returns the tokens of a vocabulary in the order of their ids."""
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

"""What Hugging Face's libraries write beside or instead of vocab.txt, held against BERT's rules.

tokenizer.json is the `tokenizers` library's file (all that transformers 5 saves of a vocabulary),
tokenizer_config.json and added_tokens.json are transformers' own. What would give other ids than
BERT's rules do is refused, never ignored.
"""

import re
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.text import wordpiece
from bertjax.text.pieces import SPECIALS

EXPORTED = "tokenizer.json"
_ADDED = "added_tokens.json"

_CLASSES = (
    "BertTokenizer",
    "BertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
)
# These do what tokenizer.json says and read nothing else; the second is transformers 5's name.
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

# What no line of a vocab.txt in UTF-8 holds, so that the tokenizer could not be saved.
_NO_LINE = re.compile(r"\A\Z|\n|\r\Z|[\ud800-\udfff]")

_SPECIAL_KEYS = {f"{token[1:-1].lower()}_token": token for token in SPECIALS}
_TEMPLATE = {
    "single": ["[CLS] 0", "A 0", "[SEP] 0"],
    "pair": ["[CLS] 0", "A 0", "[SEP] 0", "B 1", "[SEP] 1"],
}


class Exported(NamedTuple):
    """What a tokenizer.json says."""

    tokens: list[str]
    """In the order of their ids."""
    lowercase: bool
    strip_accents: bool | None


def read_settings(file: epath.Path) -> dict[str, Any]:
    """A tokenizer_config.json without what is null, but for strip_accents, where null says
    something (as do_lower_case does); {} if there is none.

    Raises:
        UserError: no JSON object, or a setting that BERT's rules don't have.
    """
    if not file.is_file():
        return {}
    settings = read_json_object(file)
    for name in ("do_lower_case", "strip_accents"):
        value = settings.get(name)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{file}: {name} is {value!r}: write true or false.")
    if settings.get("tokenize_chinese_chars") is False:
        raise UserError(
            f"{file}: tokenize_chinese_chars is false, and only BERT's own way can be done, which "
            "takes each Chinese character as a word; use a model that was trained so."
        )
    if settings.get("do_basic_tokenize") is False:
        raise UserError(
            f"{file}: do_basic_tokenize is false, and only BERT's own way can be done, which "
            "cleans a text and splits it at punctuation; use a model that was trained so."
        )
    known = (*_CLASSES, *_GENERIC_CLASSES)
    if (name := settings.get("tokenizer_class")) is not None and name not in known:
        raise UserError(
            f"{file}: tokenizer_class is {name!r}, which may make other ids of this vocabulary; "
            f"only that of a {', '.join(_CLASSES[::2])} can be read."
        )
    for key, token in _SPECIAL_KEYS.items():
        value = settings.get(key)
        name = value.get("content") if isinstance(value, dict) else value
        if name not in (None, token):
            raise UserError(
                f"{file}: {key} is {name!r}, and only BERT's own, {token}, can be read; use a "
                "model with a BERT's tokenizer."
            )
    return {
        name: value
        for name, value in settings.items()
        if value is not None or name == "strip_accents"
    }


def is_generic(settings: dict[str, Any]) -> bool:
    """Whether the settings' class reads tokenizer.json and nothing else."""
    return settings.get("tokenizer_class") in _GENERIC_CLASSES


def check_added(tokens: list[str], settings: dict[str, Any], file: epath.Path) -> None:
    """Refuses tokens that transformers added to a vocabulary, in its settings' file or
    added_tokens.json beside it, but for those that it holds at their ids.

    Raises:
        UserError: a token with another id, or one that would be cut out of the midst of words.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    decoder = settings.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict) or not all(isinstance(v, dict) for v in decoder.values()):
        raise UserError(f"{file}: added_tokens_decoder holds no objects by ids; save it again.")
    for number, entry in decoder.items():
        _check_place(ids, entry.get("content"), number, f"{file}: added_tokens_decoder")
        _check_special(entry, str(file))
    if (added := file.parent / _ADDED).is_file():
        for token, number in read_json_object(added).items():
            _check_place(ids, token, number, str(added))


def read_exported(file: epath.Path) -> Exported:
    """A tokenizer.json with BERT's rules.

    Its added tokens are part of the vocabulary; as with [MASK], no text can write one.

    Raises:
        UserError: not such a file, a rule that isn't BERT's, or ids that leave a gap or clash.
    """
    fields = read_json_object(file)
    model = _part(fields, "model", "WordPiece", file)
    wanted = {
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": wordpiece.MAX_WORD_CHARACTERS,
    }
    _check_values(model, "model", wanted, file)
    normalizer = _part(fields, "normalizer", "BertNormalizer", file)
    wanted = {"clean_text": True, "handle_chinese_chars": True}
    _check_values(normalizer, "normalizer", wanted, file)
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
    """Refuses a tokenizer.json beside a vocab.txt if it holds another vocabulary.

    Only the vocabulary: in released models the rules in the two files do differ, and then those in
    tokenizer_config.json are the ones that transformers follows.

    Raises:
        UserError: they differ, or it is no tokenizer.json of a WordPiece vocabulary.
    """
    fields = read_json_object(file)
    if _vocabulary(_part(fields, "model", "WordPiece", file), fields, file) != tokens:
        raise UserError(
            f"{file}: holds another vocabulary than {wordpiece.FILE} beside it; delete the one "
            "that is not the model's."
        )


def _part(fields: dict[str, Any], name: str, wanted: str, file: epath.Path) -> dict[str, Any]:
    part = fields.get(name)
    found = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or found != wanted:
        raise UserError(
            f"{file}: its {name} is {found or 'missing'}, and only BERT's own, {wanted}, can be "
            "read; use a model with a BERT's tokenizer."
        )
    return part


def _check_values(
    part: dict[str, Any], name: str, wanted: dict[str, Any], file: epath.Path
) -> None:
    for key, value in wanted.items():
        if part.get(key) != value:
            raise UserError(
                f"{file}: its {name}'s {key} is {part.get(key)!r}, and only BERT's own, {value!r}, "
                "can be read; use a model with a BERT's tokenizer."
            )


def _check_template(fields: dict[str, Any], file: epath.Path) -> None:
    processor = fields.get("post_processor")
    if isinstance(processor, dict):
        if processor.get("type") == "BertProcessing":
            names = [_first(processor.get(name)) for name in ("cls", "sep")]
            if names == ["[CLS]", "[SEP]"]:
                return
        if all(_written(processor.get(name)) == value for name, value in _TEMPLATE.items()):
            return
    raise UserError(
        f"{file}: its post_processor doesn't put [CLS] before a text and [SEP] after it and its "
        "pair, as BERT's does; use a model with a BERT's tokenizer."
    )


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _written(template: object) -> list[str] | None:
    """A template as _TEMPLATE has it: of each of its pieces the id and the type."""
    if not isinstance(template, list):
        return None
    entries = [entry for piece in template if isinstance(piece, dict) for entry in piece.values()]
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    return [f"{entry.get('id')} {entry.get('type_id')}" for entry in entries]


def _vocabulary(model: dict[str, Any], fields: dict[str, Any], file: epath.Path) -> list[str]:
    vocabulary, added = model.get("vocab"), fields.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise UserError(f"{file}: its model holds no vocabulary; save the tokenizer again.")
    ids: dict[str, Any] = dict(vocabulary)
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise UserError(f"{file}: its added_tokens are no objects; save the tokenizer again.")
        token, number = entry["content"], entry.get("id")
        if ids.setdefault(token, number) != number:
            _check_place(ids, token, number, f"{file}: added_tokens")
        _check_special(entry, str(file))
    # By type, as True == 1 and 1.0 == 1.
    if bad := [token for token, number in ids.items() if type(number) is not int]:
        raise UserError(f"{file}: the id of {bad[0]!r} is {ids[bad[0]]!r}: write a whole number.")
    tokens = sorted(ids, key=ids.__getitem__)
    for number, token in enumerate(tokens):
        if ids[token] != number:
            raise UserError(
                f"{file}: {token!r} has id {ids[token]} where {number} would be next; a "
                "vocabulary has each id from 0 on once, so save the tokenizer again."
            )
    if bad := [token for token in tokens if _NO_LINE.search(token)]:
        raise UserError(
            f"{file}: the token {bad[0]!a} is empty, holds the end of a line or is half a "
            "character; no vocabulary of a BERT's has one, so save the tokenizer again."
        )
    if missing := [name for name in SPECIALS if name not in ids]:
        raise UserError(f"{file}: has no {', '.join(missing)}; is it a BERT's vocabulary?")
    return tokens


def _check_place(ids: dict[str, Any], token: object, number: object, where: str) -> None:
    own = ids.get(token) if isinstance(token, str) else None
    if own is None or str(own) != str(number):
        place = "is not in it" if own is None else f"has id {own} there"
        raise UserError(
            f"{where} gives {token!r} the id {number} in the vocabulary, but it {place}; put the "
            "vocabulary that belongs to the model beside it."
        )


def _check_special(entry: dict[str, Any], where: str) -> None:
    if entry.get("special") is not True:
        raise UserError(
            f"{where}: the added token {entry.get('content')!r} is not special, so that it would "
            "be cut out of the midst of words too, which BERT's rules don't do; give a vocabulary "
            "without added words."
        )

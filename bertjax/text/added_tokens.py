"""Reads the tokens that transformers adds to a vocabulary, such as [E1] or <URL>.

They are found in text before it is cut into words. Files of several versions name them: the
added_tokens_decoder of tokenizer_config.json, else special_tokens_map.json and added_tokens.json,
and in any case tokenizer.json. The five tokens of BERT are never found in text.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.text.tokenizer_base import SETTINGS_FILE, SPECIALS

_ADDED = "added_tokens.json"
_NAMED = "special_tokens_map.json"
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FIRST = ("bos_token", "eos_token")  # their ids precede those of other new tokens
_SPECIAL_KEYS = {f"{token[1:-1].lower()}_token": token for token in SPECIALS}


class AddedToken(NamedTuple):
    """A token that is found in text before it is cut into words; the fields are transformers'."""

    content: str
    special: bool = True
    """Whether it is left out of decoded text and never masked."""
    normalized: bool = False
    """Whether it is searched in the cleaned (and lowercased) text."""
    single_word: bool = False
    """Whether it must not be a part of a word."""
    lstrip: bool = False
    """Whether it takes the spaces before it; they have no ids."""
    rstrip: bool = False
    """Whether it takes the spaces after it."""


class Entry(NamedTuple):
    """The attributes that a file gives a token."""

    token: AddedToken
    id: int | None  # None: the token's in the vocabulary, else the next one after it
    where: str


def of_exported(added: Any, file: epath.Path) -> list[Entry]:
    """Returns the added_tokens of a tokenizer.json."""
    entries = added if isinstance(added, list) else [added]
    if not all(isinstance(entry, dict) and entry.get("id") is not None for entry in entries):
        raise UserError(f"{file}: its added_tokens are not objects with ids; save it again.")
    return [_entry(entry, entry["id"], f"{file}: added_tokens") for entry in entries]


def of_settings(settings: dict[str, Any], directory: epath.Path) -> list[Entry]:
    """Returns the tokens that the other files of a directory add or name.

    Args:
        settings: the contents of tokenizer_config.json.
        directory: where special_tokens_map.json and added_tokens.json lie.

    Raises:
        UserError: an entry is malformed, or a special token is not BERT's.
    """
    file = directory / SETTINGS_FILE
    decoder = settings.get("added_tokens_decoder")
    entries = list(_named(settings, file))
    if decoder is not None:  # then transformers reads no other file
        if not isinstance(decoder, dict) or not all(isinstance(v, dict) for v in decoder.values()):
            raise UserError(f"{file}: added_tokens_decoder must map ids to objects; save it again.")
        where = f"{file}: added_tokens_decoder"
        return [_entry(entry, _number(id_), where) for id_, entry in decoder.items()] + entries
    if (file := directory / _NAMED).is_file():
        entries += _named(read_json_object(file), file)
    if (file := directory / _ADDED).is_file():
        special = {entry.token.content for entry in entries}
        for content, id_ in read_json_object(file).items():
            fields = {"content": content, "special": content in special}
            entries.insert(0, _entry(fields, id_, str(file)))
    return entries


def check_same(*sources: Iterable[Entry]) -> None:
    """Checks that two files give ids to the same added tokens; BERT's own five don't count.

    Raises:
        UserError: a file lacks a token of the other.
    """
    one, other = ({e.token.content: e for e in each if e.id is not None} for each in sources)
    for content in (one.keys() ^ other.keys()) - set(SPECIALS):
        where = (one.get(content) or other[content]).where
        raise UserError(
            f"{where} has {content!r}, and the other file of the tokenizer does not add it; save "
            "the tokenizer again."
        )


def place(tokens: list[str], *sources: Iterable[Entry]) -> tuple[AddedToken, ...]:
    """Returns the added tokens other than BERT's own five, in the order of their ids.

    Tokens that the vocabulary lacks have the ids after it. Of several entries of a token, those of
    earlier sources count.

    Raises:
        UserError: an id is another one than that of the vocabulary, or leaves a gap after it.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    entries = [entry for source in sources for entry in source]
    entries.sort(key=lambda entry: (entry.id is None, entry.id))
    found: dict[str, AddedToken] = {}
    for token, number, where in entries:
        next_id = len(ids)
        own = ids.setdefault(token.content, next_id)
        if number not in (None, own):
            if own == next_id:
                raise UserError(
                    f"{where}: {token.content!r} has id {number}, but the next id is {own}; ids "
                    "must count from 0 without gaps, so save the tokenizer again."
                )
            raise UserError(
                f"{where} gives {token.content!r} the id {number}, but in the vocabulary it has id "
                f"{own}; put the vocabulary that belongs to the model beside it."
            )
        if token.content not in SPECIALS:
            found.setdefault(token.content, token)
    return tuple(sorted(found.values(), key=lambda token: ids[token.content]))


def decoder_of(tokens: list[str], added: tuple[AddedToken, ...]) -> dict[str, dict[str, Any]]:
    """Returns the added_tokens_decoder of tokenizer_config.json: BERT's own tokens and `added`.

    `tokens` is the whole vocabulary with the added tokens.
    """
    entries = (*map(AddedToken, SPECIALS), *added)
    ids = {token: number for number, token in enumerate(tokens)}
    return {str(ids[entry.content]): entry._asdict() for entry in entries}


def _named(fields: dict[str, Any], file: epath.Path) -> Iterator[Entry]:
    """Yields the special tokens that settings or a special_tokens_map.json name."""
    for key in sorted(fields, key=lambda key: (key in _LISTS, key not in _FIRST)):
        value = fields[key]
        if key in _LISTS and isinstance(value, list | dict):
            several = value.values() if isinstance(value, dict) else value
        elif key.endswith("_token") and isinstance(value, str | dict):
            several = [value]
        else:
            continue
        for each in several:
            flags = {"content": each} if isinstance(each, str) else each
            if not isinstance(flags, dict):
                raise UserError(f"{file}: {key} names {each!r}; write the token as a string.")
            entry = _entry({**flags, "special": True}, None, f"{file}: {key}")
            if (wanted := _SPECIAL_KEYS.get(key)) not in (None, entry.token.content):
                raise UserError(
                    f"{file}: {key} is {entry.token.content!r}, but only BERT's own, {wanted}, is "
                    "supported; use a model with a BERT tokenizer."
                )
            yield entry


def _entry(fields: dict[str, Any], id_: object, where: str) -> Entry:
    content = fields.get("content")
    if not isinstance(content, str) or not _is_text(content):
        raise UserError(f"{where} has a token {content!a}; write a string of characters.")
    is_special = fields.get("special", False)
    flags = {name: fields.get(name, False) for name in AddedToken._fields[1:]}
    flags["normalized"] = fields.get("normalized", not is_special)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{where}: {name} of {content!r} is {value!r}: write true or false.")
    if id_ is not None and type(id_) is not int:  # True == 1
        raise UserError(f"{where}: the id of {content!r} is {id_!r}: write a whole number.")
    return Entry(AddedToken(content, **flags), id_, where)


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _is_text(content: str) -> bool:
    try:
        return bool(content.encode())  # not empty, and without lone surrogates
    except UnicodeEncodeError:
        return False

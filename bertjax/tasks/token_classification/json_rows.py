"""JSON Lines of words with tags, and of texts with entities."""

import itertools
from collections.abc import Mapping
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks import tables
from bertjax.tasks.token_classification import schemes
from bertjax.tasks.token_classification.columns import FORMATS
from bertjax.tasks.token_classification.schemes import Entity
from bertjax.tasks.token_classification.tagged import Tagged
from bertjax.tasks.token_classification.words import split_words
from bertjax.text import tfds_source


def first_keys(path: epath.PathLike) -> set[str]:
    """Returns the keys of the first row of JSON Lines; none if it is no object."""
    if str(path).startswith(tfds_source.PREFIX):
        return set()
    line = tables.read_text(location(path), FORMATS).lstrip().partition("\n")[0]
    row = tables.read_json(line)
    return {*row} if isinstance(row, Mapping) else set()


def read_lists(path: epath.PathLike, options: Any) -> Tagged:
    """Reads rows with a list of words and a list of their tags; see `files.read_tagged`."""
    columns = {
        options.token_column or "tokens": "token_column",
        options.tag_column or "tags": "tag_column",
    }
    if len(columns) < 2:
        raise UserError("`token_column` and `tag_column` are the same column; give two.")
    table = tables.read_table(path, columns, column_names=options.column_names, may_be_lists=True)
    words, tags = (
        [_texts(value, name, table.where(row)) for row, value in enumerate(table.columns[name])]
        for name in columns
    )
    for row, (own, given) in enumerate(zip(words, tags, strict=True)):
        if len(own) != len(given):
            raise UserError(
                f"{table.where(row)}: has {len(own)} words and {len(given)} tags; give each word "
                "one tag."
            )
        if not own:
            raise UserError(f"{table.where(row)}: has no words; add them, or drop the row.")
    return Tagged(table.path, words, tags, lambda row, _: table.where(row), [0] * len(words))


def _texts(value: str, name: str, where: str) -> tuple[str, ...]:
    listed = tables.read_json(value)
    if not isinstance(listed, list) or not all(isinstance(each, str | int) for each in listed):
        raise UserError(f"{where}: column {name!r} is no list of texts or numbers; write one.")
    return tuple(tables.check_text(str(each), where) for each in listed)


def read_entities(path: epath.PathLike, options: Any) -> Tagged:
    """Reads rows {"text", "entities": [{"start", "end", "label"}]}; see `files.read_tagged`."""
    table = tables.read_table(
        path, ("text", "entities"), column_names=options.column_names, may_be_lists=True
    )
    words, tags, widened = [], [], 0
    for row, (text, listed) in enumerate(
        zip(table.columns["text"], table.columns["entities"], strict=True)
    ):
        where = table.where(row)
        split = split_words(text, "punctuation")
        if not split:
            raise UserError(f"{where}: the text is empty; write one, or drop the row.")
        entities = []
        for start, end, label in _entities(listed, len(text), where):
            inside = [at for at, word in enumerate(split) if word.end > start and word.start < end]
            if not inside:
                raise UserError(
                    f"{where}: the entity from {start} to {end} has no characters but spaces; "
                    "correct it."
                )
            widened += split[inside[0]].start < start or split[inside[-1]].end > end
            entities.append(Entity(inside[0], inside[-1] + 1, label))
        entities.sort()
        for one, other in itertools.pairwise(entities):
            if other.first < one.end:
                raise UserError(
                    f"{where}: the entities {tables.shorten(one.label)} and "
                    f"{tables.shorten(other.label)} have the word "
                    f"{tables.shorten(split[other.first].text)} in common; a word has one tag, so "
                    "keep one of them."
                )
        words.append(tuple(word.text for word in split))
        tags.append(tuple(schemes.write_tags(entities, len(split))))
    return Tagged(
        table.path,
        words,
        tags,
        lambda row, _: table.where(row),
        [0] * len(words),
        "entities",
        "punctuation",
        widened=widened,
    )


def _entities(value: str, length: int, where: str) -> list[tuple[int, int, str]]:
    """Returns (start, end, label) of each entity of a row."""
    listed, found = tables.read_json(value), []
    for each in listed if isinstance(listed, list) else [None]:
        fields = each if isinstance(each, Mapping) else {}
        numbers = [str(fields.get(name)) for name in ("start", "end")]
        label = fields.get("label")
        if not all(map(str.isdecimal, numbers)) or not isinstance(label, str) or not label.strip():
            raise UserError(
                f'{where}: entities must be a list of {{"start": 0, "end": 5, "label": "PER"}}; '
                "correct it."
            )
        start, end = (int(number[:9]) for number in numbers)
        if not start < end <= length:
            raise UserError(
                f"{where}: an entity goes from {start} to {end}, and the text has {length} "
                "characters; correct it (end is one past the last character)."
            )
        found.append((start, end, tables.check_text(label, where)))
    return found

"""Tagging schemes: tags of words <-> entities, as conlleval and seqeval read them."""

import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Scheme = Literal["detect", "iob1", "iob2", "iobes", "bilou", "io", "none"]

UNTYPED = "_"
"""The type of entities whose tags have none (B, I, O), as in seqeval."""

_LETTERS = {"iob2": "BI", "iob1": "BI", "iobes": "BIESM", "bilou": "BILU"}
_AS_IOBES = {**dict(zip("OBIES", "OBIES", strict=True)), "M": "I", "L": "E", "U": "S"}
_PREFIXED = re.compile(r"[BIESMLU]-.+", re.DOTALL)


class Entity(NamedTuple):
    """A span of words with a type."""

    first: int
    """Its first word."""
    end: int
    """One past its last word."""
    label: str
    """Its type."""


def split_tag(tag: str) -> tuple[str, str]:
    """Returns the letter of a tag, one of O, B, I, E, S, and the type of its entity."""
    letter, _, label = tag.partition("-")
    return _AS_IOBES.get(letter, "O"), label or UNTYPED


def join_tag(letter: str, label: str) -> str:
    """Returns the tag of a letter and the type of an entity."""
    return letter if label == UNTYPED else f"{letter}-{label}"


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence as conlleval and seqeval's default mode find them.

    One rule reads all schemes, and tags that no scheme allows: an entity goes on while a tag I or E
    of its type follows its B or I, and any other tag except O begins one. E and S end it.
    """
    found: list[Entity] = []
    first, current = None, ""
    for at, tag in enumerate((*tags, "O")):
        letter, label = split_tag(tag)
        if first is not None and not (letter in "IE" and label == current):
            found.append(Entity(first, at, current))
            first = None
        if first is None and letter != "O":
            first, current = at, label
        if first is not None and letter in "ES":
            found.append(Entity(first, at + 1, current))
            first = None
    return found


def write_tags(entities: Sequence[Entity], words: int, scheme: str = "iob2") -> list[str]:
    """Returns the tags of a sentence in iob1, iob2, iobes or bilou.

    Args:
        entities: ascending, without a common word.
        words: words of the sentence.
        scheme: the name of the scheme.
    """
    tags, before = ["O"] * words, None
    single, last = {"iobes": "SE", "bilou": "UL"}.get(scheme, "BI")
    for entity in entities:
        letters = ["I"] * (entity.end - entity.first)
        letters[-1] = last
        touches = before is not None and before[1:] == (entity.first, entity.label)
        if scheme != "iob1" or touches:
            letters[0] = "B" if len(letters) > 1 else single
        tags[entity.first : entity.end] = [join_tag(letter, entity.label) for letter in letters]
        before = entity
    return tags


def has_scheme(tags: Collection[str]) -> bool:
    """Whether some tags have the prefix of a scheme, or all are bare letters such as B, I and O."""
    bare = {"B", "I"} & {*tags} and {*tags} <= _AS_IOBES.keys()
    return bool(bare) or any(map(_PREFIXED.fullmatch, tags))


def permitted_schemes(tags: Collection[str], scheme: str) -> tuple[list[str], str | None]:
    """Returns the schemes that the letters of some tags permit, and the tag that permits none.

    Args:
        tags: the different tags, in the order in which the file has them.
        scheme: the only scheme that may be; "detect": any with prefixes.
    """
    permitted = [*_LETTERS] if scheme == "detect" else [scheme]
    for tag in tags:
        if tag == "O":
            continue
        is_prefixed = tag in _AS_IOBES or _PREFIXED.fullmatch(tag)
        permitted = [each for each in permitted if is_prefixed and tag[0] in _LETTERS[each]]
        if not permitted:
            return [], tag
    return permitted, None


def misfits(tags: Sequence[str], scheme: str) -> list[int]:
    """Returns the words whose tags a scheme would write in another way."""
    wanted = write_tags(find_entities(tags), len(tags), scheme)
    given = [f"I{tag[1:]}" if tag[0] == "M" else tag for tag in tags]
    return [at for at, pair in enumerate(zip(given, wanted, strict=True)) if pair[0] != pair[1]]

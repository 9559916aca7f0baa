"""Sentences with tags: tag names and schemes -> IOB2."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks import tables
from bertjax.tasks.task import data_hash
from bertjax.tasks.token_classification import schemes
from bertjax.tasks.token_classification.words import Splitting


@dataclasses.dataclass(frozen=True, eq=False)
class Tagged:
    """The N sentences of a file."""

    path: epath.PathLike
    """The file."""
    words: list[tuple[str, ...]]
    """The words of each sentence."""
    tags: list[tuple[str, ...]]
    """The tag of each word: in IOB2, or as the file has it if there is no scheme."""
    where: Callable[[int, int], str]
    """(sentence, word) -> `file:line`."""
    documents: list[int]
    """Number of the document of each sentence, ascending."""
    scheme: str = "none"
    """The scheme of the file."""
    splitting: Splitting = "words"
    """How the file's raw text, if it is such a file, is split into words."""
    misfits: int = 0
    """Tags that the scheme would write in another way."""
    widened: int = 0
    """Entities that begin or end inside a word and were extended to whole words."""
    comments: int = 0
    """Comment lines, which were left out."""

    def __len__(self) -> int:
        return len(self.words)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the sentences with their tags and documents."""
        return data_hash([self.words, self.tags, self.documents])


def with_names(tagged: Tagged, names: Sequence[str] | None) -> Tagged:
    """Replaces tags that are numbers by their names."""
    if not names:
        return tagged
    numbers = {str(number): name for number, name in enumerate(names)}
    tags = []
    for row, given in enumerate(tagged.tags):
        for word, tag in enumerate(given):
            if tag not in numbers and tag not in names:
                raise UserError(
                    f"{tagged.where(row, word)}: the tag {tables.shorten(tag)} is no number from 0 "
                    f"to {len(names) - 1}, which `tag_names` names; correct it, or name all tags."
                )
        tags.append(tuple(numbers.get(tag, tag) for tag in given))
    return dataclasses.replace(tagged, tags=tags)


def in_iob2(tagged: Tagged, scheme: str | None) -> Tagged:
    """Finds the scheme of the tags and converts them."""
    places: dict[str, tuple[int, int]] = {}
    for row, given in enumerate(tagged.tags):
        for word, tag in enumerate(given):
            places.setdefault(tag, (row, word))
    scheme = scheme or "detect"
    if scheme == "none" or (scheme == "detect" and not schemes.has_scheme(places)):
        return tagged
    tags = tagged.tags
    if scheme == "io":
        tags = [[tag if tag == "O" else schemes.join_tag("I", tag) for tag in row] for row in tags]
        found, wrong = "io", []
    else:
        permitted, tag = schemes.permitted_schemes(places, scheme)
        if tag is not None:
            _refuse_tag(tagged, places, tag, scheme)
        found, wrong = _closest(tags, permitted)
        if wrong and scheme != "detect":
            row, word = wrong[0]
            raise UserError(
                f"{tagged.where(row, word)}: the tag {tables.shorten(tags[row][word])} breaks the "
                f"rules of {scheme} after {_before(tags[row], word)}; correct it, or let `scheme` "
                "be detect, which reads it as conlleval does."
            )
    converted = [tuple(schemes.write_tags(schemes.find_entities(row), len(row))) for row in tags]
    return dataclasses.replace(tagged, tags=converted, scheme=found, misfits=len(wrong))


def _closest(
    tags: Sequence[Sequence[str]], permitted: Sequence[str]
) -> tuple[str, list[tuple[int, int]]]:
    """Returns the scheme that fits best, and the places (sentence, word) that do not fit it."""
    found: dict[str, list[tuple[int, int]]] = {}
    for scheme in permitted:
        found[scheme] = [
            (row, word) for row, each in enumerate(tags) for word in schemes.misfits(each, scheme)
        ]
        if not found[scheme]:
            break
    best = min(found, key=lambda scheme: len(found[scheme]))
    return best, found[best]


def _before(tags: Sequence[str], word: int) -> str:
    return tables.shorten(tags[word - 1]) if word else "the beginning of a sentence"


def _refuse_tag(
    tagged: Tagged, places: Mapping[str, tuple[int, int]], tag: str, scheme: str
) -> None:
    """Raises the error for a tag that is of no scheme, or not of those before it."""
    seen = [each for each in places if each != "O" and each != tag]
    shown = ", ".join(map(tables.shorten, seen[:4])) or "O alone"
    named = "of IOB1, IOB2, IOBES and BILOU" if scheme == "detect" else f"{scheme}"
    raise UserError(
        f"{tagged.where(*places[tag])}: the tag {tables.shorten(tag)} does not fit the scheme "
        f"{named}; the file also has {shown}; correct it, or set `scheme`: io if a tag is the type "
        "of its entity, none to learn tags as they are."
    )

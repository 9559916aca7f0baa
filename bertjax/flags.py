"""The flags of a configuration: in messages, without their group, and misspelt."""

import contextlib
import dataclasses
import difflib
import re
import shlex
import typing
from collections.abc import Callable, Iterator
from typing import Any

from bertjax.commands import flag
from bertjax.errors import UserError

Say = Callable[[str], None]

_FIELD = re.compile(r"`([a-z]\w*(?:\.\w+)*)`")
# These groups repeat options of other groups, so that their flags are always written whole.
_SECONDARY = ("--second.", "--evaluation-masking.")
_HELP = ("--help", "--help-all")


def with_flags(text: str, kind: type) -> str:
    """Replaces the fields that a text names in backquotes by the flags of a verb's configuration.

    `loop.train_steps` becomes --loop.train-steps. A name that is no field stays as it is.
    """
    if "`" not in text:
        return text
    known = {path: name for path, name, _ in fields_of(kind)}
    return _FIELD.sub(lambda match: known.get(match[1], match[0]), text)


@contextlib.contextmanager
def saying_flags(kind: type, say: Say = print) -> Iterator[Say]:
    """Yields `say` with flags in place of fields; a `UserError` from the block gets them too."""
    try:
        yield lambda line: say(with_flags(line, kind))
    except UserError as error:
        raise UserError(with_flags(str(error), kind)) from error


def written_whole(kind: type, verb: str, words: list[str]) -> list[str]:
    """Returns the words of a command with the group of every flag.

    The group may be left out where one flag has that name: --learning-rate is
    --optimizer.learning-rate. A flag that takes several values may be in the singular (--seed).
    Raises `UserError` with the nearest flags for one that does not exist.
    """
    known: set[str] = {*_HELP}
    for _, name, hint in fields_of(kind):
        if name.startswith("--") and nested_in(hint) is None:
            known |= {name, _negation(name)} if hint is bool else {name}
    by_end: dict[str, list[str]] = {}
    for name in sorted(known):
        if not name.startswith(_SECONDARY):
            by_end.setdefault(_end(name), []).append(name)

    def whole(word: str) -> str:
        given, equals, value = word.partition("=")
        name = given.replace("_", "-")
        if not given.startswith("--") or given == "--" or name in known:
            return word
        for found in (by_end.get(name, []), [each for each in known if each == f"{name}s"]):
            if len(found) == 1:
                return f"{found[0]}{equals}{value}"
        near = by_end.get(_end(name)) or _nearest(name, known, by_end)
        asked = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"{verb} has no {given}: {asked}`bertjax {verb} --help-all` lists all.")

    return list(map(whole, words))


def _nearest(name: str, known: set[str], by_end: dict[str, list[str]]) -> list[str]:
    """Returns up to three flags that look like a name, with or without their group."""
    close = difflib.get_close_matches(name, [*known, *by_end], 3)
    flags = [each for end in close for each in by_end.get(end, [end])]
    return list(dict.fromkeys(flags))[:3]


def _end(name: str) -> str:
    """Returns a flag without its group."""
    return f"--{name[2:].rpartition('.')[2]}"


def _negation(name: str) -> str:
    group, dot, end = name[2:].rpartition(".")
    return f"--{group}{dot}no-{end}"


def fields_of(
    kind: type, path: str = "", prefix: str = "", *, bare: bool = False
) -> Iterator[tuple[str, str, Any]]:
    """Yields the dotted path, the flag and the type hint of each field, nested ones included.

    The flags of a `bare` dataclass, and of those in it, have no prefix, and its fields no path.
    """
    from tyro.conf import OmitArgPrefixes, Positional

    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (field.name for field in dataclasses.fields(kind)):
        hint = hints[name]
        nested = nested_in(hint)
        named = [each.name for each in getattr(hint, "__metadata__", ()) if hasattr(each, "name")]
        spelled = prefix + next(filter(None, named), name)
        yield path + name, name.upper() if has(hint, Positional) else flag(spelled), hint
        if nested and (bare or has(hint, OmitArgPrefixes)):
            yield from fields_of(nested, f"{path}{name}.", prefix, bare=True)
            yield from fields_of(nested, path, prefix, bare=True)
        elif nested:
            yield from fields_of(nested, f"{path}{name}.", f"{prefix}{name}.")


def has(hint: Any, marker: Any) -> bool:
    """Returns whether a type hint has a marker of tyro."""
    return marker in getattr(hint, "__metadata__", ())


def nested_in(hint: Any) -> type | None:
    """Returns the dataclass in a hint such as `Annotated[SecondPhase | None, ...]`.

    A dataclass with a function `parse` is a single word, and so none.
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return None if hasattr(hint, "parse") else hint
    return next(filter(None, map(nested_in, typing.get_args(hint))), None)


def resuming_command(verb: str, arguments: list[str], fresh: bool, workdir: object) -> str:
    """Returns the command that resumes a run, with its workdir in place of --fresh."""
    words, rest = [], iter(arguments)
    for word in rest:
        if fresh and word == "--workdir":
            next(rest, None)
        elif not (fresh and (word == "--fresh" or word.startswith("--workdir="))):
            words.append(word)
    if fresh:
        words += ["--workdir", str(workdir)]
        words += [] if "--fresh" in arguments else ["--no-fresh"]  # the recipe has it
    return shlex.join(["bertjax", verb, *words])


def stopped_sentence(words: list[str]) -> str:
    """Returns the last words of a resumable command that a signal has ended."""
    how = ", without --fresh and with the new --workdir," if "--fresh" in words else ""
    return f"stopped; the same command{how} resumes it."

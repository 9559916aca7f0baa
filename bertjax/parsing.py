"""Words of the command line -> configurations, and names of fields -> flags."""

import contextlib
import dataclasses
import functools
import inspect
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args, get_type_hints

from bertjax.commands import flag
from bertjax.errors import UserError

Config = TypeVar("Config")
Say = Callable[[str], None]

_FIELD = re.compile(r"`([a-z]\w*(?:\.\w+)*)`")


def with_flags(text: str, kind: Callable[..., Any]) -> str:
    """Replaces the fields that a text names in backquotes by their flags.

    Args:
        text: an error, a log line or a help text, which names fields by their dotted paths.
        kind: what a command line fills in: a dataclass, or a function with its parameters.

    Returns:
        The text with --loop.train-steps in place of `loop.train_steps`. A name that is no field
        stays as it is.
    """
    if "`" not in text:
        return text
    known = dict(_flags(kind))
    return _FIELD.sub(lambda match: known.get(match[1], match[0]), text)


@contextlib.contextmanager
def flags_of(kind: Callable[..., Any], say: Say = print) -> Iterator[Say]:
    """Yields `say` with flags in place of fields; a `UserError` from the block gets them too."""
    try:
        yield lambda line: say(with_flags(line, kind))
    except UserError as error:
        raise UserError(with_flags(str(error), kind)) from error


def _flags(kind: Callable[..., Any], path: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted path and the flag of each field, fields of nested dataclasses included."""
    from tyro.conf import OmitArgPrefixes, Positional

    hints = get_type_hints(kind, include_extras=True)
    for name, parameter in inspect.signature(kind).parameters.items():
        hint = hints[name]
        markers = getattr(hint, "__metadata__", ())
        is_required = parameter.default is inspect.Parameter.empty
        if Positional in markers or (inspect.isfunction(kind) and is_required):
            yield path + name, name.upper()
        else:
            yield path + name, flag(prefix + name)
        if nested := _dataclass(hint):
            inner = prefix if OmitArgPrefixes in markers else f"{prefix}{name}."
            yield from _flags(nested, f"{path}{name}.", inner)


def _dataclass(hint: Any) -> type | None:
    """Returns the dataclass in a hint such as `Annotated[SecondPhase | None, ...]`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next(filter(None, map(_dataclass, get_args(hint))), None)


def parse(kind: Callable[..., Config], verb: str, arguments: list[str], **more: Any) -> Config:
    """Returns a configuration, or what a function returns, from the words after a verb.

    Exits with 0 on --help, and with 2 on a word that is no flag or has no valid value.

    Raises:
        UserError: a configuration or a function refuses its values.
    """
    if not inspect.isfunction(kind):
        return _parse(kind, verb, arguments, **more)

    @functools.wraps(kind)
    def bind(*positional: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(kind, *positional, **named)

    return _parse(bind, verb, arguments, **more)()


def _parse(kind: Callable[..., Any], verb: str, arguments: list[str], **more: Any) -> Any:
    import tyro

    markers = (tyro.conf.PositionalMetavarFromFieldName,)
    if inspect.isfunction(kind):
        markers += (tyro.conf.PositionalRequiredArgs,)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(kind, args=arguments, prog=f"bertjax {verb}", config=markers, **more)
    except SystemExit as stop:
        # tyro prints a ValueError from a dataclass as a word that it can't parse, and exits.
        cause = stop.__context__
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__context__
        sys.stderr.write(shown.getvalue())
        raise


def parse_recipe(kind: type[Config], verb: str, arguments: list[str]) -> Config:
    """A configuration: flags over a recipe, if the first argument is one, or over defaults."""
    if not arguments or arguments[0].startswith("-"):
        return parse(kind, f"{verb} [RECIPE.py]", arguments)
    recipe, *flags = arguments
    if not os.path.isfile(recipe):  # noqa: PTH113 - recipes are local Python files
        raise UserError(
            f"{recipe}: no such file; the first argument is a recipe (a .py file with `config = "
            f"{kind.__name__}(...)`), or a flag."
        )
    config = runpy.run_path(recipe).get("config")
    if not isinstance(config, kind):
        raise UserError(f"{recipe}: defines no `config = {kind.__name__}(...)`.")
    return parse(kind, f"{verb} {recipe}", flags, default=config)


def with_positionals(function: Callable[..., int], verb: str) -> Callable[[list[str]], int]:
    """Returns a verb that calls a function; parameters without a default are positional."""

    def run_verb(arguments: list[str]) -> int:
        with flags_of(function):
            return parse(function, verb, arguments)

    return run_verb

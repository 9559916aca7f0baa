"""Parses the words of a command into a configuration, and replaces names of fields by flags."""

import contextlib
import dataclasses
import inspect
import os
import re
import runpy
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from bertjax.commands import flag
from bertjax.errors import UserError

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, StructFieldSpec

Config = TypeVar("Config")
Say = Callable[[str], None]

_FIELD = re.compile(r"`([a-z]\w*(?:\.\w+)*)`")


def with_flags(text: str, kind: type) -> str:
    """Replaces the fields that a text names in backquotes by the flags of a verb's configuration.

    `loop.train_steps` becomes --loop.train-steps. A name that is no field stays as it is.
    """
    if "`" not in text:
        return text
    known = dict(_flags(kind))
    return _FIELD.sub(lambda match: known.get(match[1], match[0]), text)


@contextlib.contextmanager
def saying_flags(kind: type, say: Say = print) -> Iterator[Say]:
    """Yields `say` with flags in place of fields; a `UserError` from the block gets them too."""
    try:
        yield lambda line: say(with_flags(line, kind))
    except UserError as error:
        raise UserError(with_flags(str(error), kind)) from error


def _flags(
    kind: type, path: str = "", prefix: str = "", *, bare: bool = False
) -> Iterator[tuple[str, str]]:
    """Yields the dotted path and the flag of each field, fields of nested dataclasses included.

    The flags of a `bare` dataclass, and of those in it, have no prefix, and its fields no path.
    """
    from tyro.conf import OmitArgPrefixes, Positional

    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (field.name for field in dataclasses.fields(kind)):
        hint = hints[name]
        nested = _dataclass(hint)
        yield path + name, name.upper() if _has(hint, Positional) else flag(prefix + name)
        if nested and (bare or _has(hint, OmitArgPrefixes)):
            yield from _flags(nested, f"{path}{name}.", prefix, bare=True)
            yield from _flags(nested, path, prefix, bare=True)
        elif nested:
            yield from _flags(nested, f"{path}{name}.", f"{prefix}{name}.")


def _has(hint: Any, marker: Any) -> bool:
    return marker in getattr(hint, "__metadata__", ())


def _dataclass(hint: Any) -> type | None:
    """Returns the dataclass in a hint such as `Annotated[SecondPhase | None, ...]`."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next(filter(None, map(_dataclass, typing.get_args(hint))), None)


def parse(
    kind: type[Config],
    verb: str,
    arguments: list[str],
    *,
    default: Config | None = None,
    note: str = "",
) -> Config:
    """Returns a configuration from the words after a verb.

    Exits with 0 on --help, and with 2 on a word that is no flag or has no valid value. The words
    `verb` and the paragraph `note` are for the help. `default` is a configuration to change, such
    as a recipe's. Raises `UserError` if the configuration refuses the values.
    """
    import tyro

    try:
        return tyro.cli(
            kind,
            args=arguments,
            prog=f"bertjax {verb}",
            description=_description(kind, note),
            registry=_registry(kind),
            default=tyro.MISSING_NONPROP if default is None else default,
        )
    except _Refused as refused:
        raise refused.args[0] from None


class _Refused(Exception):
    """Carries a `UserError` through tyro, which prints a ValueError of a configuration itself."""


def _refusing(make: Callable[..., Any], *words: str, **values: Any) -> Any:
    try:
        return make(*words, **values)
    except UserError as error:
        raise _Refused(error) from error


def _registry(kind: type) -> "ConstructorRegistry":
    """Returns a registry with rules for dataclasses.

    The rule for structs is like tyro's own, but with our metavars, help and errors. A dataclass
    with a function `parse`, such as `ParamGroup`, is a single word.
    """
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
        StructConstructorSpec,
        StructTypeInfo,
    )

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def word(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        one, read = info.type, getattr(info.type, "parse", None)
        if read is None or not dataclasses.is_dataclass(one):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=_metavar(one),
            instance_from_str=lambda words: _refusing(read, words[0]),
            is_instance=lambda value: type(value) is one,
            str_from_instance=lambda value: [str(value)],
        )

    is_asking = False

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal is_asking
        if is_asking or not dataclasses.is_dataclass(info.type):
            return None
        is_asking = True  # tyro asks this rule again, and then its own
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            is_asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None

        def instantiate(**values: Any) -> Any:
            return _refusing(spec.instantiate, **values)

        instantiate.__doc__ = with_flags(_paragraphs(inspect.getdoc(info.type) or ""), kind)
        return StructConstructorSpec(
            instantiate, tuple(_presented(field, kind) for field in spec.fields)
        )

    return registry


def _presented(field: "StructFieldSpec", kind: type) -> "StructFieldSpec":
    """Returns a field with a plain metavar and a help text with flags, without empty defaults."""
    from tyro.conf import Positional, arg

    given, hint = field.helptext, field.type

    def helptext() -> str | None:
        text = given() if callable(given) else given
        return None if text is None else with_flags(_paragraphs(text), kind)

    def default(label: str) -> str:
        return "" if label in ("", "None") else f"(default: {label})"

    metavar = None if hint is bool else _metavar(hint)
    if _has(hint, Positional):
        metavar = field.name.upper()
    hint = Annotated[hint, arg(metavar=metavar, help_behavior_hint=default)]
    return dataclasses.replace(field, type=hint, helptext=helptext)


def _description(kind: type, note: str) -> str:
    """Returns the docstring with flags and the note, wrapped at the terminal's width."""
    text = with_flags(_paragraphs(f"{inspect.getdoc(kind) or ''}\n\n{note}".strip()), kind)
    width = shutil.get_terminal_size().columns
    # tyro prints a description as it is, except that it joins lines that begin with a letter.
    wrap = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(map(wrap.fill, text.split("\n\n")))


def _paragraphs(text: str) -> str:
    """Joins the lines of each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def _metavar(hint: Any) -> str:
    """Returns a metavar such as INT, STR ... or {a,b}."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _metavar(choices[0])
    if hint is bool:
        return "{True,False}"
    if origin is Literal:
        return "{" + ",".join(map(str, choices)) + "}"
    if origin in (Union, types.UnionType):
        inner = [_metavar(choice) for choice in choices if choice is not type(None)]
        return "|".join(one for one in inner if f"{one} ..." not in inner)
    if origin in (tuple, dict):
        words = " ".join(_metavar(choice) for choice in choices if choice is not ...)
        return words if origin is tuple and ... not in choices else f"{words} ..."
    return getattr(hint, "__name__", str(hint)).upper()


def parse_recipe(kind: type[Config], verb: str, arguments: list[str]) -> Config:
    """Returns a configuration: flags over a recipe, if there is one, or over defaults."""
    verb, config, flags = read_recipe(kind, verb, arguments)
    return parse(kind, verb, flags, default=config)


def read_recipe(
    kind: type[Config], verb: str, arguments: list[str]
) -> tuple[str, Config | None, list[str]]:
    """Reads the recipe, if the first argument is one.

    Returns the words of the command before the flags, the recipe's configuration or None, and the
    flags. Raises `UserError` if the first argument is neither a recipe nor a flag.
    """
    if not arguments or arguments[0].startswith("-"):
        return f"{verb} [RECIPE.py]", None, arguments
    recipe, *flags = arguments
    if not os.path.isfile(recipe):  # noqa: PTH113 - recipes are local Python files
        raise UserError(
            f"{recipe}: no such file; the first argument is a recipe (a .py file with `config = "
            f"{kind.__name__}(...)`), or a flag."
        )
    config = runpy.run_path(recipe).get("config")
    if not isinstance(config, kind):
        raise UserError(f"{recipe}: defines no `config = {kind.__name__}(...)`.")
    return f"{verb} {recipe}", config, flags

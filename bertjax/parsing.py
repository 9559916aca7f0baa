"""Parses the words of a command into a configuration, and writes the help of a verb."""

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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from bertjax.errors import UserError
from bertjax.flags import Say, has, nested_in, saying_flags, with_flags, written_whole
from bertjax.mistakes import EXAMPLES, Command, Refused, refusing
from bertjax.terminal import say_line

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, StructFieldSpec

Config = TypeVar("Config")

PLAN_COMMON = (
    *("topology", "hourly_rate", "compare", "search", "html", "json", "execution", "mesh"),
)
"""The fields that --help of `plan` shows for a recipe of any kind."""
COMMON = {
    "tokenizer train": ("input", "output", "kind", "vocab_size", "lowercase", "columns"),
    "prepare": (
        *("input", "tokenizer", "output", "segments", "max_seq_length", "dupe_factor", "held_out"),
        *("processes", "estimate", "audit"),
    ),
    "pretrain": (
        *("data", "workdir", "objective", "teacher", "model.size", "batch_size", "accumulation"),
        *("optimizer.name", "optimizer.learning_rate", "optimizer.warmup_steps", "execution.dtype"),
        *("masking.whole_word", "loop.train_steps", "loop.eval_every", "loop.save_every", "seed"),
        "fresh",
    ),
    "plan": (
        *("data", "max_seq_length", "vocab_size", "model.size", "batch_size", "accumulation"),
        *("optimizer.name", "loop.train_steps", "phase", *PLAN_COMMON),
    ),
    "finetune": (
        *("model", "train", "dev", "test", "workdir", "seeds", "epochs", "batch_size", "fresh"),
        *("max_seq_length", "select", "optimizer.learning_rate", "kind_name", "task"),
    ),
    "glue": (
        *("directory", "model", "workdir", "tasks", "seeds", "epochs", "batch_size", "grid"),
        *("mnli_start", "hold_out", "optimizer.learning_rate"),
    ),
}
"""The fields that --help shows, by verb; for other verbs, all."""

_SHORT = "These are the most used options; --help-all shows all of them."


@contextlib.contextmanager
def parsed(
    kind: type[Config], verb: str, arguments: list[str], **options: Any
) -> Iterator[tuple[Config, Say]]:
    """Yields a configuration and a `say` with flags; errors in the block get flags too."""
    with saying_flags(kind, say_line) as say:
        yield parse(kind, verb, arguments, **options), say


def parse(
    kind: type[Config],
    verb: str,
    arguments: list[str],
    *,
    default: Config | None = None,
    common: Sequence[str] = (),
    recipe_kind: type | None = None,
) -> Config:
    """Returns a configuration from the words after a verb.

    Exits with 0 on --help and --help-all. --help shows the fields that `common` names by their
    paths, groups as a whole; without names, all. `default` is a configuration to change, such as a
    recipe's, which is of `recipe_kind` or else of `kind`. Raises `UserError` if a flag does not
    exist, a value is missing or of a wrong kind, or the configuration refuses the values.
    """
    import tyro

    name, _, recipe = verb.partition(" [")
    asked = [word for word in arguments if word in ("-h", "--help", "--help-all")]
    if asked:
        arguments = ["--help"]
    if not asked or "--help-all" in asked:
        common = ()
    written = (recipe_kind or kind).__name__
    command = Command(name, written_whole(kind, name, arguments))
    if not asked:
        command.check_flags(kind)
    try:
        config, rest = tyro.cli(
            kind,
            args=command.words,
            return_unknown_args=True,
            prog=f"bertjax {verb if asked and recipe else name}",
            description=_description(
                kind,
                f"RECIPE.py is a Python file with `config = {written}(...)`, which the flags "
                "change."
                if recipe
                else "",
                f"Example: `bertjax {name} {EXAMPLES[name]}`." if name in EXAMPLES else "",
                _SHORT if common else "",
            ),
            registry=registry(kind, _shown(kind, common), None if asked else command),
            default=tyro.MISSING_NONPROP if default is None else default,
        )
    except Refused as refused:
        raise refused.args[0] from None
    command.check_rest(rest)
    return config


def _shown(kind: type, paths: Sequence[str]) -> dict[type, set[str]]:
    """Returns the fields to show, by their dataclass; all of those that are not among the keys."""
    shown: dict[type, set[str]] = {}
    for path in paths:
        owner: type | None = kind
        for name in path.split("."):
            assert owner is not None, path
            shown.setdefault(owner, set()).add(name)
            owner = nested_in(typing.get_type_hints(owner, include_extras=True)[name])
    return shown


def registry(
    kind: type, shown: dict[type, set[str]], command: Command | None = None
) -> "ConstructorRegistry":
    """Returns a registry with rules for dataclasses.

    The rule for structs is like tyro's own, but with our metavars and help, without the fields that
    are not `shown`, and with the errors of a `command`, if one is given. A dataclass with a
    function `parse`, such as `ParamGroup`, is a single word.
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
    def sequence(info: PrimitiveTypeInfo) -> Any:  # tyro's own makes lists
        if info.type_origin is not Sequence:
            return None
        items = tuple[typing.get_args(info.type)[0], ...]
        return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(items, info.markers))

    @registry.primitive_rule
    def word(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        return _word(info.type) if hasattr(info.type, "parse") else None

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

        names = shown.get(info.type)
        fields = tuple(_presented(field, kind, names, command) for field in spec.fields)

        def instantiate(**values: Any) -> Any:
            if command:
                command.check_values(fields, values)
            return refusing(spec.instantiate, **values)

        instantiate.__doc__ = with_flags(paragraphs(inspect.getdoc(info.type) or ""), kind)
        return StructConstructorSpec(instantiate, fields)

    return registry


def _word(kind: Any) -> "PrimitiveConstructorSpec":
    """Returns the rule for a dataclass that its own function `parse` reads."""
    from tyro.constructors import PrimitiveConstructorSpec

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_metavar(kind),
        instance_from_str=lambda words: refusing(kind.parse, words[0]),
        is_instance=lambda value: type(value) is kind,
        str_from_instance=lambda value: [str(value)],
    )


def _presented(
    field: "StructFieldSpec", kind: type, shown: set[str] | None, command: Command | None
) -> "StructFieldSpec":
    """Returns a field with a plain metavar and a help text with flags, without empty defaults.

    A field whose name is not `shown` is hidden. The field of a `command` tells its mistakes.
    """
    from tyro import MISSING, MISSING_NONPROP
    from tyro.conf import Positional, Suppress, arg

    given, hint = field.helptext, field.type

    def helptext() -> str | None:
        text = given() if callable(given) else given
        return None if text is None else with_flags(paragraphs(text), kind)

    def default(label: str) -> str:
        return "" if label in ("", "None") else f"(default: {label})"

    metavar = None if hint is bool else _metavar(hint)
    if command:
        field = command.checked(field, metavar)
        hint = field.type
    if has(hint, Positional):
        is_required = field.default is MISSING or field.default is MISSING_NONPROP
        metavar = field.name.upper() if is_required else f"[{field.name.upper()}]"
    hint = Annotated[hint, arg(metavar=metavar, help_behavior_hint=default)]
    if shown and field.name not in shown:
        hint = Suppress[hint]
    return dataclasses.replace(field, type=hint, helptext=helptext)


def _description(kind: type, *notes: str) -> str:
    """Returns the docstring with flags and the notes, wrapped at the terminal's width."""
    text = "\n\n".join(filter(None, (inspect.getdoc(kind), *notes)))
    text = with_flags(paragraphs(text), kind)
    width = shutil.get_terminal_size().columns
    # tyro prints a description as it is, except that it joins lines that begin with a letter.
    wrap = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(map(wrap.fill, text.split("\n\n")))


def paragraphs(text: str) -> str:
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
        words = [one[1:-1] for one in inner if one.startswith("{")]
        named = ["{" + ",".join(words) + "}"] if words else []
        others = [one for one in inner if not one.startswith("{") and f"{one} ..." not in inner]
        return "|".join([*named, *others])
    if origin in (tuple, dict, Sequence):
        words = " ".join(_metavar(choice) for choice in choices if choice is not ...)
        return words if origin is tuple and ... not in choices else f"{words} ..."
    return getattr(hint, "__name__", str(hint)).upper()


def parse_recipe(
    kind: type[Config], verb: str, arguments: list[str], common: Sequence[str] = ()
) -> Config:
    """Returns a configuration: flags over a recipe, if there is one, or over defaults."""
    verb, config, flags = read_recipe(verb, arguments, kind)
    return parse(kind, verb, flags, default=config, common=common)


def read_recipe(
    verb: str, arguments: list[str], *kinds: type[Config]
) -> tuple[str, Config | None, list[str]]:
    """Reads the recipe, if the first argument is one. It must be of one of the kinds.

    Returns the words of the command before the flags, the recipe's configuration or None, and the
    flags. Raises `UserError` if the first argument is neither a recipe nor a flag.
    """
    if not arguments or arguments[0].startswith("-"):
        return f"{verb} [RECIPE.py]", None, arguments
    recipe, *flags = arguments
    names = " or ".join(f"`config = {kind.__name__}(...)`" for kind in kinds)
    if not os.path.isfile(recipe) or not recipe.endswith(".py"):  # noqa: PTH113 - they are local
        problem = "is no .py file" if os.path.exists(recipe) else "no such file"  # noqa: PTH110
        raise UserError(
            f"{recipe}: {problem}; the first argument is a recipe (a .py file with {names}), or a "
            "flag."
        )
    config = runpy.run_path(recipe).get("config")
    if not isinstance(config, kinds):
        raise UserError(f"{recipe}: defines no {names}.")
    return f"{verb} {recipe}", config, flags

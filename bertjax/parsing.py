"""Words of the command line -> configurations, and back."""

import os
import runpy
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

from bertjax.errors import UserError

Config = TypeVar("Config")


def command(*words: object) -> str:
    """A command as it may be typed."""
    return shlex.join(["bertjax", *map(str, words)])


def parse(kind: Callable[..., Config], verb: str, arguments: list[str], **more: Any) -> Config:
    """A configuration, or what a function returns, from the words after a verb; exits on --help
    and, with 2, on a mistake in them."""
    import tyro

    return tyro.cli(kind, args=arguments, prog=f"bertjax {verb}", **more)


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
    """A verb whose required arguments are positions instead of flags."""

    def run_verb(arguments: list[str]) -> int:
        import tyro

        markers = (tyro.conf.PositionalRequiredArgs, tyro.conf.PositionalMetavarFromFieldName)
        return parse(function, verb, arguments, config=markers)

    return run_verb

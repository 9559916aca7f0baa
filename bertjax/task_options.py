"""The command line of the verbs whose options depend on the kind of task."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import tyro

from bertjax import parsing
from bertjax.commands import flag
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.inference.config import EvaluateConfig
from bertjax.tasks import kinds
from bertjax.tasks.task import TaskKind

Config = TypeVar("Config")

_KIND_HELP = "Kind of task. `--task KIND --help` shows its options."


class FinetuneArguments:
    """The arguments of `finetune`, with the options of one kind of task and no other's."""

    def __init__(self, arguments: list[str]) -> None:
        """Reads the recipe, if there is one, and the option `task`.

        Raises:
            UserError: the kind is unknown, or an option belongs to another kind.
        """
        self.verb, recipe, self.flags = parsing.read_recipe(FinetuneConfig, "finetune", arguments)
        recipe_kind = recipe.task.kind if recipe else kinds.DEFAULT
        kind = kinds.get(_last_value(self.flags, "--task") or recipe_kind)
        names = Literal[kinds.names()]  # type: ignore[valid-type]
        hint = Annotated[names, tyro.conf.arg(name="task", help=_KIND_HELP)]
        self.type = _with_options(
            FinetuneConfig,
            self.flags,
            kind,
            lambda kind: kind.options,
            ("kind_name", hint, dataclasses.field(default=kind.name)),
        )
        self.default = None
        if recipe is not None:
            task = recipe.task if kind.name == recipe_kind else kind.options()
            self.default = self.type(**{**_values(recipe), "task": task})

    def parse(self) -> FinetuneConfig:
        """Returns the configuration; exits on --help."""
        parsed = parsing.parse(self.type, self.verb, self.flags, default=self.default)
        return FinetuneConfig(**_values(parsed))


def _values(config: FinetuneConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(FinetuneConfig)}


def evaluate_type(arguments: list[str], kind: TaskKind) -> type[EvaluateConfig]:
    """Returns the arguments of `evaluate` for models of a kind.

    Raises:
        UserError: an option belongs to another kind.
    """
    return _with_options(EvaluateConfig, arguments, kind, lambda kind: kind.evaluation)


def _with_options(
    config: type[Config],
    words: list[str],
    kind: TaskKind,
    options_of: Callable[[TaskKind], type],
    *fields: tuple[str, Any, Any],
) -> type[Config]:
    """Returns the dataclass `config` whose field `task` holds the options of a kind.

    Args:
        config: a configuration.
        words: words of the command line.
        kind: the kind.
        options_of: the options of a kind, whose fields become flags without a prefix.
        *fields: further fields.

    Raises:
        UserError: `words` have an option that only other kinds have.
    """
    options = options_of(kind)
    for word in words:
        name = word.split("=")[0].replace("_", "-").replace("--no-", "--", 1)
        others = [other for other in kinds.names() if name in _flags(options_of(kinds.get(other)))]
        if others and kind.name not in others:
            raise UserError(
                f"{name} is an option of the task {' and '.join(others)}, and the task is "
                f"{kind.name}: leave it out, or name the other task."
            )
    text = inspect.cleandoc(options.__doc__ or "")
    hint = Annotated[options, tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=text)]
    task = ("task", hint, dataclasses.field(default_factory=options))
    made = dataclasses.make_dataclass(
        config.__name__, [task, *fields], bases=(config,), frozen=True
    )
    made.__doc__ = config.__doc__
    return made


def _flags(options: type) -> set[str]:
    return {flag(field.name) for field in dataclasses.fields(options)}


def _last_value(words: list[str], name: str) -> str | None:
    """The value of a flag, or None if it is absent."""
    value = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.removeprefix(f"{name}=")
    return value

"""The command line of the verbs whose options depend on the kind of task."""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import tyro

from bertjax import parsing
from bertjax.commands import flag
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks import kinds
from bertjax.tasks.task import NoEvaluationOptions, TaskKind


class FinetuneArguments:
    """The arguments of `finetune`, with the options of one kind of task and no other's."""

    def __init__(self, arguments: list[str]) -> None:
        """Reads the recipe, if there is one, and the option `task`.

        Raises:
            UserError: the kind is unknown, or an option belongs to another kind.
        """
        self.verb, self.recipe, self.flags = parsing.read_recipe(
            FinetuneConfig, "finetune", arguments
        )
        named = _last_value(self.flags, "--task")
        recipe_kind = self.recipe.task.kind if self.recipe else kinds.DEFAULT
        kind = kinds.get(named or recipe_kind)
        refuse_options_of_others(
            self.flags, kind.name, {name: kinds.get(name).options for name in kinds.names()}
        )
        names = Literal[kinds.names()]  # type: ignore[valid-type]
        self.type = dataclasses.make_dataclass(
            FinetuneConfig.__name__,
            [
                ("task", flat(kind.options), dataclasses.field(default_factory=kind.options)),
                (
                    "kind_name",
                    Annotated[names, tyro.conf.arg(name="task", help=_KIND_HELP)],
                    dataclasses.field(default=kind.name),
                ),
            ],
            bases=(FinetuneConfig,),
            frozen=True,
        )
        self.type.__doc__ = FinetuneConfig.__doc__
        self.task = self.recipe.task if self.recipe and kind.name == recipe_kind else kind.options()

    def parse(self) -> FinetuneConfig:
        """Returns the configuration; exits on --help."""
        names = [field.name for field in dataclasses.fields(FinetuneConfig)]
        if self.recipe is None:
            parsed = parsing.parse(self.type, self.verb, self.flags)
        else:
            fields = {name: getattr(self.recipe, name) for name in names}
            default = self.type(**{**fields, "task": self.task})
            parsed = parsing.parse(self.type, self.verb, self.flags, default=default)
        return FinetuneConfig(**{name: getattr(parsed, name) for name in names})


_KIND_HELP = "Kind of task. `--task KIND --help` shows its options."


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Score a fine-tuned model on every row of a labelled file. Prints one JSON object.

    With the model before it, --help shows the options of the model's task.
    """

    model: tyro.conf.Positional[str]
    """Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub."""
    data: tyro.conf.Positional[str]
    """Labelled file, in a format of the model's task."""
    task: Any = dataclasses.field(default_factory=NoEvaluationOptions)
    """Options of the task."""
    batch_size: int = 32
    """Maximum rows per batch."""

    @property
    def options(self) -> dict[str, Any]:
        """The options of the task that were given."""
        return {
            field.name: getattr(self.task, field.name)
            for field in dataclasses.fields(self.task)
            if getattr(self.task, field.name) != field.default
        }


def evaluate_type(arguments: list[str], kind: TaskKind) -> type[EvaluateConfig]:
    """Returns the arguments of `evaluate` for models of a kind.

    Raises:
        UserError: an option belongs to another kind.
    """
    refuse_options_of_others(
        arguments, kind.name, {name: kinds.get(name).evaluation for name in kinds.names()}
    )
    options = kind.evaluation
    field = ("task", flat(options), dataclasses.field(default_factory=options))
    name, bases = EvaluateConfig.__name__, (EvaluateConfig,)
    made = dataclasses.make_dataclass(name, [field], bases=bases, frozen=True)
    made.__doc__ = EvaluateConfig.__doc__
    return made


def flat(options: type) -> Any:
    """Returns the type of a field whose own fields are flags without a prefix."""
    text = inspect.cleandoc(options.__doc__ or "")
    return Annotated[options, tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=text)]


def refuse_options_of_others(flags: Iterable[str], kind: str, options: dict[str, type]) -> None:
    """Refuses options that only other kinds have.

    Args:
        flags: words of the command line.
        kind: the kind in use.
        options: options by kind.

    Raises:
        UserError: names the kinds that have the option.
    """
    own = _flags(options[kind])
    for word in flags:
        name = word.split("=")[0].replace("_", "-").replace("--no-", "--", 1)
        others = [other for other in options if name in _flags(options[other])]
        if others and name not in own:
            raise UserError(
                f"{name} is an option of the task {' and '.join(others)}, and the task is {kind}: "
                "leave it out, or name the other task."
            )


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

"""The command line of the verbs whose options depend on the kind of task."""

import argparse
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from bertjax import parsing
from bertjax.commands import flag
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.inference.config import EvaluateConfig, MaskedLmOptions, PredictConfig
from bertjax.parsing import Config
from bertjax.tasks import kinds
from bertjax.tasks.task import TaskKind, TrainedModel

_OTHER_MODEL = "leave it out, or name a model of the other task as the first word"
_KIND_HELP = "Kind of task. `--task KIND --help` shows its options."


class FinetuneArguments:
    """The arguments of `finetune`, with the options of one kind of task and no other's."""

    def __init__(self, arguments: list[str]) -> None:
        """Reads the recipe, if there is one, and the kind; refuses options of other kinds."""
        self.verb, recipe, self.flags = parsing.read_recipe(FinetuneConfig, "finetune", arguments)
        recipe_kind = recipe.task.kind if recipe else kinds.DEFAULT
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--task", nargs="?")
        kind = kinds.get(finder.parse_known_args(self.flags)[0].task or recipe_kind)
        names = Literal[kinds.names()]  # type: ignore[valid-type]
        hint = Annotated[names, tyro.conf.arg(name="task", help=_KIND_HELP)]
        fields = [("kind_name", hint, dataclasses.field(default=kind.name))]
        options = {name: kinds.get(name).options for name in kinds.names()}
        remedy = "leave it out, or name the other task"
        self.type = _with_options(
            FinetuneConfig, self.flags, kind.name, options, remedy=remedy, fields=fields
        )
        self.default = None
        if recipe is not None:
            task = recipe.task if kind.name == recipe_kind else kind.options()
            self.default = self.type(**{**vars(recipe), "task": task})

    def parse(self) -> FinetuneConfig:
        """Returns the configuration; exits on --help."""
        parsed = parsing.parse(self.type, self.verb, self.flags, default=self.default)
        values = dict(vars(parsed))
        del values["kind_name"]
        return FinetuneConfig(**values)


def evaluate_type(words: list[str], model: TrainedModel | None) -> type[EvaluateConfig]:
    """Returns the arguments of `evaluate` for a model; refuses options of other kinds."""
    kind = _kind(model) or kinds.get(kinds.DEFAULT)
    options = {name: kinds.get(name).evaluation for name in kinds.names()}
    return _with_options(EvaluateConfig, words, kind.name, options, remedy=_OTHER_MODEL)


def predict_type(words: list[str], model: TrainedModel | None) -> type[PredictConfig]:
    """Returns the arguments of `predict` for a model; refuses options of other kinds."""
    kind = _kind(model)
    options = {name: kinds.get(name).prediction for name in kinds.names()}
    options["masked_lm"] = MaskedLmOptions
    name = kind.name if kind else "masked_lm"
    return _with_options(PredictConfig, words, name, options, remedy=_OTHER_MODEL)


def _with_options(
    config: type[Config],
    words: list[str],
    task: str,
    options: Mapping[str, type],
    *,
    remedy: str,
    fields: Sequence[tuple[str, Any, Any]] = (),
) -> type[Config]:
    """Returns the dataclass `config` with further fields, whose `task` has the options of a kind.

    The fields of `options[task]` become flags without a prefix. Raises `UserError` if `words` have
    an option that only other kinds have.
    """
    for word in words:
        name = word.split("=")[0].replace("_", "-").replace("--no-", "--", 1)
        others = [other for other in options if name in _flags(options[other])]
        if others and task not in others:
            raise UserError(
                f"{name} is an option of the task {' and '.join(others)}, and the task is {task}: "
                f"{remedy}."
            )
    text = inspect.cleandoc(options[task].__doc__ or "")
    hint = Annotated[options[task], tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=text)]
    field = ("task", hint, dataclasses.field(default_factory=options[task]))
    namespace = {"__doc__": config.__doc__}
    return dataclasses.make_dataclass(
        config.__name__, [field, *fields], bases=(config,), namespace=namespace, frozen=True
    )


def _kind(model: TrainedModel | None) -> TaskKind | None:
    return None if model is None else kinds.of_model(model)


def _flags(options: type) -> set[str]:
    return {flag(field.name) for field in dataclasses.fields(options)}

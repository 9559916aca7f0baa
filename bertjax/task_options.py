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
from bertjax.flags import with_flags
from bertjax.inference.config import EvaluateConfig, MaskedLmOptions, PredictConfig
from bertjax.parsing import Config
from bertjax.tasks import kinds
from bertjax.tasks.task import TrainedModel

_KIND_HELP = "Kind of task. `--task KIND --help` has its options."


class FinetuneArguments:
    """The arguments of a fine-tuning, with the options of one kind of task and no other's."""

    def __init__(
        self,
        verb: str,
        recipe: FinetuneConfig | None,
        flags: list[str],
        config: type[FinetuneConfig] = FinetuneConfig,
    ) -> None:
        """Takes what `read_recipe` returns; finds the kind, and refuses options of other kinds.

        `config` is the configuration that the verb needs.
        """
        self.verb, self.flags, self.config = verb, flags, config
        recipe_kind = recipe.task.kind if recipe else kinds.DEFAULT
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--task", nargs="?")
        kind = kinds.get(finder.parse_known_args(self.flags)[0].task or recipe_kind)
        names = Literal[kinds.names()]  # type: ignore[valid-type]
        hint = Annotated[names, tyro.conf.arg(name="task", help=_KIND_HELP)]
        fields = [("kind_name", hint, dataclasses.field(default=kind.name))]
        options = {name: kinds.get(name).options for name in kinds.names()}
        remedy = "leave it out, or name the other task"
        _refuse_others(self.flags, kind.name, options, remedy)
        self.type = _with_task(config, kind.options(), fields)
        self.default = None
        if recipe is not None:
            task = recipe.task if kind.name == recipe_kind else kind.options()
            self.default = self.type(**{**vars(recipe), "task": task})

    def parse(self, common: Sequence[str] = ()) -> FinetuneConfig:
        """Returns the configuration; exits on --help, which shows the fields in `common`."""
        options: dict[str, Any] = {"default": self.default, "common": common}
        parsed = parsing.parse(self.type, self.verb, self.flags, **options)
        values = dict(vars(parsed))
        del values["kind_name"]
        return self.config(**values)


def evaluate_type(words: list[str], model: TrainedModel | None) -> type[EvaluateConfig]:
    """Returns the arguments of `evaluate` for a model, which is the first word, or else None."""
    options = {name: kinds.get(name).evaluation for name in kinds.names()}
    return _with_model(EvaluateConfig, words, model, options, kinds.DEFAULT)


def predict_type(words: list[str], model: TrainedModel | None) -> type[PredictConfig]:
    """Returns the arguments of `predict` for a model, which is the first word, or else None."""
    options = {name: kinds.get(name).prediction for name in kinds.names()}
    options["masked_lm"] = MaskedLmOptions
    return _with_model(PredictConfig, words, model, options, "masked_lm")


def _with_model(
    config: type[Config],
    words: list[str],
    model: TrainedModel | None,
    options: Mapping[str, type],
    default: str,
) -> type[Config]:
    """Adds the options of the model's kind, or of `default` if it has none or is unknown yet."""
    kind = None if model is None else kinds.of_model(model)
    task = kind.name if kind else default
    if model is None:
        flags = set().union(*map(_flags, options.values()))
        for name in _given(words, flags):
            raise UserError(f"{name} depends on the model: write the model before all options.")
    _refuse_others(words, task, options, "leave it out")
    value = (
        options[task]() if model is None or kind is None else kind.defaults(options[task], model)
    )
    return _with_task(config, value)


def _refuse_others(words: list[str], task: str, options: Mapping[str, type], remedy: str) -> None:
    """Raises a UserError if `words` have an option of other kinds that `task` does not have."""
    flags = {name: _flags(each) for name, each in options.items()}
    for name in _given(words, set().union(*flags.values()) - flags[task]):
        others = [other for other in options if name in flags[other]]
        known = f"task {others[0]}" if len(others) == 1 else f"tasks {', '.join(others)}"
        raise UserError(f"{name} is an option of the {known}, and the task is {task}: {remedy}.")


def _with_task(
    config: type[Config], default: Any, fields: Sequence[tuple[str, Any, Any]] = ()
) -> type[Config]:
    """Returns the dataclass `config` with further fields, whose `task` is like `default`.

    The fields of `default`, a dataclass, become flags without a prefix.
    """
    text = with_flags(parsing.paragraphs(inspect.getdoc(default) or ""), type(default))
    hint = Annotated[type(default), tyro.conf.OmitArgPrefixes, tyro.conf.arg(help=text)]
    task = ("task", hint, dataclasses.field(default_factory=lambda: default))
    namespace = {"__doc__": config.__doc__}
    return dataclasses.make_dataclass(
        config.__name__, [task, *fields], bases=(config,), namespace=namespace, frozen=True
    )


def _flags(options: type) -> set[str]:
    """Returns the flags of a dataclass, and of those in it, which have no prefix either."""
    found = set()
    for field in dataclasses.fields(options):
        is_nested = dataclasses.is_dataclass(field.default)
        found |= _flags(type(field.default)) if is_nested else {flag(field.name)}
    return found


def _given(words: list[str], flags: set[str]) -> list[str]:
    """Returns the flags among the words, as `flags` spells them."""
    names = [word.split("=")[0].replace("_", "-").replace("--no-", "--", 1) for word in words]
    return [name for name in names if name in flags]

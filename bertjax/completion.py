"""`bertjax completion`: the script by which a shell completes verbs and flags."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from bertjax.convert.run import ConvertConfig
from bertjax.data.prepare.inspection import PrepareArguments
from bertjax.demo.run import DemoConfig
from bertjax.doctor.run import DoctorConfig
from bertjax.finetune.config import FinetuneConfig
from bertjax.glue.config import GlueConfig
from bertjax.inference.config import (
    EmbedConfig,
    EvaluateConfig,
    MaskedLmOptions,
    PredictConfig,
    ProbeConfig,
    SearchConfig,
)
from bertjax.parsing import registry
from bertjax.plan.config import PlanConfig
from bertjax.pretrain.config import PretrainConfig
from bertjax.report.run import ReportConfig
from bertjax.tasks import kinds
from bertjax.text.tokenizer_training import TokenizerConfig


@dataclasses.dataclass(frozen=True)
class CompletionConfig:
    """Print the script by which a shell completes verbs and flags.

    bash reads it from ~/.local/share/bash-completion/completions/bertjax, or by `source`. zsh reads
    it from a file named _bertjax in a directory of its fpath.
    """

    shell: Positional[Literal["bash", "zsh"]]
    """Shell to write the script for."""


def print_completion(shell: str) -> None:
    """Prints the script that tyro generates from the configurations of all verbs; exits with 0."""
    tasks = [kinds.get(name) for name in kinds.names()]
    trained = [kind.options for kind in tasks]
    evaluated = [kind.evaluation for kind in tasks]
    predicted = [*(kind.prediction for kind in tasks), MaskedLmOptions]
    name = Annotated[Literal[kinds.names()], tyro.conf.arg(name="task")]  # type: ignore[valid-type]
    verbs: dict[str, Any] = {
        "demo": DemoConfig,
        "tokenizer": _Tokenizer,
        "prepare": PrepareArguments,
        "pretrain": PretrainConfig,
        "plan": PlanConfig,
        "convert": ConvertConfig,
        "finetune": _with_options(FinetuneConfig, trained, kind_name=name),
        "glue": GlueConfig,
        "evaluate": _with_options(EvaluateConfig, evaluated),
        "predict": _with_options(PredictConfig, predicted),
        "embed": EmbedConfig,
        "search": SearchConfig,
        "probe": ProbeConfig,
        "report": ReportConfig,
        "doctor": DoctorConfig,
        "completion": CompletionConfig,
    }
    words = ["--tyro-write-completion", shell, "-"]
    tyro.cli(_one_of(verbs), prog="bertjax", args=words, registry=registry(_Tokenizer, {}))


def _one_of(verbs: Mapping[str, Any]) -> Any:
    """Returns the type of a choice of verbs; tyro wants two choices at least."""
    choices = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in verbs.items()]
    return Union[(*choices, Annotated[None, tyro.conf.Suppress])]


@dataclasses.dataclass(frozen=True)
class _Tokenizer:
    verb: Annotated[_one_of({"train": TokenizerConfig}), tyro.conf.arg(name="")]  # type: ignore


def _with_options(config: type, tasks: list[type], **more: Any) -> type:
    """Adds the options of all kinds of task to a verb's configuration; the first of a name wins."""
    options = {each.name: each for kind in reversed(tasks) for each in dataclasses.fields(kind)}
    fields = [(name, each.type, _same_default(each)) for name, each in options.items()]
    task = dataclasses.make_dataclass("Task", fields, frozen=True)
    fields = [("task", OmitArgPrefixes[task], dataclasses.field(default_factory=task))]
    fields += [
        (name, hint, dataclasses.field(default=kinds.DEFAULT)) for name, hint in more.items()
    ]
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)


def _same_default(field: dataclasses.Field) -> Any:
    if field.default is dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)  # type: ignore[arg-type]
    return dataclasses.field(default=field.default)

"""The table of the kinds of tasks."""

import importlib
from typing import Any

from bertjax.errors import UserError
from bertjax.tasks.task import TaskKind, TrainedModel

DEFAULT = "classification"

# A string names a module and its attribute, which is imported when the kind is needed.
_TABLE: dict[str, str | TaskKind] = {
    "classification": "bertjax.tasks.classification.kind:KIND",
    "embedding": "bertjax.tasks.embedding.kind:KIND",
    "multiple_choice": "bertjax.tasks.multiple_choice.kind:KIND",
    "question_answering": "bertjax.tasks.question_answering.kind:KIND",
    "seq2seq": "bertjax.tasks.seq2seq.kind:KIND",
    "summarization_extractive": "bertjax.tasks.summarization_extractive.kind:KIND",
    "token_classification": "bertjax.tasks.token_classification.kind:KIND",
}


def names() -> tuple[str, ...]:
    """Returns the names of all kinds."""
    return tuple(_TABLE)


def register(kind: TaskKind) -> None:
    """Adds a kind from outside this package to the table.

    Raises:
        ValueError: the table has another kind of this name.
    """
    if _TABLE.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"the kind of task {kind.name!r} is registered already")


def get(name: str) -> TaskKind:
    """Returns the kind of this name.

    Raises:
        UserError: there is none.
    """
    if name not in _TABLE:
        raise UserError(f"`task` {name!r} is unknown: give one of {', '.join(_TABLE)}.")
    entry = _TABLE[name]
    if isinstance(entry, str):
        module, attribute = entry.split(":")
        entry = _TABLE[name] = getattr(importlib.import_module(module), attribute)
    assert isinstance(entry, TaskKind), entry
    return entry


def default_options() -> Any:
    """Returns the options of a run that names no kind."""
    return get(DEFAULT).options()


def of_model(model: TrainedModel) -> TaskKind | None:
    """Returns the kind that a model was trained for, or None.

    An export of bertjax names its kind. A model of sentence-transformers gives vectors. Any other
    model is known by its head.
    """
    recorded = (model.task or {}).get("task")
    if recorded is None:  # the record of an export alone has no modules
        is_embedder = getattr(model, "sentence_modules", None) is not None
        return get("embedding") if is_embedder else of_head(model.kind)
    return get(recorded) if recorded in _TABLE else None


def of_head(name: str) -> TaskKind | None:
    """Returns the kind of the models with this head, or None."""
    return next((kind for kind in map(get, _TABLE) if name in kind.heads), None)

"""The head of a task that starts from the head of a trained model instead of random weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.model.heads import TASK_PARTS, task_parts
from bertjax.tasks.task import Task, TrainedModel, encoder_params


def has_head(task: Task, model: TrainedModel) -> bool:
    """Whether a model has the parts of the head of a task."""
    parts = _parts(task, model)
    return bool(parts) and task.start_params is encoder_params and set(parts) <= model.shapes.keys()


def _parts(task: Task, model: TrainedModel) -> tuple[str, ...]:
    return task_parts(task.head.name, model.config)


def described(
    config: FinetuneConfig, sources: Mapping[str, str], task: Task, model: TrainedModel
) -> str:
    """Returns a line on the head that a run starts from; empty if there is nothing to say."""
    if config.keep_head:
        names = [f"{label} from {source}" for label, source in list(sources.items())[:8]]
        return f"The head is that of the model{': ' if names else ''}{', '.join(names)}."
    if config.from_scratch or not has_head(task, model):
        return ""
    return f"The head is new: that of the model ({model.kind}) is left out without `keep_head`."


def label_sources(task: Task, model: TrainedModel, given: Mapping[str, str]) -> dict[str, str]:
    """Returns the label of the model from which each label of the task starts.

    These are the labels of the same name, regardless of capitals, or those that `given` names. A
    label without a name in the model, LABEL_1, is that of the number 1.

    Args:
        task: the task; without labels the result is empty.
        model: the model.
        given: labels of the task -> labels of the model.

    Raises:
        UserError: the model has no such head, or a label has no source.
    """
    if not has_head(task, model):
        raise UserError(
            f"`keep_head` needs a model with a head for {task.head.name}, and this one does "
            f"{model.kind}: leave it out."
        )
    theirs = labels_of(model)
    if not task.labels or not theirs:
        if given:
            raise UserError(
                "`head_labels` needs labels in the task and in the model: leave it out."
            )
        _check_outputs(task, model)
        return {}
    if unknown := [name for name in given if name not in task.labels]:
        raise UserError(
            f"`head_labels` has {unknown[0]!r}, which is no label of the training file."
        )
    sources = {}
    for label in task.labels:
        wanted = given.get(label, label)
        if (source := source_of(wanted, theirs)) is None:
            raise UserError(
                f"`keep_head`: the model has the labels {', '.join(theirs)}, and not {wanted!r}: "
                f"name the one from which {label!r} starts in `head_labels`, or leave out "
                "`keep_head`."
            )
        sources[label] = source
    return sources


def source_of(label: str, theirs: Sequence[str]) -> str | None:
    """Returns the label of a model that means a label of a task, as `label_sources` describes."""
    if label in theirs:
        return label
    named = {name.casefold(): name for name in reversed(theirs)}
    names = (label.casefold(), f"LABEL_{label}".casefold())
    return next((named[name] for name in names if name in named), None)


def keep_head(
    params: dict[str, Any], task: Task, model: TrainedModel, sources: Mapping[str, str]
) -> dict[str, Any]:
    """Replaces a random head by the model's, with the outputs of `label_sources`."""
    *parts, last = _parts(task, model)
    head = model.params[last]
    if sources:
        theirs = labels_of(model)
        columns = [theirs.index(sources[label]) for label in task.labels]
        head = jax.tree.map(lambda leaf: np.asarray(leaf)[..., columns], head)
    return {**params, **{part: model.params[part] for part in parts}, last: head}


def labels_of(model: TrainedModel) -> Sequence[str]:
    """Returns the names of the outputs of a model, LABEL_0 ... if it has none."""
    head = model.shapes[TASK_PARTS[model.kind][-1]]
    outputs = head["bias"].shape[0] if "bias" in head else 1
    if outputs == 1:
        return ()
    return (model.task or {}).get("labels") or [f"LABEL_{index}" for index in range(outputs)]


def _check_outputs(task: Task, model: TrainedModel) -> None:
    last = TASK_PARTS[task.head.name][-1]
    random = jax.eval_shape(
        lambda key: task.head.init_params(
            model.config, key, task.head.name, task.head.outputs, whole=False
        )[last],
        jax.random.key(0),
    )
    shapes = [jax.tree.map(np.shape, tree) for tree in (random, model.shapes[last])]
    if shapes[0] != shapes[1]:
        raise UserError(
            "`keep_head`: the head of the model has another shape than that of the task: leave it "
            "out."
        )

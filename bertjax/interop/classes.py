"""Hugging Face's classes: which one a task has, and what config.json says of the task."""

import re
from collections.abc import Mapping
from typing import Any

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.model.heads import TASK_PARTS, kind_of_parts, task_parts

ARCHITECTURES = {
    "pretraining": "BertForPreTraining",
    "masked_lm": "BertForMaskedLM",
    "next_sentence": "BertForNextSentencePrediction",
    "sequence_classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "multi_label_classification": "BertForSequenceClassification",
    "token_classification": "BertForTokenClassification",
    "question_answering": "BertForQuestionAnswering",
    "multiple_choice": "BertForMultipleChoice",
    "encoder_decoder": "EncoderDecoderModel",
    "sentence_extraction": "BertModel",
    "encoder": "BertModel",
}
# Architectures that name their output layer `classifier`.
_CLASSIFIERS = {
    ARCHITECTURES[kind]: kind
    for kind in ("sequence_classification", "token_classification", "multiple_choice")
}
_PROBLEM_TYPES = {
    "sequence_classification": "single_label_classification",
    "regression": "regression",
    "multi_label_classification": "multi_label_classification",
}
_LABELED = ("sequence_classification", "multi_label_classification", "token_classification")
_TAG = re.compile(r"[BI]-.+")  # a label of the tokens of a chunk
_TASK = "bertjax_task"  # our own entry


def architecture(kind: str, prefix: str = "Bert") -> str:
    """Returns the name of the class for a kind of task, which begins with `prefix` for "Bert"."""
    return re.sub("^Bert", prefix, ARCHITECTURES[kind])


def task_json(
    kind: str, task: Mapping[str, Any] | None, params: Mapping[str, Any], prefix: str = "Bert"
) -> dict[str, Any]:
    """Returns the entries of config.json for a task, bertjax's own and Hugging Face's.

    Args:
        kind: the kind of the task.
        task: `Pretrained.task`.
        params: the parameters; their classifier says how many labels there are without names.
        prefix: the beginning of the names of classes.
    """
    fields: dict[str, Any] = {"architectures": [architecture(kind, prefix)]}
    if kind == "regression" or kind in _LABELED:
        labels = list((task or {}).get("labels") or [])
        labels = labels or [f"LABEL_{i}" for i in range(_outputs(params))]
        fields["id2label"] = {str(index): label for index, label in enumerate(labels)}
        fields["label2id"] = {label: index for index, label in enumerate(labels)}
    if kind in _PROBLEM_TYPES:
        fields["problem_type"] = _PROBLEM_TYPES[kind]
    return fields | ({_TASK: task} if task else {})


def read_task(
    fields: dict[str, Any], params: Mapping[str, Any], config: BertConfig, where: str
) -> dict[str, Any]:
    """Returns the task from bertjax's own entry, or else from Hugging Face's entries."""
    task = own_task(fields, where) or {"kind": _read_kind(fields, params, where)}
    kind = task["kind"]
    if missing := [part for part in task_parts(kind, config) if part not in params]:
        reason = f"the task {kind!r} needs the part {missing[0]}, which the weights lack"
        raise UserError(f"{where}: {reason}; export or download the model again.")
    if kind in ("regression", "multiple_choice") and _outputs(params) != 1:
        reason = f"the task is {kind} and the classifier has {_outputs(params)} outputs"
        raise UserError(
            f"{where}: {reason}, but only one can be read, a number for each text or choice; if "
            "these are labels, correct problem_type or architectures."
        )
    if kind in _LABELED:
        return {**task, "labels": _read_labels(task, fields, _outputs(params), where)}
    return {"labels": [], **task} if kind == "regression" else task


def own_task(fields: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Returns bertjax's own entry; None if it is absent or contradicts the rest of config.json."""
    task = fields.get(_TASK)
    if not isinstance(task, dict):
        return None
    kind = task.get("kind")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UserError(f"{where}: {unknown_task(kind)}; export the model again.")
    # transformers keeps the entry when it trains the model for another task.
    same = fields.get("architectures") == [ARCHITECTURES[kind]]
    if same and kind in _PROBLEM_TYPES:
        same = fields.get("problem_type") in (_PROBLEM_TYPES[kind], None)
    return dict(task) if same else None


def unknown_task(kind: object) -> str:
    """Returns a clause of an error: this kind of task does not exist."""
    return f"the task {kind!r} is unknown (known are {', '.join(TASK_PARTS)})"


def _read_kind(fields: dict[str, Any], params: Mapping[str, Any], where: str) -> str:
    """Returns the kind of a model by its heads."""
    kind = kind_of_parts(params)
    # Three classes name their head `classifier`; `architectures` decides between them. Only that of
    # tokens has no pooler, and only since 2020.
    names = fields.get("architectures")
    if "classifier" in params and not names and kind != "token_classification":
        kind = _guess_kind(fields, kind, where)
    elif "classifier" in params and names:
        known = [name for name in _CLASSIFIERS if isinstance(names, list) and name in names]
        if not known:
            reason = f"architectures is {names}, whose classifier can't be read"
            raise UserError(f"{where}: {reason}; only {', '.join(_CLASSIFIERS)} can.")
        kind = _CLASSIFIERS[known[0]]
    if kind not in ("sequence_classification", "regression"):
        return kind
    if (problem := fields.get("problem_type")) in ("multi_label_classification", "regression"):
        return problem
    return "regression" if _outputs(params) == 1 else kind


def _guess_kind(fields: Mapping[str, Any], kind: str, where: str) -> str:
    """Returns the kind of a classifier beside a pooler whose config.json has no architectures."""
    if any(isinstance(fields.get(name), str) for name in ("problem_type", "finetuning_task")):
        return kind  # transformers writes these for whole texts alone
    labels = fields.get("id2label")
    names = [str(name) for name in labels.values()] if isinstance(labels, dict) else []
    if "O" in names and any(map(_TAG.fullmatch, names)):
        return "token_classification"
    choices = " or ".join(f'["{name}"]' for name in _CLASSIFIERS)
    raise UserError(
        f"{where}: has no architectures, so that its classifier may be of texts, tokens or choices;"
        f' add "architectures": {choices}.'
    )


def _read_labels(
    task: dict[str, Any], fields: dict[str, Any], outputs: int, where: str
) -> list[str]:
    names = fields.get("id2label", task.get("labels"))
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    elif names is None:
        names = [f"LABEL_{index}" for index in range(outputs)]
    if not isinstance(names, list) or len(names) != outputs:
        reason = f"the labels don't match the classifier's {outputs} outputs"
        raise UserError(f"{where}: {reason}; put the config.json of these weights beside them.")
    if wrong := [name for name in names if not isinstance(name, str | int)]:
        raise UserError(f"{where}: id2label has a label {wrong[0]!r}; use words or numbers.")
    names = [str(name) for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        reason = f"two outputs have the label {twice[0]!r:.100}"
        raise UserError(f"{where}: {reason}; give each its own name in id2label.")
    return names


def _outputs(params: Mapping[str, Any]) -> int:
    return params["classifier"]["bias"].shape[0]

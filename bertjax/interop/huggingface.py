"""Hugging Face's layout, both ways: config.json, model.safetensors and the tokenizer's files."""

import dataclasses
import json
import re
import uuid
from typing import Any

from etils import epath

from bertjax.config import BertConfig, read_json_object
from bertjax.errors import UserError
from bertjax.interop import google
from bertjax.interop.tensors import read_params, write_params
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

_ARCHITECTURES = {
    "pretraining": "BertForPreTraining",
    "masked_lm": "BertForMaskedLM",
    "sequence_classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "encoder": "BertModel",
}
_TASK = "bertjax_task"
_THEIR_ACTS = {"gelu_tanh": "gelu_new"}


@dataclasses.dataclass
class Pretrained:
    """A model as it is kept on disk: shape, weights, vocabulary and what it was trained to do."""

    config: BertConfig
    """The shape."""
    params: dict
    """Nested dict of float32 arrays, as `init_params` gives them."""
    tokenizer: Tokenizer
    """Makes the ids this model was trained on."""
    task: dict[str, Any] | None = None
    """None, or {"kind": "pretraining" | "masked_lm" | "encoder"} or {"kind":
    "sequence_classification" | "regression", "labels", "text_column", "pair_column",
    "label_column", "max_seq_length"}."""

    @property
    def kind(self) -> str:
        """The task's kind; without a task, what the heads can do."""
        return self.task["kind"] if self.task else _kind_of_heads(set(self.params))


def save_pretrained(path: epath.PathLike, model: Pretrained) -> epath.Path:
    """Writes config.json, model.safetensors and the tokenizer's files; never leaves half of them.

    A new directory is moved into place when it is whole. Into a directory that is there already
    the files are put one by one, config.json, without which nothing reads it, last.

    Returns:
        The directory.

    Raises:
        UserError: a weight is not finite, or the path is a file.
    """
    path = epath.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; name a directory to export to.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        model.tokenizer.save(temporary)
        write_params(temporary / WEIGHTS, model.params)
        (temporary / CONFIG).write_text(json.dumps(_config_json(model), indent=2) + "\n")
        _put_in_place(temporary, path)
    finally:
        if temporary.exists():
            temporary.rmtree()
    return path


def from_pretrained(path: epath.PathLike) -> Pretrained:
    """Reads what `save_pretrained` wrote, a BERT in Hugging Face's layout, or a TF1 checkpoint.

    A run directory is read by its export/. Local only: nothing is ever fetched.

    Raises:
        UserError: nothing there, another kind of model, or damaged files; the sentence names the
            tensor.
    """
    if google.is_checkpoint(path):
        found = google.read_checkpoint(path, moments=False)
        return Pretrained(found.config, found.params, google.read_tokenizer(found), found.task)
    path = find_export(path)
    fields = _read_config(path / CONFIG)
    config = BertConfig.from_dict(fields, where=str(path / CONFIG))
    params = read_params(path / WEIGHTS, config)
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} pieces and the model only "
            f"{config.vocab_size}; put the tokenizer that the model was trained with beside it."
        )
    task = _read_task(fields, params, where=str(path / CONFIG))
    return Pretrained(config, params, tokenizer, task)


def find_export(path: epath.PathLike) -> epath.Path:
    """The directory with the weights: `path` itself, or its export/ if it is a run directory.

    Raises:
        UserError: nothing there that holds a model.
    """
    path = epath.Path(path)
    if not path.exists():
        hint = ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
            hint = " (names of models on a hub are not looked up: download the files first)"
        raise UserError(
            f"{path}: no such directory; give a run directory, an export or a model in Hugging "
            f"Face's layout{hint}."
        )
    for directory in (path / "export", path):
        if (directory / WEIGHTS).exists() and (directory / CONFIG).exists():
            return directory
    if (path / "checkpoints").exists():
        raise UserError(
            f"{path}: this run has no export/ yet; give the command that began it again, to finish."
        )
    if list(path.glob("pytorch_model*.bin")):
        raise UserError(
            f"{path}: its weights are a pickle (.bin), which may run code when read; convert them "
            f"to {WEIGHTS} with the tools of whoever made them."
        )
    raise UserError(
        f"{path}: holds no {CONFIG} with {WEIGHTS}; give a run directory, an export or a model in "
        "Hugging Face's layout."
    )


def _config_json(model: Pretrained) -> dict[str, Any]:
    kind = model.kind
    fields = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": "bert",
        **model.config.to_dict(),
        "hidden_act": _THEIR_ACTS.get(model.config.hidden_act, model.config.hidden_act),
        "position_embedding_type": "absolute",
        "pad_token_id": model.tokenizer.pad_id,
        "tie_word_embeddings": True,
    }
    if kind in ("sequence_classification", "regression"):
        labels = list(model.task["labels"]) if model.task else []
        labels = labels or [f"LABEL_{i}" for i in range(len(model.params["classifier"]["bias"]))]
        regression = kind == "regression"
        fields["id2label"] = {str(index): label for index, label in enumerate(labels)}
        fields["label2id"] = {label: index for index, label in enumerate(labels)}
        fields["problem_type"] = "regression" if regression else "single_label_classification"
    if model.task:
        fields[_TASK] = model.task
    return fields


def _put_in_place(temporary: epath.Path, path: epath.Path) -> None:
    # In an object store renaming a directory is copying its files one by one, in any order.
    if not path.exists() and "://" not in str(path):
        temporary.rename(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, "vocab.txt", "spm.model", "tokenizer.json"):
        (path / name).unlink(missing_ok=True)
    names = sorted(file.name for file in temporary.iterdir())
    for name in sorted(names, key=lambda name: name == CONFIG):
        (temporary / name).replace(path / name)


def _read_config(path: epath.Path) -> dict[str, Any]:
    fields = read_json_object(path)
    for name, wanted in (("model_type", "bert"), ("position_embedding_type", "absolute")):
        if fields.get(name, wanted) not in (wanted, None):
            raise UserError(
                f"{path}: {name} is {fields[name]!r}; only BERT's own ({wanted!r}) can be read."
            )
    return fields


def _kind_of_heads(heads: set[str]) -> str:
    if "classifier" in heads:
        return "sequence_classification"
    if "mlm" in heads:
        return "pretraining" if "nsp" in heads else "masked_lm"
    return "encoder"


def _read_task(fields: dict[str, Any], params: dict, where: str) -> dict[str, Any]:
    """The task by bertjax's own entry, or by what Hugging Face's say."""
    heads = set(params)
    ours = fields.get(_TASK)
    task = dict(ours) if isinstance(ours, dict) else {"kind": _kind_of_heads(heads)}
    kind = task.get("kind")
    if not isinstance(kind, str) or kind not in _ARCHITECTURES:
        raise UserError(f"{where}: the task {kind!r} is unknown; export the model again.")
    needs = {"pretraining": "mlm", "masked_lm": "mlm", "encoder": "embeddings"}
    if needs.get(kind, "classifier") not in heads:
        raise UserError(f"{where}: the task {kind!r} needs a head that {WEIGHTS} doesn't hold.")
    if kind not in ("sequence_classification", "regression"):
        return task
    outputs = len(params["classifier"]["bias"])
    if not isinstance(ours, dict):
        _check_classifier(fields, where)
        if fields.get("problem_type") == "regression" or outputs == 1:
            kind, task = "regression", {"kind": "regression", "labels": []}
    if kind == "regression":
        if outputs != 1:
            raise UserError(
                f"{where}: regression has one output and the classifier {outputs}; only one number "
                "can be predicted."
            )
        return task
    names = task.get("labels", fields.get("id2label"))
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(outputs)]
    elif names is None:
        names = [f"LABEL_{index}" for index in range(outputs)]
    if not isinstance(names, list) or len(names) != outputs or None in names:
        raise UserError(f"{where}: its labels don't match the classifier's {outputs} outputs.")
    return {**task, "labels": names}


def _check_classifier(fields: dict[str, Any], where: str) -> None:
    """Refuses a layer named `classifier` that is no classifier of sequences into one label."""
    wanted = _ARCHITECTURES["sequence_classification"]
    architectures = fields.get("architectures") or [wanted]
    if not isinstance(architectures, list) or wanted not in architectures:
        raise UserError(
            f"{where}: architectures says {architectures}, whose classifier does something else; "
            f"only a {wanted} can be read with its head."
        )
    if fields.get("problem_type") == "multi_label_classification":
        raise UserError(
            f"{where}: problem_type is 'multi_label_classification'; only one label a text can be "
            "predicted."
        )

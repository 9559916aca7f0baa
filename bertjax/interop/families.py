"""The architectures of Hugging Face's layout: which one a model has, its fields and its tensors.

Parameters are read from, and written to, tensors with the names of BERT. An architecture with other
names or fields converts between these and its own. A shape that no architecture has is written
under bertjax's own name, which transformers does not read.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import distilbert, modernbert, roberta
from bertjax.interop.weights import Weights
from bertjax.text.tokenizer import Tokenizer

OWN = "bertjax"
"""The model_type of a model that transformers has no class for."""

Fields = dict[str, Any]


class Family(NamedTuple):
    """An architecture other than BERT."""

    base: str
    """The name of the encoder in those of the tensors of a model with a head."""
    bert_fields: Callable[[Fields, str], Fields]
    """(its config.json, the name of that file) -> fields of `BertConfig`."""
    bert_weights: Callable[[Weights, BertConfig, str], Weights]
    """(its tensors, the shape, the name of the class) -> tensors with a BERT's names."""


FAMILIES = {
    "distilbert": Family(
        "distilbert",
        distilbert.bert_fields,
        lambda weights, config, _: distilbert.bert_weights(weights, config),
    ),
    "roberta": Family(
        "roberta", roberta.bert_fields, lambda weights, *_: roberta.bert_weights(weights)
    ),
    "modernbert": Family(
        "model",
        modernbert.bert_fields,
        lambda weights, _, architecture: modernbert.bert_weights(weights, architecture),
    ),
}
"""The architectures besides BERT that are read, by their model_type."""

_CLASSIC = [field.name for field in dataclasses.fields(BertConfig)]
_CLASSIC = _CLASSIC[: _CLASSIC.index("position_offset")]
_SENTENCE_KINDS = ("pretraining", "next_sentence")


class Layout(NamedTuple):
    """The architecture that a model is written as."""

    prefix: str
    """The beginning of the names of its classes."""
    fields: Fields
    """The fields of its config.json that describe the shape."""
    tensors: Callable[[dict[str, np.ndarray], str], dict[str, np.ndarray]]
    """(tensors with a BERT's names, kind of task) -> tensors with its own."""


def layout(config: BertConfig, tokenizer: Tokenizer, kind: str) -> Layout:
    """Returns the architecture that a model is written as."""
    if not config.differences():
        return Layout("Bert", bert_json(config, tokenizer), _without_prefix)
    if unlike_all(config, kind):
        return Layout("Bert", {**config.to_dict(), "model_type": OWN}, _without_prefix)
    if config.position_offset:
        fields = {**bert_json(config, tokenizer), **roberta.config_json(config)}
        return Layout(roberta.PREFIX, fields, roberta.tensors)
    return Layout(modernbert.PREFIX, modernbert.config_json(config, tokenizer), modernbert.tensors)


def _without_prefix(tensors: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    if kind not in ("encoder", "sentence_extraction"):
        return tensors
    return {name.removeprefix("bert."): array for name, array in tensors.items()}


def unlike_all(config: BertConfig, kind: str) -> str:
    """Returns why no class of transformers has a model, as a clause; empty if one has."""
    others = config.differences().keys()
    if not others:
        return ""
    if "position_offset" in others:
        name, reason = "RoBERTa", ", ".join(sorted(others - {"position_offset"}))
        if not reason and kind == "masked_lm" and config.hidden_act != "gelu":
            reason = f"hidden_act {config.hidden_act!r} in the head of a masked LM"
    else:
        name, reason = "ModernBERT", modernbert.unlike(config)
    if not reason and kind in _SENTENCE_KINDS:
        reason = "a next-sentence head"
    return reason and f"no {name} has {reason}"


def check(config: BertConfig, tokenizer: Tokenizer, where: object) -> None:
    """Raises `UserError`, which names `where`, if the tokenizer is none of the architecture's."""
    if config.position_offset:
        roberta.check(config, tokenizer, where)


def check_written(config: BertConfig, kind: str, where: object) -> None:
    """Raises `UserError`, which names `where`, if no class of transformers has such a model."""
    if reason := unlike_all(config, kind):
        raise UserError(
            f"{where}: can't be written for transformers, because {reason}; bertjax itself reads "
            "the run or the export."
        )


def bert_json(config: BertConfig, tokenizer: Tokenizer) -> Fields:
    """Returns the fields of a BERT's config.json that describe the shape."""
    act = config.hidden_act
    return {
        "model_type": "bert",
        **{name: getattr(config, name) for name in _CLASSIC},
        "hidden_act": "gelu_new" if act == "gelu_tanh" else act,
        "position_embedding_type": "absolute",
        "pad_token_id": tokenizer.pad_id,
        "tie_word_embeddings": True,
    }

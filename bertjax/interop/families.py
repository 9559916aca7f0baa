"""The architectures of Hugging Face's layout: which one a model has, its fields and its tensors.

Parameters are read from, and written to, tensors with the names of BERT. An architecture with other
names or fields converts between these and its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bertjax.config import BertConfig
from bertjax.interop import distilbert, roberta
from bertjax.interop.weights import Weights
from bertjax.text.tokenizer import Tokenizer

Fields = dict[str, Any]


class Family(NamedTuple):
    """An architecture other than BERT."""

    base: str
    """The name of the encoder in those of the tensors of a model with a head."""
    bert_fields: Callable[[Fields, str], Fields]
    """(its config.json, the name of that file) -> a BERT's fields."""
    bert_weights: Callable[[Weights, BertConfig], Weights]
    """Renames its tensors to a BERT's."""


FAMILIES = {
    "distilbert": Family("distilbert", distilbert.bert_fields, distilbert.bert_weights),
    "roberta": Family("roberta", roberta.bert_fields, roberta.bert_weights),
}
"""The architectures besides BERT that are read, by their model_type."""

_CLASSIC = [field.name for field in dataclasses.fields(BertConfig)]
_CLASSIC = _CLASSIC[: _CLASSIC.index("position_offset")]


class Layout(NamedTuple):
    """The architecture that a model is written as."""

    prefix: str
    """The beginning of the names of its classes."""
    fields: Fields
    """The fields of its config.json that describe the shape."""
    tensors: Callable[[dict[str, np.ndarray], str], dict[str, np.ndarray]]
    """(tensors with a BERT's names, kind of task) -> tensors with its own."""


def layout(config: BertConfig, tokenizer: Tokenizer) -> Layout:
    """Returns the architecture that a shape is written as."""
    fields = bert_json(config, tokenizer)
    if config.position_offset:
        return Layout(roberta.PREFIX, fields | roberta.config_json(config), roberta.tensors)
    return Layout("Bert", fields, lambda tensors, kind: tensors)


def check(config: BertConfig, tokenizer: Tokenizer, kind: str, where: object) -> None:
    """Raises `UserError`, which names `where`, if no architecture has such a model."""
    if config.position_offset:
        roberta.check(config, tokenizer, kind, where)


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

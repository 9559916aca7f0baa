"""Converts a RoBERTa to a BERT with an offset of positions, and back; every tensor has a place.

Positions begin after the id of the padding token, and there is no next-sentence head. The head of
the masked LM, and that of whole texts, have other names. Source:
`transformers/models/roberta/modeling_roberta.py`.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop.weights import Weights
from bertjax.text.tokenizer import Tokenizer

PREFIX = "Roberta"
"""The beginning of the names of classes."""

_MLM = {
    "lm_head.dense.": "cls.predictions.transform.dense.",
    "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
    "lm_head.": "cls.predictions.",
}
_TEXTS = {"classifier.dense.": "bert.pooler.dense.", "classifier.out_proj.": "classifier."}
# Kinds of task whose class has no pooler, and a head of two dense layers.
_KINDS = ("sequence_classification", "regression", "multi_label_classification")


def bert_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Converts a RoBERTa's config.json to a BERT's.

    Raises:
        UserError: the ids or the number of positions are impossible, or the masked LM has another
            activation than its head.
    """
    pad, positions = fields.get("pad_token_id", 1), fields.get("max_position_embeddings", 512)
    if not (type(pad) is int and type(positions) is int and 0 <= pad < positions - 1):
        raise UserError(
            f"{where}: pad_token_id is {pad!r:.50} and max_position_embeddings {positions!r:.50}, "
            "and a RoBERTa's positions begin after the former: correct them."
        )
    names = fields.get("architectures")
    if isinstance(names, list):
        names = [re.sub(f"^{PREFIX}", "Bert", str(name)) for name in names]
    offset = pad + 1
    shape = {"max_position_embeddings": positions - offset, "position_offset": offset}
    return {"layer_norm_eps": 1e-12, **fields, **shape, "architectures": names}


def bert_weights(weights: Weights) -> Weights:
    """Renames a RoBERTa's tensors to BERT's names."""
    whole = "classifier.dense.weight" in weights.tensors
    kept = (name for name in weights.tensors if not (whole and "roberta.pooler." in name))
    return weights.renamed((_renamed(name, _MLM | _TEXTS), name) for name in kept)


def _renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in {**names, "roberta.": "bert."}.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def tensors(bert: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Renames a BERT's tensors to the names of a RoBERTa's class for a kind of task."""
    if kind in ("encoder", "sentence_extraction"):
        return {name.removeprefix("bert."): array for name, array in bert.items()}
    pairs: Iterable[tuple[str, str]] = (_MLM | (_TEXTS if kind in _KINDS else {})).items()
    names = [(ours, theirs) for theirs, ours in pairs] + [("bert.", "roberta.")]

    def renamed(name: str) -> str:
        found = ((ours, theirs) for ours, theirs in names if name.startswith(ours))
        ours, theirs = next(found, ("", ""))
        return theirs + name.removeprefix(ours)

    return {renamed(name): array for name, array in bert.items()}


def config_json(config: BertConfig) -> dict[str, Any]:
    """Returns the fields of a RoBERTa's config.json that differ from a BERT's."""
    return {
        "model_type": "roberta",
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
        "pad_token_id": config.position_offset - 1,
    }


def check(config: BertConfig, tokenizer: Tokenizer, where: object) -> None:
    """Raises `UserError` if a tokenizer is none of this RoBERTa's."""
    pad = config.position_offset - 1
    if tokenizer.kind != "bpe":
        raise UserError(
            f"{where}: a RoBERTa reads byte-level BPE, and this vocabulary is {tokenizer.kind}; "
            "put the vocab.json and merges.txt, or the tokenizer.json, of the model beside it."
        )
    if tokenizer.pad_id != pad:
        raise UserError(
            f"{where}: the tokenizer pads with the id {tokenizer.pad_id} and the model with {pad}, "
            "after which its positions begin; put the tokenizer of the model beside it."
        )

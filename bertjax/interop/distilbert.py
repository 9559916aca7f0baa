"""Converts a DistilBERT to a BERT that computes the same outputs.

DistilBERT has other tensor names, no token types and no pooler. Its masked-LM, token and
question-answering heads are BERT's. Its heads over whole texts (`pre_classifier` with ReLU) do not
exist in BERT and are refused. Source: `transformers/models/distilbert/modeling_distilbert.py`.
"""

import re
from typing import Any

import numpy as np

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop.weights import Weights

_FIELDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_SAME = (
    *("vocab_size", "max_position_embeddings", "initializer_range"),
    *("architectures", "id2label", "problem_type"),
)
# Two token types of zeros, so that fine-tuning can learn to distinguish the texts of a pair.
_TYPES = 2

_LAYER = r"transformer\.layer\.(\d+)"
_MODULES = (
    (r"embeddings(\.\w+)?", r"bert.embeddings\1"),
    (rf"{_LAYER}\.attention\.q_lin", r"bert.encoder.layer.\1.attention.self.query"),
    (rf"{_LAYER}\.attention\.k_lin", r"bert.encoder.layer.\1.attention.self.key"),
    (rf"{_LAYER}\.attention\.v_lin", r"bert.encoder.layer.\1.attention.self.value"),
    (rf"{_LAYER}\.attention\.out_lin", r"bert.encoder.layer.\1.attention.output.dense"),
    (rf"{_LAYER}\.sa_layer_norm", r"bert.encoder.layer.\1.attention.output.LayerNorm"),
    (rf"{_LAYER}\.ffn\.lin1", r"bert.encoder.layer.\1.intermediate.dense"),
    (rf"{_LAYER}\.ffn\.lin2", r"bert.encoder.layer.\1.output.dense"),
    (rf"{_LAYER}\.output_layer_norm", r"bert.encoder.layer.\1.output.LayerNorm"),
    (r"vocab_transform", r"cls.predictions.transform.dense"),
    (r"vocab_layer_norm", r"cls.predictions.transform.LayerNorm"),
    (r"vocab_projector", r"cls.predictions.decoder"),
    (r"(classifier|qa_outputs)", r"\1"),
)


def bert_fields(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Converts a DistilBERT's config.json to a BERT's; raises `UserError` if a field is missing."""
    if missing := sorted({"vocab_size", "dim", "n_layers"} - fields.keys()):
        absent = ", ".join(missing)
        raise UserError(f"{where} has no {absent}: is it the configuration of a DistilBERT?")
    converted = {ours: fields[theirs] for theirs, ours in _FIELDS.items() if theirs in fields}
    converted |= {name: fields[name] for name in _SAME if name in fields}
    if isinstance(names := converted.get("architectures"), list):
        converted["architectures"] = [re.sub("^DistilBert", "Bert", str(name)) for name in names]
    return {**converted, "type_vocab_size": _TYPES, "layer_norm_eps": 1e-12}


def bert_weights(weights: Weights, config: BertConfig) -> Weights:
    """Renames a DistilBERT's tensors to BERT's names and adds token type embeddings of zeros.

    Raises `UserError` if a tensor is unknown, belongs to a head that BERT lacks, or occurs in two
    different versions.
    """
    renamed = weights.renamed((_bert_name(weights, name), name) for name in weights.tensors)
    # A view of a single zero, because the hidden size has not been checked yet.
    types = np.broadcast_to(np.float32(0), (_TYPES, config.hidden_size))
    renamed.tensors["bert.embeddings.token_type_embeddings.weight"] = types
    return renamed


def _bert_name(weights: Weights, name: str) -> str:
    module, _, leaf = name.removeprefix("distilbert.").rpartition(".")
    for theirs, ours in _MODULES:
        if re.fullmatch(theirs, module):
            return f"{re.sub(theirs, ours, module)}.{leaf}"
    if module == "pre_classifier":
        raise UserError(
            f"{weights.where(name)}: the tensor {name} belongs to a head over whole texts, which "
            "BERT does not have in this form; save the DistilBertModel alone, and fine-tune that."
        )
    if not name.startswith(("distilbert.", "embeddings.", "transformer.")):
        return name  # no part of the encoder: `read_params` leaves it out
    reason = f"the tensor {name} is not part of a DistilBERT"
    remedy = "put the config.json of these weights beside them"
    raise UserError(f"{weights.where(name)}: {reason}; {remedy}.")

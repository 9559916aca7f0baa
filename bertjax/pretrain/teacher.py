"""The teacher of a run: a trained model that a smaller one learns from.

Its parameters are an argument of the compiled step, as the frozen base of LoRA is in fine-tuning,
and no part of the training state: BERT-base would make each checkpoint of a model of 6 layers of
384 more than twice as large. Checkpoints record a hash of them instead. A run resumes to the bit
with the same teacher, from any path, and refuses another one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.shards import Manifest
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained, open_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.objectives.objective import Objective
from bertjax.train import sharding
from bertjax.train.tree import named, nested


class Teacher(NamedTuple):
    """The parameters of a teacher that are read."""

    params: dict[str, Any]
    """Arrays on the mesh; {} without a teacher."""
    sha256: str | None
    """The hash of the parameters; None without a teacher."""


def open_teacher(path: str, manifests: Sequence[Manifest]) -> Pretrained:
    """Opens the model that a run compresses, without its weights.

    Args:
        path: a directory, a run or a name on the hub.
        manifests: those of the shards of every phase. They have the same tokenizer.

    Raises:
        UserError: there is no BERT at the path, or it can't read the shards.
    """
    model = open_pretrained(path)
    shape = model.bert_config("`teacher`")
    if model.tokenizer.sha256 != manifests[0].tokenizer_sha256:
        raise UserError(
            f"`teacher`: {path} has another vocabulary than the shards, so that the same ids are "
            "other tokens: prepare the text with the vocabulary of the teacher."
        )
    longest = max(manifest.max_seq_length for manifest in manifests)
    if longest > shape.max_position_embeddings:
        raise UserError(
            f"`teacher`: {path} has {shape.max_position_embeddings} positions, and the shards have "
            f"rows of {longest} tokens: prepare the data with a smaller `max_seq_length`."
        )
    if any(each.segment_kind.is_pair for each in manifests) and shape.type_vocab_size < 2:
        raise UserError(
            f"`teacher`: {path} has one token type, and the shards have pairs of segments: prepare "
            "single ones (`segments`)."
        )
    return model


def read_teacher(model: Pretrained | None, objective: Objective, mesh: Mesh) -> Teacher:
    """Reads those parameters of a teacher that an objective reads, and places them on a mesh."""
    if model is None:
        return Teacher({}, None)
    params = named(model.params)
    read = nested({name: np.asarray(params[name]) for name in named(objective.teacher_shapes())})
    placed = jax.device_put(read, sharding.param_shardings(mesh, read))
    return Teacher(placed, weights_hash(read))

"""Checks the arguments of the public functions on arrays when they are called or traced."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from bertjax.config import BertConfig

_LIKE_IDS = ("attention_mask", "token_type_ids", "position_ids", "segment_ids")
_OTHERS = ("cls_positions", "encoder_hidden_states", "encoder_attention_mask")
NAMES = ("input_ids", *_LIKE_IDS, *_OTHERS)
"""The arrays that a model reads."""


def check(params: Any, inputs: Any, config: BertConfig, rank: int = 2) -> None:
    """Raises `ValueError` unless the inputs have the names, shapes and types of a model's.

    `rank` is that of input_ids. Outside of a trace, ids must be in the vocabulary.
    """
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise ValueError(f"inputs is of the type {kind}: give a dict with input_ids [B, T].")
    if isinstance(params, Mapping) and "input_ids" in params:
        raise ValueError("params and inputs are swapped: give params first, then inputs.")
    if not isinstance(params, Mapping) or "embeddings" not in params:
        raise ValueError("params has no subtree embeddings: give parameters as from init_params.")
    for name in inputs:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.8)
        if name not in NAMES and near and near[0] not in inputs:
            raise ValueError(f"inputs has {name!r}, which nothing reads: did you mean {near[0]!r}?")
    if "input_ids" not in inputs:
        raise ValueError(f"inputs has no input_ids, only {', '.join(map(repr, inputs))}.")
    ids = inputs["input_ids"]
    for name in ("input_ids", *_LIKE_IDS):
        if (array := inputs.get(name)) is not None:
            _check_array(name, array, ids, rank)
    is_here = not isinstance(ids, jax.core.Tracer) and getattr(ids, "is_fully_addressable", True)
    values = np.asarray(ids if is_here and ids.size else 0)  # not traced, as jax.numpy would be
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"input_ids has ids from {low} to {high}, and the vocabulary {config.vocab_size} "
            "tokens: use the model's own tokenizer."
        )
    _refuse_explicit(ids)


def _check_array(name: str, array: Any, ids: Any, rank: int) -> None:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        kind = type(array).__name__
        raise ValueError(
            f"{name} is of the type {kind}: give an array, as jax.numpy.asarray makes."
        )
    if name == "input_ids" and array.ndim != rank:
        shape = "[B, C, T]" if rank == 3 else "[B, T]"
        raise ValueError(f"input_ids has the shape {array.shape}: give {shape}, rows of tokens.")
    rows, *rest = ids.shape
    shapes = [[*rest], [*rest, rest[-1]]] if name == "attention_mask" else [[*rest]]
    first, *others = array.shape
    if first not in (1, rows) or others not in shapes:
        raise ValueError(f"{name} has the shape {array.shape} and input_ids {ids.shape}.")
    if name != "attention_mask" and not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} has the type {array.dtype}: give integers, such as int32.")


def _refuse_explicit(array: Any) -> None:
    """Refuses arrays that are split over axes of a mesh whose sharding is part of their type."""
    typeof = getattr(jax, "typeof", None)
    sharding = None if typeof is None else getattr(typeof(array), "sharding", None)
    if sharding is None or all(axes is None for axes in sharding.spec):
        return
    if jax.sharding.AxisType.Explicit in sharding.mesh.axis_types:
        raise ValueError(
            "The inputs lie on a mesh with Explicit axes, the default of jax.make_mesh: make it "
            "with axis_types=(jax.sharding.AxisType.Auto,) * number of axes."
        )

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
_OF_DECODERS = ("encoder_hidden_states", "encoder_attention_mask")
# Other keys of the tokenizers of transformers, and of its data collators.
_NOT_READ = ("label", "labels", "length", "num_truncated_tokens", "offset_mapping")
_NOT_READ += ("overflow_to_sample_mapping", "overflowing_tokens", "special_tokens_mask")
_OF_BATCHES = ("example_weight", "masked_positions")  # tell a training batch


def check(
    params: Any, inputs: Any, config: BertConfig, *, rank: int = 2, is_decoder: bool = False
) -> None:
    """Raises `ValueError` unless the inputs have the names, shapes and types of a model's.

    Besides what the model reads, inputs may have the keys of transformers' tokenizers, and training
    batches their labels. `rank` is that of input_ids. `is_decoder` says whether the model reads an
    encoder's output. Outside of a trace, ids must be in their tables.
    """
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise ValueError(f"inputs is of the type {kind}: give a dict with input_ids [B, T].")
    if isinstance(params, Mapping) and "input_ids" in params:
        raise ValueError("params and inputs are swapped: give params first, then inputs.")
    if not isinstance(params, Mapping) or "embeddings" not in params:
        raise ValueError("params has no subtree embeddings: give parameters as from init_params.")
    if "input_ids" not in inputs:
        raise ValueError(f"inputs has no input_ids, only {', '.join(map(repr, inputs))}.")
    others = _OF_DECODERS if not is_decoder else ()
    is_batch = any(name in inputs for name in _OF_BATCHES)
    for name in model_inputs(inputs) if is_batch else inputs:
        if name in others or name not in (*NAMES, *_NOT_READ):
            meant = _meant(name, inputs)
            advice = f"did you mean {meant!r}?" if meant else "leave it out."
            raise ValueError(f"inputs has {name!r}, which the model does not read: {advice}")
    ids = inputs["input_ids"]
    for name in ("input_ids", *_LIKE_IDS):
        if (array := inputs.get(name)) is not None:
            _check_array(name, array, ids, rank)
    tables = {
        "input_ids": (config.vocab_size, "tokens: use the model's own tokenizer"),
        "token_type_ids": (config.type_vocab_size, "token types (type_vocab_size)"),
        "position_ids": (config.max_position_embeddings, "positions: give shorter rows"),
    }
    if not config.type_vocab_size:
        del tables["token_type_ids"]
    for name, (size, words) in tables.items():
        if inputs.get(name) is not None:
            check_ids(name, inputs[name], size, f"the model has {size} {words}")
    _refuse_explicit(ids)


def check_ids(name: str, ids: Any, size: int, reason: str, where: Any = True) -> None:
    """Raises `ValueError` for an id outside [0, size), unless the ids are being traced.

    JAX clamps such an index or reads NaN. `where`, as wide as the ids, says which of them are used.
    """
    arrays = (ids, where)
    if any(isinstance(each, jax.core.Tracer) for each in arrays) or not all(
        getattr(each, "is_fully_addressable", True) for each in arrays
    ):
        return
    values = np.asarray(ids)  # jax.numpy would trace it
    wrong = ((values < 0) | (values >= size)) & (np.asarray(where) != 0)
    if wrong.any():
        place = [int(index) for index in np.argwhere(wrong)[0]]
        raise ValueError(f"{name}{place} is {values[tuple(place)]}, but {reason}.")


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a model reads of a training batch; misspelt names stay, and `check` refuses."""
    return {name: batch[name] for name in batch if name in NAMES or _meant(name, batch)}


def _meant(name: str, inputs: Mapping[str, Any]) -> str | None:
    """Returns the name of an array that this name resembles and that is not there."""
    near = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.8)
    return near[0] if near and near[0] not in inputs else None


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

"""Reads the weight files (flax_model.msgpack) of Hugging Face's former Flax BERT.

Arrays are entries of an extension type of MessagePack, whose bytes are another MessagePack. Source
of the layout: `flax/serialization.py` (`_ndarray_to_bytes`, `_chunk`). That module's own reader is
not used, because it creates any dtype that a file names and any number of maps.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import damaged

_ARRAY = 1  # the extension type
_CHUNKED = "__msgpack_chunked_array__"
_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32")
_DTYPES = {name.encode(): jnp.dtype(name) for name in _TYPES}
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
# A BERT with 24 layers has 600 entries. An empty map takes a byte of the file and 64 of memory.
_MAX_ENTRIES = 100_000
_MAX_AXES = 32


def read_flax(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a Flax model under PyTorch's names, with PyTorch's layout of matrices.

    Raises `UserError` with the path if the file is damaged or is not a tree of arrays.
    """
    count = 0

    def checked(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        nonlocal count
        count += len(pairs) + 1
        if count > _MAX_ENTRIES:
            damaged(path, f"it has more than {_MAX_ENTRIES:,} entries")
        return dict(pairs)

    try:
        tree = msgpack.unpackb(
            data,
            ext_hook=lambda code, content: _array(code, content, path),
            object_pairs_hook=checked,
            max_array_len=0,  # Flax writes lists as maps
            max_map_len=_MAX_ENTRIES,
        )
    except UserError:  # a ValueError, but of this module
        raise
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        damaged(path, str(error) or type(error).__name__)
    tensors = {}
    for (*module, leaf), array in _leaves(tree, (), path):
        name = ".".join((*module, _LEAVES.get(leaf, leaf)))
        if name in tensors:
            damaged(path, f"it holds {name:.200} twice")
        tensors[name] = array.T if leaf == "kernel" else array
    return tensors


def _array(code: int, content: bytes, path: epath.Path) -> np.ndarray:
    if code != _ARRAY:
        damaged(path, f"it holds an entry of MessagePack's type {code}")
    # Shape, dtype and bytes. The caller handles errors of MessagePack.
    parts = msgpack.unpackb(content, raw=True, max_array_len=_MAX_AXES, max_map_len=0)
    if not isinstance(parts, list) or len(parts) != 3:
        damaged(path, "an array does not have shape, type and numbers")
    shape, dtype, numbers = parts
    if not isinstance(dtype, bytes) or dtype not in _DTYPES or not isinstance(numbers, bytes):
        damaged(path, f"an array has the type {dtype!r:.40}, which no weights have")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        damaged(path, "an array has no shape")
    return _reshaped(np.frombuffer(numbers, _DTYPES[dtype]), shape, path)


def _reshaped(array: np.ndarray, shape: list[int], path: epath.Path) -> np.ndarray:
    if len(shape) > _MAX_AXES:
        damaged(path, f"an array has {len(shape)} axes")
    if min(shape, default=0) >= 0 and math.prod(shape) == array.size:
        with contextlib.suppress(ValueError, OverflowError):  # e.g. [0, 2**63 - 1]
            return array.reshape(shape)
    damaged(path, f"an array of {array.size:,} numbers can't have the shape {shape}")


def _leaves(
    tree: Any, names: tuple[str, ...], path: epath.Path
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields the path and the array of each leaf; MessagePack limits the depth of the tree."""
    if isinstance(tree, np.ndarray) and names:
        yield names, tree
    elif not isinstance(tree, dict) or (_CHUNKED in tree and not names):
        damaged(path, f"{'/'.join(names) or 'the file'} is neither an array nor a tree of arrays")
    elif _CHUNKED in tree:
        yield names, _joined(tree, path)
    else:
        for name, branch in tree.items():
            if not isinstance(name, str):
                damaged(path, "a name in it is not text")
            yield from _leaves(branch, (*names, name), path)


def _joined(tree: dict[str, Any], path: epath.Path) -> np.ndarray:
    """Joins an array of more than 1 GiB, which Flax writes in flat chunks."""
    shape, chunks = (tree.get(name) for name in ("shape", "chunks"))
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        damaged(path, "a chunked array has no shape or no chunks")
    pieces: list[Any] = [chunks.get(str(index)) for index in range(len(chunks))]
    sizes: list[Any] = [shape.get(str(axis)) for axis in range(len(shape))]
    if not all(isinstance(piece, np.ndarray) and piece.ndim == 1 for piece in pieces):
        damaged(path, "a chunk of an array is missing")
    if not all(type(size) is int for size in sizes) or len({p.dtype for p in pieces}) > 1:
        damaged(path, "a chunked array has no shape or several types")
    return _reshaped(np.concatenate(pieces), sizes, path)

"""Finds the weights in a model directory and reads their tensors by name.

For every file format, the tensors have the names and the layouts of PyTorch's `transformers`.
`bertjax.interop.tensors` converts them to parameters.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.files import check_downloaded, damaged, is_local, reading
from bertjax.interop.flax_files import read_flax
from bertjax.interop.torch_files import read_torch

PAYLOAD_HASH = "bertjax_sha256"
"""Key of the hash of the weights in a safetensors file's metadata."""

WEIGHTS = "model.safetensors"
FLAX_WEIGHTS = "flax_model.msgpack"
TORCH_WEIGHTS = "pytorch_model.bin"
HEAD_WEIGHTS = "bertjax_head.safetensors"
"""File of a head for which Hugging Face has no class, beside the weights of its encoder."""
# In order of preference: damage is detected best in safetensors, worst in pickles.
FILES = (
    *(WEIGHTS, f"{WEIGHTS}.index.json", FLAX_WEIGHTS),
    *(TORCH_WEIGHTS, f"{TORCH_WEIGHTS}.index.json"),
)
"""Names of weight files; the first of these that exists is read."""

# Files are read into memory. BERT-large has 1.3 GB; models of six times that size still fit.
_MAX_SIZE = 8 << 30
# BERT-large has 400. An empty tensor takes a hundred bytes of a file and a millisecond.
MAX_TENSORS = 20_000
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
_INTEGERS = {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8}
_DTYPES: dict[str, Any] = {**_FLOATS, **_INTEGERS, "U8": np.uint8, "BOOL": np.bool_}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Tensors by their names in a file, and the file of each tensor."""

    path: epath.Path
    """The file, or the index of several files."""
    tensors: dict[str, np.ndarray]
    """Arrays of any numeric type, by PyTorch's names as the file has them."""
    shards: dict[str, epath.Path] = dataclasses.field(default_factory=dict)
    """The file of each tensor, if there are several files."""

    def where(self, name: str) -> epath.Path:
        """Returns the file of a tensor; for a tensor that the index does not list, the index."""
        return self.shards.get(name, self.path)

    def renamed(self, pairs: Iterable[tuple[str, str]]) -> "Weights":
        """Renames tensors by pairs (new, old); refuses two different tensors with one new name."""
        names: dict[str, str] = {}
        for new, old in pairs:
            if (other := names.setdefault(new, old)) != old and not self._equal(other, old):
                both = " and ".join(sorted((other, old)))  # safetensors has no fixed order
                reason = f"the tensors {both} stand for the same parameter and differ"
                raise UserError(f"{self.where(old)}: {reason}; export or download the model again.")
        tensors = {new: self.tensors[old] for new, old in names.items()}
        shards = {new: self.shards[old] for new, old in names.items() if old in self.shards}
        return Weights(self.path, tensors, shards)

    def _equal(self, name: str, other: str) -> bool:
        a, b = self.tensors[name], self.tensors[other]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def find_weights(directory: epath.Path) -> epath.Path | None:
    """Returns the weight file of a directory, the first of `FILES`; None if there is none."""
    return next((directory / name for name in FILES if (directory / name).is_file()), None)


def read_weights(path: epath.Path) -> Weights:
    """Reads .safetensors, .msgpack, a .bin of PyTorch, or the files that an .index.json names.

    Raises:
        UserError: a file is damaged, is too large, or holds more than tensors; a shard is missing,
            lies in another directory or lacks a tensor.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    return Weights(path, _read_file(path))


def stored_shapes(path: epath.Path) -> dict[str, tuple[int, ...]] | None:
    """Returns the shapes of the tensors in a local safetensors file, whose tensors are not read.

    None for other files and damaged ones, about which `read_weights` has a sentence.
    """
    if not (is_local(path) and path.name.endswith(".safetensors")):
        return None
    try:
        with safetensors.safe_open(str(path), "numpy") as file:
            names = file.keys()
            if len(names) > MAX_TENSORS:
                return None
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (safetensors.SafetensorError, OSError):
        return None


def _read_file(path: epath.Path) -> dict[str, np.ndarray]:
    with reading(path):
        _check_size(path, path.stat().length)
        data = path.read_bytes()
    check_downloaded(data, path)
    if path.name.endswith(".safetensors"):
        return _read_safetensors(data, path)
    if path.name.endswith(".msgpack"):
        return read_flax(data, path)
    return read_torch(data, path)


def _check_size(path: epath.Path, size: int) -> None:
    if size > _MAX_SIZE:
        reason = f"has {size:,} bytes of weights, and the maximum is {_MAX_SIZE:,}"
        raise UserError(f"{path}: {reason}; keep only the weights of the BERT.")


def _read_shards(index: epath.Path) -> Weights:
    """Reads the tensors that an index lists, each from the shard that it names."""
    shard_names = read_json_object(index).get("weight_map")
    if not isinstance(shard_names, dict) or not shard_names:
        raise UserError(f"{index}: has no weight_map; export or download the model again.")
    suffix = ".safetensors" if index.name.startswith(WEIGHTS) else ".bin"
    by_shard: dict[epath.Path, list[str]] = {}
    for name, shard in shard_names.items():
        # Only a file name is accepted, because a path could lead out of the directory.
        if not isinstance(shard, str) or not re.fullmatch(rf"\w[\w.-]*\{suffix}", shard):
            raise UserError(
                f"{index}: names the shard {shard!r:.100} for {name}, but only *{suffix} files "
                "beside the index are read; export or download the model again."
            )
        by_shard.setdefault(index.parent / shard, []).append(name)
    for path, names in by_shard.items():
        if not path.is_file():
            reason = f"no such file, but {index.name} names it for the tensor {names[0]}"
            raise UserError(f"{path}: {reason}; download it too.")
    _check_size(index, sum(path.stat().length for path in by_shard))
    tensors: dict[str, np.ndarray] = {}
    shards: dict[str, epath.Path] = {}
    for path, names in by_shard.items():
        found = _read_file(path)
        if absent := [name for name in names if name not in found]:
            reason = f"lacks the tensor {absent[0]}, which {index.name} lists there"
            raise UserError(f"{path}: {reason}; export or download the model again.")
        tensors |= {name: found[name] for name in names}
        shards |= dict.fromkeys(names, path)
    return Weights(index, tensors, shards)


def _read_safetensors(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
    begin = 8 + int.from_bytes(data[:8], "little")
    if data.count(b'"dtype"', 8, begin) > MAX_TENSORS:
        damaged(path, f"it has more than {MAX_TENSORS:,} tensors")
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        damaged(path, _cut_off(data) or error)
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            reason = f"the tensor {name} has the type {entry['dtype']}"
            raise UserError(f"{path}: {reason}; only floating-point weights can be read.")
        array = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
        try:
            tensors[name] = array.reshape(entry["shape"])
        except (ValueError, OverflowError):  # too many axes, or [0, 2**64 - 1]
            damaged(path, f"the tensor {name} has an impossible shape")
    written = (safetensors_header(data)[0].get("__metadata__") or {}).get(PAYLOAD_HASH)
    if written is not None and written != payload_hash(tensors):
        damaged(path, "the weights are not those that were written")
    return tensors


def safetensors_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Returns the JSON header of a safetensors file, and the position of the tensors behind it."""
    begin = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:begin]), begin


def _cut_off(data: bytes) -> str | None:
    """Names the first tensor that a truncated file lacks; None if the file is not truncated."""
    try:
        header, begin = safetensors_header(data)
        header.pop("__metadata__", None)
        ends = {name: begin + entry["data_offsets"][1] for name, entry in header.items()}
        end, name = min((end, name) for name, end in ends.items() if end > len(data))
        shape = header[name]["shape"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return None  # the header itself is damaged, or no tensor is lacking
    return f"cut off at byte {len(data):,}: the tensor {name} {shape} ends at {end:,}"


def payload_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of all tensors in order of name; safetensors itself has no checksum."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def some(names: Sequence[str]) -> str:
    """Joins the first names, and says how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:200] for name in names[:5]) + more

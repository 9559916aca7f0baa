"""Reads PyTorch's weight files (pytorch_model.bin) without unpickling them.

`torch.save` pickles a state dict and stores the numbers beside the pickle, which `torch_pickle`
interprets. Source of the layouts: `torch/serialization.py` (`_save`, `_legacy_save`).
"""

import io
import math
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from bertjax.files import damaged
from bertjax.interop.torch_pickle import Machine, Storage, Tensor, refuse

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict that `torch.save` wrote, as read-only views of the file.

    Raises `UserError` with the path if the file is damaged or its pickle has more than tensors.
    """
    layout = _read_zip if data.startswith(_ZIP_MAGIC) else _read_legacy
    state_dict, storages = layout(data, path)
    if not isinstance(state_dict, dict):
        damaged(path, "holds no state dict")
    tensors = {}
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            refuse(path, f"an entry {name!r:.100} that is not a plain tensor")
        tensors[name] = _array(tensor, storages, name, path)
    return tensors


def _read_zip(data: bytes, path: epath.Path) -> tuple[Any, dict[str, memoryview]]:
    """Reads the format since torch 1.6: an uncompressed archive of data.pkl and the storages."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError) as error:
        damaged(path, str(error))
    if sum(info.file_size for info in entries.values()) > len(data):
        damaged(path, "its entries overlap or are compressed")
    programs = [name for name in entries if name.split("/")[-1] == "data.pkl"]
    if len(programs) != 1:
        damaged(path, f"{len(programs)} entries are named data.pkl")
    root, view = programs[0].removesuffix("data.pkl"), memoryview(data)
    if (order := entries.get(f"{root}byteorder")) and _entry(view, order, path) != b"little":
        refuse(path, "big-endian numbers")
    machine = Machine(_entry(view, entries[programs[0]], path), path)
    state_dict = machine.run()
    found = {key: entries.get(f"{root}data/{key}") for key in machine.storages}
    return state_dict, {key: _entry(view, info, path) for key, info in found.items() if info}


def _entry(view: memoryview, info: zipfile.ZipInfo, path: epath.Path) -> memoryview:
    """Returns a view of the bytes of an uncompressed entry, whose CRC-32 is checked."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        damaged(path, f"{info.filename} is compressed or encrypted")
    head = view[info.header_offset : info.header_offset + 30]
    if len(head) < 30 or head[:4] != _ZIP_MAGIC:
        damaged(path, f"{info.filename} has no header")
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))  # a name and extras
    content = view[begin : begin + info.file_size]
    if len(content) < info.file_size:
        damaged(path, f"cut off: {info.filename} ends after byte {len(view):,}")
    if zlib.crc32(content) != info.CRC:
        damaged(path, f"{info.filename} fails its CRC-32")
    return content


def _read_legacy(data: bytes, path: epath.Path) -> tuple[Any, dict[str, memoryview]]:
    """Reads the format before torch 1.6: five pickles, then the storages that the last lists."""
    view, results, at = memoryview(data), [], 0
    storages: dict[str, Storage] = {}
    for _ in range(5):  # magic number, version, system, state dict, keys of the storages
        machine = Machine(view[at:], path)
        results.append(machine.run())
        if results[0] != _LEGACY_MAGIC:
            damaged(path, "it doesn't begin like a file of PyTorch")
        storages |= machine.storages
        at += machine.position
    system, state_dict, keys = results[2:]
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        refuse(path, "big-endian numbers")
    contents: dict[str, memoryview] = {}
    for key in keys if isinstance(keys, list) else ():
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            damaged(path, "it lists a storage that no tensor uses")
        end = at + 8 + storage.size * storage.dtype.itemsize
        if end > len(view):
            damaged(path, f"cut off at byte {len(view):,}: the storage {key:.50} ends at {end:,}")
        if int.from_bytes(view[at : at + 8], "little") != storage.size:
            damaged(path, f"the storage {key:.50} does not have the size that its tensors state")
        contents[key] = view[at + 8 : end]
        at = end
    return state_dict, contents


def _array(
    tensor: Tensor, storages: dict[str, memoryview], name: str, path: epath.Path
) -> np.ndarray:
    storage = tensor.storage
    content = storages.get(storage.key)
    if content is None:
        damaged(path, f"the storage {storage.key:.50} of the tensor {name:.200} is missing")
    if len(content) != storage.size * storage.dtype.itemsize:
        damaged(path, f"the storage of the tensor {name:.200} holds {len(content):,} bytes")
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, storage.dtype)
    # `torch_pickle` has checked that the view is within bounds.
    strides = [stride * storage.dtype.itemsize for stride in tensor.strides]
    flat = np.frombuffer(content, storage.dtype)[tensor.offset :]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

"""Interprets the pickles in PyTorch's files without unpickling them.

A pickle is a program for a stack machine that can import and call anything. This module interprets
only the opcodes that torch writes for a state dict. A call records the layout of a tensor; every
other opcode or name is refused. A program can therefore describe tensors and do nothing else.
Sources: `Lib/pickletools.py` of CPython; `torch/_tensor.py` (`__reduce_ex__`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import damaged

_FLOATS = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
_INTEGERS = {"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"}
_TYPES = {**_FLOATS, **_INTEGERS, "Bool": "bool"}
_STORAGES = {f"torch.{kind}Storage": jnp.dtype(name) for kind, name in _TYPES.items()}
# The state dict of the largest BERT is a program of 0.1 MiB. An opcode of one byte allocates at
# most an empty dict of 64 bytes.
_MAX_PROGRAM = 1 << 20
_MAX_AXES = 32
_MAX_EMPTY = 1 << 40  # product of the nonzero axes of a tensor without elements


class _Name(NamedTuple):
    """A name that a pickle would import, which is one of `_STORAGES` or `_CALLS`."""

    name: str


class Storage(NamedTuple):
    """A buffer of numbers beside the pickle."""

    key: str
    dtype: np.dtype
    size: int  # in elements


class Tensor(NamedTuple):
    """A view within the bounds of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def refuse(path: epath.Path, what: str) -> NoReturn:
    """Raises UserError for a pickle that contains more than plain tensors."""
    raise UserError(
        f"{path}: this pickle contains {what}, but only plain tensors are read from pickles; if "
        "you trust it, convert it to model.safetensors with PyTorch (from_pretrained, then "
        "save_pretrained of transformers)."
    )


class Machine:
    """Runs one pickle on a stack of plain values, names, storages and tensors.

    Values are never hashed, compared, printed or traversed as a whole, because a few bytes can nest
    them without limit.
    """

    def __init__(self, program: memoryview, path: epath.Path) -> None:
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self._program = program[: _MAX_PROGRAM + 1]
        self._path = path
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Returns the pickle's value and moves `position` to the pickle's end.

        Raises `UserError` for an opcode, a name or an argument that plain tensors don't need.
        """
        try:
            while (opcode := self._take(1)) != b".":
                if opcode not in _OPERATIONS:
                    refuse(self._path, f"the opcode {opcode!r}")
                _OPERATIONS[opcode](self)
            return self._stack.pop()
        except (IndexError, KeyError):  # of the stack, the marks or the memo
            damaged(self._path, "its pickle reads a value that it never stored")
        except UnicodeDecodeError:
            damaged(self._path, "a name in its pickle is not UTF-8")

    def _take(self, size: int) -> bytes:
        """Returns the next bytes of the program."""
        end = self.position + size
        if end > _MAX_PROGRAM:
            refuse(self._path, f"more than {_MAX_PROGRAM:,} bytes besides the numbers")
        if end > len(self._program):
            damaged(self._path, "its pickle is cut off")
        taken = bytes(self._program[self.position : end])
        self.position = end
        return taken

    def _take_int(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _take_text(self, size: int) -> str:
        return self._take(size).decode()

    def _take_line(self) -> str:
        end = bytes(self._program[self.position : self.position + 200]).find(b"\n")
        if end < 0:
            damaged(self._path, "a name in its pickle has no end")
        return self._take_text(end + 1)[:-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_several(self, count: int) -> tuple[Any, ...]:
        return tuple(self._stack.pop() for _ in range(count))[::-1]

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            damaged(self._path, f"its pickle fills a {kind.__name__} of another type")
        return self._stack[-1]

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _memorize(self, size: int) -> None:
        self._memo[self._take_int(size)] = self._stack[-1]

    def _append(self, items: Sequence[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, items: Sequence[Any]) -> None:
        target, keys = self._top(dict), items[::2]
        # Hashing a nested tuple could take unbounded time.
        if len(items) % 2 or not all(type(key) in (str, int) for key in keys):
            refuse(self._path, "a dict with keys that are not names")
        target.update(zip(keys, items[1::2], strict=True))

    def _drop_attributes(self) -> None:
        """Drops an OrderedDict's attributes, where torch keeps versions of modules."""
        self._stack.pop()
        self._top(dict)

    def _push_name(self) -> None:
        name = f"{self._take_line()}.{self._take_line()}"
        if name not in _STORAGES and name not in _CALLS:
            refuse(self._path, f"{name!r:.100}")
        self._push(_Name(name))

    def _push_storage(self) -> None:
        """Reads ("storage", type, key, device, size in elements, None in older files)."""
        reference = self._stack.pop()
        if type(reference) is not tuple or len(reference) not in (5, 6):
            refuse(self._path, "a reference that is not a storage")
        word, kind, key, _, size, *views = reference
        if word != "storage" or type(kind) is not _Name or type(key) is not str:
            refuse(self._path, "a reference that is not a storage")
        if kind.name not in _STORAGES or not _is_size(size) or views not in ([], [None]):
            refuse(self._path, "a storage of an unknown type")
        storage = Storage(key, _STORAGES[kind.name], size)
        if self.storages.setdefault(key, storage) != storage:
            damaged(self._path, f"the storage {key:.50} has two types")
        self._push(storage)

    def _call(self) -> None:
        callee, arguments = self._pop_several(2)
        if type(callee) is not _Name or callee.name not in _CALLS or type(arguments) is not tuple:
            refuse(self._path, "a call")
        counts, function = _CALLS[callee.name]
        if len(arguments) not in counts:
            refuse(self._path, f"{callee.name} with {len(arguments)} arguments")
        self._push(function(self._path, *arguments))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _rebuilt(
    path: epath.Path, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    """Does what `torch._utils._rebuild_tensor_v2` does, for views within the storage's bounds."""
    sizes = (offset, *shape, *strides) if type(shape) is type(strides) is tuple else (None,)
    if type(storage) is not Storage or not all(map(_is_size, sizes)):
        damaged(path, "a tensor in its pickle has no storage or no shape")
    if len(shape) != len(strides) or len(shape) > _MAX_AXES:
        damaged(path, "a tensor in its pickle has more or fewer strides than axes")
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    reaches = count and (count > storage.size or last >= storage.size)
    if reaches or math.prod(max(size, 1) for size in shape) > max(storage.size, _MAX_EMPTY):
        damaged(path, f"a tensor {list(shape)} in its pickle reaches beyond its storage's end")
    return Tensor(storage, offset, shape, strides)


def _parameter(path: epath.Path, tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        damaged(path, "a parameter in its pickle is not a tensor")
    return tensor


_CALLS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "collections.OrderedDict": ((0,), lambda _: {}),
    "torch._utils._rebuild_tensor": ((4,), _rebuilt),
    "torch._utils._rebuild_tensor_v2": ((6, 7), _rebuilt),
    "torch._utils._rebuild_parameter": ((3,), _parameter),
}

_OPERATIONS: dict[bytes, Callable[[Machine], object]] = {
    b"\x80": lambda machine: machine._take(1),  # the protocol's number
    b"(": Machine._mark,
    b"}": lambda machine: machine._push({}),
    b"]": lambda machine: machine._push([]),
    b")": lambda machine: machine._push(()),
    b"N": lambda machine: machine._push(None),
    b"\x88": lambda machine: machine._push(True),
    b"\x89": lambda machine: machine._push(False),
    b"K": lambda machine: machine._push(machine._take_int(1)),
    b"M": lambda machine: machine._push(machine._take_int(2)),
    b"J": lambda machine: machine._push(machine._take_int(4, signed=True)),
    b"\x8a": lambda machine: machine._push(machine._take_int(machine._take_int(1), signed=True)),
    b"X": lambda machine: machine._push(machine._take_text(machine._take_int(4))),
    b"\x8c": lambda machine: machine._push(machine._take_text(machine._take_int(1))),
    b"\x85": lambda machine: machine._push(machine._pop_several(1)),
    b"\x86": lambda machine: machine._push(machine._pop_several(2)),
    b"\x87": lambda machine: machine._push(machine._pop_several(3)),
    b"t": lambda machine: machine._push(tuple(machine._pop_to_mark())),
    b"q": lambda machine: machine._memorize(1),
    b"r": lambda machine: machine._memorize(4),
    b"h": lambda machine: machine._push(machine._memo[machine._take_int(1)]),
    b"j": lambda machine: machine._push(machine._memo[machine._take_int(4)]),
    b"a": lambda machine: machine._append(machine._pop_several(1)),
    b"e": lambda machine: machine._append(machine._pop_to_mark()),
    b"s": lambda machine: machine._set_items(machine._pop_several(2)),
    b"u": lambda machine: machine._set_items(machine._pop_to_mark()),
    b"b": Machine._drop_attributes,
    b"c": Machine._push_name,
    b"Q": Machine._push_storage,
    b"R": Machine._call,
}

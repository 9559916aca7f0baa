"""The pickles inside PyTorch's files, interpreted without unpickling anything.

A pickle is a program for a stack machine, which may import and call anything. Here the opcodes that
torch writes for a state dict are interpreted one by one: a call only notes what a tensor looks
like, and every other opcode or name is refused. So a program can describe tensors and nothing else.
Opcodes: `Lib/pickletools.py` of CPython; what torch writes: `torch/_tensor.py` (`__reduce_ex__`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from etils import epath

from bertjax.errors import UserError

_STORAGES: dict[str, Any] = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": jnp.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
# An opcode is a byte or more and makes at most an empty dict of 64 bytes. The largest BERT's state
# dict is a program of 0.1 MiB.
_LARGEST_PROGRAM = 1 << 20
_MOST_AXES = 32
_LARGEST_EMPTY = 1 << 40  # product of the other axes of a tensor of no elements


class _Name(NamedTuple):
    """What a pickle would import."""

    name: str


class Storage(NamedTuple):
    """Numbers beside the pickle."""

    key: str
    dtype: np.dtype
    size: int  # in elements


class Tensor(NamedTuple):
    """A view of a storage, all of it inside; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def damaged(path: epath.Path, reason: str) -> NoReturn:
    """Raises UserError: the file is not whole, or not as torch writes it."""
    raise UserError(f"{path}: damaged ({reason}); export or download the model again.") from None


def refuse(path: epath.Path, what: str) -> NoReturn:
    """Raises UserError: the pickle wants what no file of plain tensors needs."""
    raise UserError(
        f"{path}: this pickle wants {what}, and only plain tensors are read from one; if you trust "
        "it, convert it to model.safetensors where PyTorch is (from_pretrained, then "
        "save_pretrained of transformers)."
    )


class Machine:
    """Runs one pickle, up to its end, on a stack of plain values, names, storages and tensors.

    Values are never hashed, compared, shown or walked through as a whole: a few bytes can nest them
    deeper than time or memory lasts.
    """

    def __init__(self, program: memoryview, path: epath.Path) -> None:
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self._program = program[: _LARGEST_PROGRAM + 1]
        self._path = path
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the pickle makes; `position` is then at its end.

        Raises:
            UserError: an opcode, a name or an argument is none that plain tensors need.
        """
        while (opcode := self._take(1)) != b".":
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                refuse(self._path, f"the opcode {opcode!r}")
            operation(self)
        return self._pop()

    def _take(self, size: int) -> bytes:
        """The next bytes of the program."""
        end = self.position + size
        if end > _LARGEST_PROGRAM:
            refuse(self._path, f"more than {_LARGEST_PROGRAM:,} bytes beside the numbers")
        if end > len(self._program):
            damaged(self._path, "its pickle is cut off")
        taken = bytes(self._program[self.position : end])
        self.position = end
        return taken

    def _take_int(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _take_text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            damaged(self._path, "a name in its pickle is not UTF-8")

    def _take_line(self) -> str:
        end = bytes(self._program[self.position : self.position + 200]).find(b"\n")
        if end < 0:
            damaged(self._path, "a name in its pickle has no end")
        return self._take_text(end + 1)[:-1]

    def _skip_protocol(self) -> None:
        self._take(1)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            damaged(self._path, "its pickle takes what it never made")
        return self._stack.pop()

    def _pop_several(self, count: int) -> tuple[Any, ...]:
        return tuple(self._pop() for _ in range(count))[::-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self._below:
            damaged(self._path, "its pickle takes what it never made")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            damaged(self._path, f"its pickle fills a {kind.__name__} that is none")
        return self._stack[-1]

    def _push_number(self, size: int, signed: bool = False) -> None:
        self._push(self._take_int(size, signed))

    def _push_long(self) -> None:
        self._push(self._take_int(self._take_int(1), signed=True))

    def _push_text(self, size_of_size: int) -> None:
        self._push(self._take_text(self._take_int(size_of_size)))

    def _push_tuple(self, count: int) -> None:
        self._push(self._pop_several(count))

    def _push_marked_tuple(self) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _memorise(self, size: int) -> None:
        index = self._take_int(size)
        self._push(value := self._pop())
        self._memo[index] = value

    def _recall(self, size: int) -> None:
        index = self._take_int(size)
        if index not in self._memo:
            damaged(self._path, "its pickle takes what it never made")
        self._push(self._memo[index])

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _append_one(self) -> None:
        self._append([self._pop()])

    def _append_marked(self) -> None:
        self._append(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        target, keys = self._top(dict), items[::2]
        # To hash a tuple of tuples of tuples may take for ever.
        if len(items) % 2 or not all(type(key) in (str, int) for key in keys):
            refuse(self._path, "a dict with keys that are no names")
        target.update(zip(keys, items[1::2], strict=True))

    def _set_item(self) -> None:
        self._set_items(list(self._pop_several(2)))

    def _set_marked_items(self) -> None:
        self._set_items(self._pop_to_mark())

    def _drop_attributes(self) -> None:
        """An OrderedDict's attributes: torch keeps versions of modules there."""
        self._pop()
        self._top(dict)

    def _push_name(self) -> None:
        name = f"{self._take_line()}.{self._take_line()}"
        if name not in _STORAGES and name not in _CALLS:
            refuse(self._path, f"{name!r:.100}")
        self._push(_Name(name))

    def _push_storage(self) -> None:
        """The reference ("storage", type, key, device, size in elements, None in older files)."""
        reference = self._pop()
        if type(reference) is not tuple or len(reference) not in (5, 6):
            refuse(self._path, "something beside it that is no storage")
        word, kind, key, _, size, *views = reference
        if word != "storage" or type(kind) is not _Name or type(key) is not str:
            refuse(self._path, "something beside it that is no storage")
        if kind.name not in _STORAGES or not _is_size(size) or views not in ([], [None]):
            refuse(self._path, "a storage of another kind")
        storage = Storage(key, np.dtype(_STORAGES[kind.name]), size)
        if self.storages.setdefault(key, storage) != storage:
            damaged(self._path, f"the storage {key:.50} has two types")
        self._push(storage)

    def _call(self) -> None:
        callee, arguments = self._pop_several(2)
        if type(callee) is not _Name or callee.name not in _CALLS or type(arguments) is not tuple:
            refuse(self._path, "to call something")
        counts, function = _CALLS[callee.name]
        if len(arguments) not in counts:
            refuse(self._path, f"{callee.name} of {len(arguments)} arguments")
        self._push(function(self._path, *arguments))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _rebuilt(
    path: epath.Path, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; whatever it names lies inside the storage, once."""
    sizes = (offset, *shape, *strides) if type(shape) is type(strides) is tuple else (None,)
    if type(storage) is not Storage or not all(map(_is_size, sizes)):
        damaged(path, "a tensor in its pickle has no storage or no shape")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        damaged(path, "a tensor in its pickle has another number of strides than of axes")
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    reaches = count and (count > storage.size or last >= storage.size)
    if reaches or math.prod(max(size, 1) for size in shape) > max(storage.size, _LARGEST_EMPTY):
        damaged(path, f"a tensor {list(shape)} in its pickle reaches beyond its storage's end")
    return Tensor(storage, offset, shape, strides)


def _parameter(path: epath.Path, tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        damaged(path, "a parameter in its pickle is no tensor")
    return tensor


_CALLS: dict[str, tuple[tuple[int, ...], Callable[..., Any]]] = {
    "collections.OrderedDict": ((0,), lambda _: {}),
    "torch._utils._rebuild_tensor": ((4,), _rebuilt),
    "torch._utils._rebuild_tensor_v2": ((6, 7), _rebuilt),
    "torch._utils._rebuild_parameter": ((3,), _parameter),
}

_OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine._skip_protocol,
    b"(": Machine._mark,
    b"}": lambda machine: machine._push({}),
    b"]": lambda machine: machine._push([]),
    b")": lambda machine: machine._push(()),
    b"N": lambda machine: machine._push(None),
    b"\x88": lambda machine: machine._push(True),
    b"\x89": lambda machine: machine._push(False),
    b"K": lambda machine: machine._push_number(1),
    b"M": lambda machine: machine._push_number(2),
    b"J": lambda machine: machine._push_number(4, signed=True),
    b"\x8a": Machine._push_long,
    b"X": lambda machine: machine._push_text(4),
    b"\x8c": lambda machine: machine._push_text(1),
    b"\x85": lambda machine: machine._push_tuple(1),
    b"\x86": lambda machine: machine._push_tuple(2),
    b"\x87": lambda machine: machine._push_tuple(3),
    b"t": Machine._push_marked_tuple,
    b"q": lambda machine: machine._memorise(1),
    b"r": lambda machine: machine._memorise(4),
    b"h": lambda machine: machine._recall(1),
    b"j": lambda machine: machine._recall(4),
    b"a": Machine._append_one,
    b"e": Machine._append_marked,
    b"s": Machine._set_item,
    b"u": Machine._set_marked_items,
    b"b": Machine._drop_attributes,
    b"c": Machine._push_name,
    b"Q": Machine._push_storage,
    b"R": Machine._call,
}

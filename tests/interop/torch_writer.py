"""Writes files of PyTorch without PyTorch, in both formats, opcode by opcode."""

import io
import struct
import zipfile

import numpy as np

TYPES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(word):
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def number(value):
    if 0 <= value < 256:
        return b"K" + struct.pack("B", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + struct.pack("B", size) + value.to_bytes(size, "little", signed=True)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def storage(key, size, kind="FloatStorage", legacy=False):
    view = b"N" if legacy else b""
    name = f"ctorch\n{kind}\n".encode()
    return several(text("storage"), name, text(key), text("cpu"), number(size), view) + b"Q"


def tensor(reference, shape, strides, offset=0):
    arguments = (
        reference,
        number(offset),
        several(*map(number, shape)),
        several(*map(number, strides)),
        b"\x89",
        ORDERED_DICT,
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + several(*arguments) + b"R"


def pickled(value):
    return b"\x80\x02" + value + b"."


def state_dict(entries):
    """The program of a dict; `entries` are names and programs of values."""
    items = b"".join(text(name) + value for name, value in entries.items())
    return pickled(ORDERED_DICT + b"(" + items + b"u")


def plain(arrays, legacy=False):
    """The program of a state dict of these arrays, one storage each, numbered in order."""
    entries = {}
    for index, (name, array) in enumerate(arrays.items()):
        strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
        kind = TYPES[array.dtype.name]
        reference = storage(str(index), array.size, kind, legacy)
        entries[name] = tensor(reference, array.shape, strides)
    return state_dict(entries)


def zip_file(program, storages=(), compression=zipfile.ZIP_STORED, byteorder="little"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in dict(storages).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def legacy_file(program, storages=()):
    """Returns a file of the older format; `storages` is {key: (number of elements, bytes)}."""
    magic = 0x1950A86A20F9469CFC6C
    system = b"}" + text("little_endian") + b"\x88s"
    keys = b"](" + b"".join(map(text, dict(storages))) + b"e"
    head = [pickled(number(magic)), pickled(number(1001)), pickled(system), program, pickled(keys)]
    return b"".join(head) + b"".join(
        struct.pack("<q", size) + content for size, content in dict(storages).values()
    )


def save(arrays):
    """The bytes of a file of the zip format with these arrays."""
    contents = {str(index): array.tobytes() for index, array in enumerate(arrays.values())}
    return zip_file(plain(arrays), contents)


def save_legacy(arrays):
    """The bytes of a file of the older format with these arrays."""
    contents = {
        str(index): (array.size, array.tobytes()) for index, array in enumerate(arrays.values())
    }
    return legacy_file(plain(arrays, legacy=True), contents)

"""Mutations of files, and what a reader may do with one: read it, or refuse it in a sentence."""

import contextlib
import copy
import io
import json
import os
import pathlib
import random
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgpack

from bertjax import protobuf
from bertjax.errors import UserError
from bertjax.interop import tensor_bundle

SECONDS = 10
GROWTH = 1 << 30

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.5, 10**30, -(2**63), 2**31, 1e308, float("nan"), float("inf")),
    *("", "a", "\0", "\x1b[2J", "../../x", "/", "\ud800", "é" * 40, "[MASK]", "9" * 400),
    *([], {}, [[]], [None], {"": {}}, ["a", 1], [[1, 2], "a"]),
]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Returns bytes with some of them changed, cut, repeated or inserted."""
    for _ in range(rng.randint(1, 3)):
        at, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        pieces = [
            data[:at],
            data[:at] + data[end:],
            data[:end] + data[at:],
            data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:],
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data[:at]
            + rng.choice([b"\0", b"\xff\xfe", b"\r", b'"', b"[" * 9999, b"\n\n"])
            + data[at:],
            data.replace(b"\n", rng.choice([b"\r\n", b"\r", b""])),
            data.swapcase(),
        ]
        data = rng.choice(pieces)
    return data


def changed(rng: random.Random, value: Any) -> Any:
    """Returns a JSON value with values and keys in it changed, moved, dropped or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(_VALUES)
        container, key = rng.choice(places)
        match rng.randrange(5):
            case 0 | 1:
                container[key] = copy.deepcopy(rng.choice(_VALUES))
            case 2:
                del container[key]
            case 3:
                other, name = rng.choice(places)
                container[key] = copy.deepcopy(
                    other.get(name) if isinstance(other, dict) else other
                )
            case 4 if isinstance(container, dict):
                container[rng.choice(["", "x", "__proto__", "\0", str(key) * 2])] = container.pop(
                    key
                )
            case _:
                container.append(copy.deepcopy(container[key])) if isinstance(
                    container, list
                ) else None
    return value


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            yield from _places(value[key])


def mutated(rng: random.Random, data: bytes, name: str) -> bytes:
    """Mutates a file by its format: JSON, a safetensors header, a zip's members, or bytes."""
    if rng.random() < 0.35:
        return damaged(rng, data)
    if name.endswith(".json"):
        return json.dumps(changed(rng, json.loads(data))).encode()
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(rng, json.loads(lines[at]))).encode()
        return b"\n".join(lines) + b"\n"
    if name.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(changed(rng, json.loads(data[8 : 8 + size]))).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if name.endswith(".bin"):
        return _zip_changed(rng, data)
    if name.endswith(".msgpack"):
        tree = changed(rng, msgpack.unpackb(data))
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            return msgpack.packb(tree)
    return damaged(rng, data)


MARKER = "BERTJAX_TEST_MARKER"
"""The environment variable with the path of the file that `PROGRAM` makes when it is unpickled."""
PROGRAM = b'cposix\nsystem\n(X\x1c\0\0\0touch "$BERTJAX_TEST_MARKER"tR'


def _zip_changed(rng: random.Random, data: bytes) -> bytes:
    """Changes or drops members, with right checksums; a program of pickle also gets `PROGRAM`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if "data.pkl" in name] + [rng.choice(names)])
        for name in names:
            content = old.read(name)
            if name == chosen and rng.random() < 0.1:
                continue
            if name == chosen:
                at = rng.choice([2, rng.randint(0, len(content))])
                program = content[:at] + PROGRAM + content[at:]
                content = rng.choice([program, damaged(rng, content), damaged(rng, program)])
            new.writestr(name, content)
    return file.getvalue()


class _Any(int):
    """Equals every checksum."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@contextlib.contextmanager
def right_checksums() -> Iterator[None]:
    """Lets every CRC32C be right, as whoever writes a hostile file makes them."""
    with (
        mock.patch.object(protobuf, "masked_crc32c", lambda _: _Any()),
        mock.patch.object(tensor_bundle, "masked_crc32c", lambda _: _Any()),
    ):
        yield


class TooSlow(BaseException):
    """A reader took longer than `SECONDS`."""


def fault_of(read: Callable[[], Any]) -> str:
    """Calls a reader; returns what is wrong with how it ended, or "" if nothing is."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow

    before, peak = signal.signal(signal.SIGALRM, stop), _peak()
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read()
    except UserError as error:
        sentence = str(error)
        if len(sentence) > 2000:
            return f"a sentence of {len(sentence):,} characters: {sentence[:80]}"
    except TooSlow:
        return f"longer than {SECONDS} s"
    except Exception as error:  # noqa: BLE001 (that is what a fuzzer looks for)
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        assert trace is not None
        where = pathlib.Path(trace.tb_frame.f_code.co_filename).name
        return f"{type(error).__name__}: {str(error)[:160]} ({where}:{trace.tb_lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "" if _peak() - peak < GROWTH else f"growth by {(_peak() - peak) >> 20} MiB"


def _peak() -> int:
    scale = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

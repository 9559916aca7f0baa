"""Opens text files, compressed or not, as streams of their text's bytes.

All members of a compressed file are read (`cat a.gz b.gz` makes a file of two). Damage anywhere is
an error that names the line it follows; Python's own readers take a damaged second member for the
end of the file.
"""

import bz2
import contextlib
import functools
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from etils import epath

from bertjax.errors import UserError
from bertjax.files import check_downloaded, refuse_special

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

_READ_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 17
# An .xz file whose dictionary needs more memory is refused. For .zst, the library's own limit
# applies: a window of 128 MiB.
_MAX_MEMORY = 1 << 28

_NewDecoder = Callable[[], Any]


def is_compressed(path: epath.Path) -> bool:
    """Whether a file's name has one of `SUFFIXES`."""
    return path.suffix.lower() in SUFFIXES


def text_name(path: epath.Path) -> str:
    """Returns a file's name without a compression suffix."""
    return path.stem if is_compressed(path) else path.name


def open_text(path: epath.Path) -> BinaryIO:
    """Opens the text of a file for reading. The stream is seekable if the file is not compressed.

    Memory is bounded, whatever a compressed file expands to.

    Raises:
        UserError: the file cannot be opened. Reading a compressed file raises it for damage and
            truncation, named as file:line; truncation exactly between two members is undetectable.
    """
    if is_compressed(path):
        return io.BufferedReader(_Members(path, *_decoder(path), _open(path)), _BUFFER_BYTES)
    return _open(path)


class Window:
    """A seekable view of a compressed file's text. It holds everything since the last `forget`;
    seeking further back is an error."""

    def __init__(self, path: epath.Path) -> None:
        self._file = open_text(path)
        self._held = bytearray()
        self._begin = 0  # the position of the first held byte
        self._position = 0

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def forget(self, before: int) -> None:
        """Drops everything before a position."""
        while before > self._begin + len(self._held):
            self._begin += len(self._held)
            self._held = bytearray(self._file.read(min(_BUFFER_BYTES, before - self._begin)))
            if not self._held:
                return
        del self._held[: before - self._begin]
        self._begin = before

    def seek(self, position: int) -> None:
        """Sets the position of the next read."""
        if position < self._begin:
            raise ValueError(f"position {position} was forgotten: {self._begin} is the first held")
        self._position = position

    def tell(self) -> int:
        """Returns the position of the next read."""
        return self._position

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer only at the end of the text."""
        start = self._position - self._begin
        if (missing := start + size - len(self._held)) > 0:
            self._held += self._file.read(missing)
        data = bytes(self._held[start : start + size])
        self._position += len(data)
        return data


def _open(path: epath.Path) -> Any:
    refuse_special(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}).") from None
    with contextlib.ExitStack() as failed:
        failed.callback(file.close)
        if file.seekable():
            check_downloaded(file.read(64), path)
            file.seek(0)
        failed.pop_all()
    return file


class _Members(io.RawIOBase):
    """The concatenated contents of a compressed file's members."""

    def __init__(
        self, path: epath.Path, new_decoder: _NewDecoder, damage: type[Exception], file: BinaryIO
    ) -> None:
        self._path, self._file = path, file
        self._new_decoder, self._damage = new_decoder, damage
        self._decoder: Any = None  # of the current member
        self._rest = b""  # bytes of the file that no decoder has received yet
        self._members = 0
        self._line = 1

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and (self._decoder is not None or self._begin_member()):
            data = self._decode(len(buffer))
        buffer[: len(data)] = data
        self._line += data.count(b"\n")
        return len(data)

    def _begin_member(self) -> bool:
        """Starts the next member; returns whether there is one."""
        self._fill()
        while self._members and self._rest[:1] == b"\0":  # zero padding between two members
            self._rest = self._rest.lstrip(b"\0")
            self._fill()
        if self._rest:
            self._decoder = self._new_decoder()
            self._members += 1
        elif not self._members:
            raise UserError(f"{self._path}: is empty and so not a compressed file; copy it again.")
        return bool(self._rest)

    def _fill(self) -> None:
        self._rest = self._rest or self._file.read(_READ_BYTES)

    def _decode(self, max_bytes: int) -> bytes:
        """Returns the next bytes of the member, none at its end."""
        needs_input = self._decoder.needs_input
        given = b""
        if needs_input:
            self._fill()
            given, self._rest = self._rest, b""
        try:
            data = self._decoder.decompress(given, max_bytes)
        except self._damage as error:
            raise self._fault(f"can't be decompressed from here on ({error})") from None
        if self._decoder.eof:
            self._rest = self._decoder.unused_data
            self._decoder = None
        elif needs_input and not given and not data:
            raise self._fault("the compressed text is truncated here")
        return data

    def _fault(self, what: str) -> UserError:
        return UserError(f"{self._path}:{self._line}: {what}; copy or compress the file again.")


def _decoder(path: epath.Path) -> tuple[_NewDecoder, type[Exception]]:
    """Returns a function that makes a decoder of one member, and the exception it raises."""
    match path.suffix.lower():
        case ".gz":
            return _Gzip, zlib.error
        case ".bz2":
            return bz2.BZ2Decompressor, OSError
        case ".xz":
            xz = functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_MAX_MEMORY)
            return xz, lzma.LZMAError
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UserError(f"{path}: .zst needs a package: pip install 'bertjax[zst]'.") from None
    return zstd.ZstdDecompressor, zstd.ZstdError


class _Gzip:
    """zlib's decoder with the interface of the others."""

    def __init__(self) -> None:
        self._decoder = decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input, self.eof, self.unused_data = True, decoder.eof, decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        decoder = self._decoder
        text = decoder.decompress(decoder.unconsumed_tail + data, max_length)
        self.needs_input = not decoder.unconsumed_tail
        self.eof, self.unused_data = decoder.eof, decoder.unused_data
        return text

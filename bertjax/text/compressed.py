"""Files as the bytes of the text that they hold, whether they are compressed or not.

A compressed file is read to its end, all of its members (`cat a.gz b.gz` is a file of two), or it
is an error that says how far it went: Python's own readers take a damaged second member for the
end of the file.
"""

import bz2
import functools
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from etils import epath

from bertjax.errors import UserError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

_READ_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 17
# What .xz files that ask for more (a dictionary of over 256 MB) are refused for; for .zst it is
# the library's own limit, a window of 128 MiB.
_MEMORY = 1 << 28


def is_compressed(path: epath.Path) -> bool:
    """Whether a file's name says that it is compressed in a way that is read here."""
    return path.suffix.lower() in SUFFIXES


def text_name(path: epath.Path) -> str:
    """The name of the text: the file's, without the ending that says how it is compressed."""
    return path.stem if is_compressed(path) else path.name


def open_text(path: epath.Path) -> BinaryIO:
    """The bytes of the text in a file: a stream for reading that is seekable if the file is plain.

    Memory is bounded, whatever a compressed file expands to.

    Raises:
        UserError: it can't be opened; and from reading, of a compressed file: it is damaged or cut
            off, named as file:line. Of what is cut off between two members nothing tells.
    """
    if is_compressed(path):
        new_decoder, damage = _decoder(path)
        return io.BufferedReader(_Members(path, _open(path), new_decoder, damage), _BUFFER_BYTES)
    return _open(path)


class Window:
    """A compressed file's text as a file in which one may seek, but not back beyond what was
    forgotten: it holds what was read since."""

    def __init__(self, path: epath.Path) -> None:
        self._file = open_text(path)
        self._held = bytearray()
        self._begin = 0
        """Position of what is held."""
        self._position = 0

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def forget(self, before: int) -> None:
        """Gives up what comes before a position, to which there is no way back."""
        while before > self._begin + len(self._held):
            self._begin += len(self._held)
            self._held = bytearray(self._file.read(min(_BUFFER_BYTES, before - self._begin)))
            if not self._held:
                return
        del self._held[: before - self._begin]
        self._begin = before

    def seek(self, position: int) -> None:
        """Where to read next."""
        if position < self._begin:
            raise ValueError(f"position {position} was forgotten: {self._begin} is the first held")
        self._position = position

    def tell(self) -> int:
        """Where to read next."""
        return self._position

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end of the text."""
        start = self._position - self._begin
        if (missing := start + size - len(self._held)) > 0:
            self._held += self._file.read(missing)
        data = bytes(self._held[start : start + size])
        self._position += len(data)
        return data


def _open(path: epath.Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}).") from None


class _Members(io.RawIOBase):
    """What the members of a compressed file hold, one after the other."""

    def __init__(
        self,
        path: epath.Path,
        file: BinaryIO,
        new_decoder: Callable[[], Any],
        damage: type[Exception],
    ) -> None:
        self._path = path
        self._file = file
        self._new_decoder = new_decoder
        self._damage = damage
        """What decoders raise."""
        self._decoder: Any = None
        """Of the member that is being read."""
        self._rest = b""
        """What was read of the file and given to no decoder."""
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
        """Whether there is another one."""
        self._fill()
        if self._members:
            while self._rest[:1] == b"\0":  # what is between two may be filled up
                self._rest = self._rest.lstrip(b"\0")
                self._fill()
        if not self._rest:
            if not self._members:
                raise UserError(
                    f"{self._path}: is empty, which no compressed file is; copy it again."
                )
            return False
        self._decoder = self._new_decoder()
        self._members += 1
        return True

    def _fill(self) -> None:
        self._rest = self._rest or self._file.read(_READ_BYTES)

    def _decode(self, most: int) -> bytes:
        """The next bytes of a member, at most so many; none where it has ended."""
        needs_input = self._decoder.needs_input
        given = b""
        if needs_input:
            self._fill()
            given, self._rest = self._rest, b""
        try:
            data = self._decoder.decompress(given, most)
        except self._damage as error:
            raise self._fault(f"can't be decompressed from here on ({error})") from None
        if self._decoder.eof:
            self._rest = self._decoder.unused_data
            self._decoder = None
        elif needs_input and not given and not data:
            raise self._fault("the compressed text is cut off here")
        return data

    def _fault(self, what: str) -> UserError:
        return UserError(f"{self._path}:{self._line}: {what}; copy or compress the file again.")


def _decoder(path: epath.Path) -> tuple[Callable[[], Any], type[Exception]]:
    """What makes a decoder of one member, and what that raises over damaged data."""
    match path.suffix.lower():
        case ".gz":
            return _Gzip, zlib.error
        case ".bz2":
            return bz2.BZ2Decompressor, OSError
        case ".xz":
            return functools.partial(
                lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_MEMORY
            ), lzma.LZMAError
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UserError(f"{path}: .zst needs a package: pip install 'bertjax[zst]'.") from None
    return zstd.ZstdDecompressor, zstd.ZstdError


class _Gzip:
    """zlib's decoder, with the names that the others have."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)

"""Paths that a user names, files that are written atomically, and the operating system's errors as
sentences."""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import NoReturn

from etils import epath

from bertjax.errors import UserError

# No space (disk, quota, file size), no permission, a file in place of a directory or vice versa.
_NOT_WRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
)
_NOT_READABLE = (
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENXIO, errno.ENODEV, errno.EIO),
)
_SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_SPECIAL |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


class CannotWrite(UserError):
    """There is no space or no permission at a path."""

    def __init__(self, path: epath.PathLike, reason: str) -> None:
        super().__init__(str(path), reason)  # the arguments, so that it can be pickled

    def __str__(self) -> str:
        path, reason = self.args
        return (
            f"{path}: can't be written ({reason}); make room there or name another place, then run "
            "the same command again."
        )


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a local disk (not gs:// or another scheme)."""
    return "://" not in str(path)


def location(path: epath.PathLike) -> epath.Path:
    """Returns a path.

    Raises `UserError` if it is an address, or needs a package that is not installed.
    """
    try:
        place = epath.Path(path)
        if not is_local(place):
            place.exists()
    except KeyError as error:  # etils has no such scheme
        told = "is a web address" if "http" in str(error) else f"begins with {error}"
        raise UserError(
            f"{path}: {told}, which can't be read; download it first, or give owner/name for a "
            "model on the hub."
        ) from None
    except ImportError as error:
        reason = "gs:// paths need gcsfs: pip install 'bertjax[gcs]'"
        if not str(path).startswith("gs://"):
            reason = f"such paths need another package ({error})"
        raise UserError(f"{path}: {reason}.") from None
    return place


def output_directory(path: epath.PathLike) -> epath.Path:
    """Returns a path for results; raises `UserError` if it can't become a directory.

    A file may be in the way, or see `location`.
    """
    path = location(path)
    for place in (path, *(path.parents if is_local(path) else ())):
        if place.exists():
            if not place.is_dir():
                under = "is" if place == path else f"lies under {place}, which is"
                raise UserError(f"{path}: {under} a file; name a directory.")
            break
    return path


def free_bytes(path: epath.PathLike) -> int | None:
    """Returns the free space of the disk that a path is on, or would be; None for object stores."""
    if not is_local(path):
        return None
    path = epath.Path(path).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Turns errors in the block about space and permissions into `CannotWrite`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise CannotWrite(path, error.strerror or str(error)) from None


def refuse_special(path: epath.PathLike) -> None:
    """Raises `UserError` for a pipe, a socket or a device, which a reader may wait for forever."""
    if not is_local(path):
        return
    with contextlib.suppress(OSError):  # the reader will explain it
        mode = pathlib.Path(path).stat().st_mode
        if what := next((word for kind, word in _SPECIAL.items() if stat.S_IFMT(mode) == kind), ""):
            raise UserError(f"{path}: is {what} and no regular file; write its text to a file.")


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Turns errors in the block about permissions and kinds of files into `UserError`."""
    refuse_special(path)
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_READABLE:
            raise
        reason = error.strerror or str(error)
        sentence = f"{path}: can't be read ({reason}); make it a file that you may read."
        raise UserError(sentence) from None


_POINTER = b"version https://git-lfs.github.com/spec/"


def file_sha256(path: epath.Path) -> str:
    """Returns the SHA-256 of a file, which is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_downloaded(data: bytes, path: epath.PathLike) -> None:
    """Refuses the first bytes of a file that only points to the contents, which are elsewhere."""
    if data.startswith(_POINTER):
        raise UserError(
            f"{path}: is a pointer of Git LFS, not the file itself; run git lfs pull in its "
            "repository, or download the file again."
        )


def damaged(
    path: epath.PathLike, reason: object, remedy: str = "export or download the model again"
) -> NoReturn:
    """Raises `UserError` for a file with wrong contents."""
    raise UserError(f"{path}: damaged ({reason}); {remedy}.") from None


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path beside `path`, which replaces `path` unless the block raises.

    Raises `CannotWrite` if there is no space or no permission.
    """
    temporary = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):  # the earlier error is the one to report
                temporary.unlink(missing_ok=True)


def _beside(path: epath.Path) -> epath.Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def is_temporary(name: str, of: str | None = None) -> bool:
    """Whether a name is that of a temporary file or directory (of the named one, if given)."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and of in (None, match[1])


@contextlib.contextmanager
def temporary_directory(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a new directory beside `path`, which is removed unless the block has moved it.

    It removes first what killed processes left of their temporary directories for `path`: a living
    process holds a lock on its own.
    """
    temporary, local = _beside(path), is_local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in list(path.parent.iterdir()) if local else ():
        if is_temporary(each.name, path.name) and (lock := _lock(each)) is not None:
            each.rmtree(missing_ok=True)
            os.close(lock)
    temporary.mkdir(parents=True)
    lock = _lock(temporary) if local else None
    try:
        yield temporary
    except UserError as error:  # a message names the place that was asked for
        words = [str(word).replace(str(temporary), str(path)) for word in error.args]
        kind = CannotWrite if isinstance(error, CannotWrite) else UserError
        raise kind(*words) from error.__cause__
    finally:
        temporary.rmtree(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _lock(directory: epath.Path) -> int | None:
    """Locks a directory; returns the descriptor, or None if another process has the lock."""
    with contextlib.suppress(OSError):  # also on file systems without locks
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            os.close(descriptor)
    return None


def write_atomically(path: epath.Path, data: bytes) -> None:
    """Writes a file through a temporary one, so that it is never seen incomplete."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def filling(directory: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary directory, which replaces the absent or empty `directory` at the end.

    In an object store, where renaming copies the files one by one in any order, it yields
    `directory` itself: write the file that readers need last. If the block raises, nothing is left.
    Raises `CannotWrite` if there is no space or no permission.
    """
    with writing(directory):
        if is_local(directory):
            with temporary_directory(directory) as temporary:
                yield temporary
                if directory.exists():
                    directory.rmdir()  # empty
                temporary.rename(directory)
            return
        with contextlib.ExitStack() as failed:
            failed.callback(directory.rmtree, missing_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
            yield directory
            failed.pop_all()

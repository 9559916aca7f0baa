"""Locks of directories for one command at a time; the system frees those of killed commands."""

import contextlib
import errno
import fcntl
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterator

from etils import epath

from bertjax.errors import UserError
from bertjax.files import is_local, is_temporary, writing

LOCK = ".lock"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def locked(path: epath.PathLike, field: str, log: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a directory, and removes temporary files of killed commands there.

    The directory and those above it are made if they are absent, and removed again if the block
    leaves them empty. An object store has no locks. If the file system has none (some network file
    systems), a warning is logged, and two commands in the directory destroy each other's work.

    Args:
        path: the directory.
        field: the configuration field that names it, for the message.
        log: receives the warning.

    Raises:
        UserError: another process holds the lock, or the directory can't be made.
    """
    if not is_local(path):
        yield
        return
    directory = pathlib.Path(path)
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(directory, field, log)
    try:
        if descriptor is not None:
            _remove_leftovers(directory)
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                (directory / LOCK).unlink()
            os.close(descriptor)
        with contextlib.suppress(OSError):  # it is not empty
            for place in new:
                place.rmdir()


def _acquire(directory: pathlib.Path, field: str, log: Callable[[str], None]) -> int | None:
    """Returns the descriptor that holds the lock; None if there can be none."""
    path = directory / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno in _READ_ONLY:
                return None  # no command can write there
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
            os.close(descriptor)  # its last holder has removed the file
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UserError(
                f"{directory}: another command is at work there ({holder}); wait for its end, or "
                f"name another `{field}`."
            ) from None
        except OSError as error:
            os.close(descriptor)
            log(
                f"Warning: {directory} can't be locked ({error.strerror}): start no second command "
                "there, which would destroy the work of this one."
            )
            return None


def _holder(descriptor: int) -> str:
    """Reads who holds a lock, which the holder writes a moment after it has the lock."""
    for _ in range(20):
        if holder := os.pread(descriptor, 200, 0):
            return holder.decode(errors="replace")
        time.sleep(0.05)
    return "a process"


def _is_file(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_leftovers(directory: pathlib.Path) -> None:
    for place, directories, files in os.walk(directory):
        for name in list(filter(is_temporary, directories)):
            directories.remove(name)
            shutil.rmtree(pathlib.Path(place, name), ignore_errors=True)
        for name in filter(is_temporary, files):
            with contextlib.suppress(OSError):
                pathlib.Path(place, name).unlink()

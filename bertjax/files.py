"""Paths that a user names, and files that appear whole or not at all."""

import contextlib
import errno
import shutil
import uuid
from collections.abc import Iterator

from etils import epath

from bertjax.errors import UserError

# No room (disk, quota, size of a file), no permission, or a file where a directory would be, and
# the other way round.
_NOT_WRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)
_NOT_READABLE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)


class CannotWrite(UserError):
    """A place is full or closed to us; what was finished before stays as good as it is."""

    def __init__(self, path: epath.PathLike, reason: str) -> None:
        super().__init__(str(path), reason)  # what it is made of again in another process

    def __str__(self) -> str:
        path, reason = self.args
        return (
            f"{path}: can't be written ({reason}); make room there or name another place, then run "
            "the same command again."
        )


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a disk of this machine (not gs:// or another scheme)."""
    return "://" not in str(path)


def location(path: epath.PathLike) -> epath.Path:
    """The path, where this installation can reach it.

    Raises:
        UserError: it is in an object store whose package is not installed.
    """
    path = epath.Path(path)
    if not is_local(path):
        try:
            path.exists()
        except ImportError as error:
            reason = "gs:// paths need gcsfs: pip install 'bertjax[gcs]'"
            if not str(path).startswith("gs://"):
                reason = f"such paths need another package ({error})"
            raise UserError(f"{path}: {reason}.") from None
    return path


def output_directory(path: epath.PathLike) -> epath.Path:
    """A path where results may go: a directory, or nothing yet and no file on the way to it.

    Raises:
        UserError: a file is in the way, or see `location`.
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
    """Room on the disk that a path is on, or would be; None of an object store."""
    if not is_local(path):
        return None
    path = epath.Path(path).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(there).free


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Says in one sentence that `path` can't be written, should the block find that out.

    Raises:
        CannotWrite: no room or no permission; every other error of the system stays what it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise CannotWrite(path, error.strerror or str(error)) from None


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Says in one sentence that `path` can't be read, should the block find that out.

    Raises:
        UserError: no permission, or no file; every other error of the system stays what it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_READABLE:
            raise
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: can't be read ({reason}); make it a file that you may read."
        ) from None


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
    """Gives a neighbour of `path` to write, which takes its name if the block ends well.

    Raises:
        CannotWrite: see `writing`.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):  # what went wrong before is what matters
                temporary.unlink(missing_ok=True)


def write_atomically(path: epath.Path, data: bytes) -> None:
    """Writes a file by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def filling(directory: epath.Path) -> Iterator[epath.Path]:
    """Gives a neighbour of an absent or empty directory to fill, which takes its name at the end.

    In an object store, where renaming is copying the files one by one in any order, it is the
    directory itself: the file without which nothing reads it has to be written last. Nothing is
    left of it if the block fails.

    Raises:
        CannotWrite: see `writing`.
    """
    temporary = directory
    if is_local(directory):
        temporary = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
    done = False
    with writing(directory):
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary != directory:
                if directory.exists():
                    directory.rmdir()  # empty
                temporary.rename(directory)
            done = True
        finally:
            if not done and temporary.exists():
                temporary.rmtree()

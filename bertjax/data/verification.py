"""Holds shards against the digests in their manifests, in threads, and each file only once."""

import concurrent.futures
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from etils import epath

from bertjax.data import shards
from bertjax.data.shards import Manifest, ShardFile
from bertjax.errors import UserError
from bertjax.files import file_sha256, is_local, write_atomically

# A disk may be faster than one thread computes digests.
_THREADS = 4


class Verification:
    """The verification of data directories, under way. It ends with its `with` block.

    Training starts while it runs. Nothing that depends on the data is kept before `wait`.
    """

    def __init__(
        self,
        data: Iterable[tuple[epath.Path, Manifest]],
        known: epath.Path,
        *,
        read_only: bool = False,
    ) -> None:
        """Starts to compute the digests of the files that are not known.

        Args:
            data: directories and their manifests. Remote ones are left out, because their files are
                verified when they are copied.
            known: a file that keeps the sizes, times and digests of verified files.
            read_only: do not write it.
        """
        self._known, self._read_only = known, read_only
        before, self._verified = _read(known), dict[str, list]()
        self._pool = concurrent.futures.ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
        self._futures, self._found = list[concurrent.futures.Future[None]](), list[UserError]()
        for directory, manifest in data:
            for file in [file for split in shards.SPLITS for file in manifest.files[split]]:
                path = directory / file.name
                if not is_local(path):
                    continue
                state = [file.bytes, pathlib.Path(path).stat().st_mtime_ns, file.sha256]
                self._verified[str(path)] = state
                if before.get(str(path)) != state:
                    self._futures.append(self._pool.submit(self._verify, path, file))

    def __enter__(self) -> "Verification":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Raises `UserError` if a file is known to differ from what its manifest lists."""
        if self._found:
            raise self._found[0]

    def wait(self) -> None:
        """Waits until all files are verified; raises `UserError` if one differs."""
        for future in self._futures:
            future.result()
            self.check()
        if self._futures and not self._read_only:
            write_atomically(self._known, json.dumps(self._verified, indent=1).encode())
        self._futures = []

    def _verify(self, path: epath.Path, file: ShardFile) -> None:
        if file_sha256(path) != file.sha256:
            self._found.append(UserError(shards.not_listed(path)))


def _read(known: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(known.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

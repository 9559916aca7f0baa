"""Rows from shards, batches of held-out examples, and reading ahead.

No iterator has state to save. Any process can read any batch, or only those rows that its own
devices hold.
"""

import collections
import concurrent.futures
import itertools
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.rows import BadRecord, make_rows
from bertjax.data.shards import Manifest
from bertjax.errors import UserError
from bertjax.files import file_sha256, is_local

T = TypeVar("T")

# Maximum number of open files. Each holds an index of its records (about 0.3 MB at 20,000) and a
# file descriptor, of which a process may have 1,024 by default.
_OPEN_FILES = 384


class ShardReader:
    """Random access to the examples of one split of a data directory, as padded rows.

    It is thread-safe. It first copies the files of a remote directory to a local one, because
    ArrayRecord reads local files only, and checks the copies against the manifest.
    """

    def __init__(self, directory: epath.PathLike, split: str) -> None:
        """Opens "train" or "held_out" of a directory that `bertjax prepare` wrote.

        Copies of remote files are removed with this reader. Raises `UserError` as `read_manifest`
        does, and if a copied file does not fit the manifest.
        """
        if split not in shards.SPLITS:
            raise ValueError(f"split {split!r}: one of {shards.SPLITS}")
        directory = epath.Path(directory)
        self.manifest: Manifest = shards.read_manifest(directory)
        self.split = split
        self._names = directory
        self._files = self.manifest.files[split]
        self._starts = np.cumsum([0, *(file.examples for file in self._files)])
        self._local = directory if is_local(directory) else self._copy(directory)
        self._open = collections.OrderedDict[int, tuple[threading.Lock, Any]]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Returns the number of examples."""
        return int(self._starts[-1])

    @property
    def identity(self) -> str:
        """Names the examples and their order."""
        return self.manifest.hash

    def lengths(self) -> np.ndarray:
        """Returns the number of tokens of every example, with special tokens: int32 [len(self)].

        It reads the whole split, at some microseconds per example (benchmarks/padding.py).
        Raises `UserError` that names a damaged record by its file and number.
        """
        lengths = np.empty(len(self), np.int32)
        for file, (start, stop) in enumerate(itertools.pairwise(self._starts)):
            reader = self._open_file(file)
            try:
                records = reader.read(0, int(stop - start))
                lengths[start:stop] = [shards.ids_of(record) for record in records]
            except (RuntimeError, IndexError):
                records = self._read_carefully(file, list(range(stop - start)))
                lengths[start:stop] = [shards.ids_of(record) for record in records]
        return lengths + self.manifest.segment_kind.special_tokens

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the examples `indices`, [n], as rows; see `make_rows`. Indices may repeat.

        Returns:
            input_ids, attention_mask, token_type_ids [n, T]; for pairs, next_sentence_label [n].

        Raises:
            IndexError: an index is outside the split.
            UserError: names a damaged record, or one with ids outside the vocabulary.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"an example outside the {len(self)} of {self.split}")
        files = np.searchsorted(self._starts, indices, side="right") - 1
        numbers = indices - self._starts[files]
        try:
            return make_rows(self._records(files, numbers), self.manifest)
        except BadRecord as error:
            where = int(files[error.position]), int(numbers[error.position])
            raise self._damaged(*where, str(error)) from None

    def _records(self, files: np.ndarray, numbers: np.ndarray) -> list[bytes]:
        """Reads records [n] by their files and numbers, file by file in ascending order."""
        records = [b""] * len(files)
        order = np.lexsort((numbers, files)).tolist()
        for file, group in itertools.groupby(order, key=files.tolist().__getitem__):
            positions = list(group)
            found = self._read(file, numbers[positions].tolist())
            for place, record in zip(positions, found, strict=True):
                records[place] = record
        return records

    def _read(self, file: int, numbers: list[int]) -> list[bytes]:
        lock, reader = self._reader(file)
        with lock:
            try:
                return [_record(reader, number) for number in numbers]
            except (RuntimeError, ValueError, IndexError):
                # After a damaged record, this reader fails at every later one, for waiting threads
                # too. A fresh reader finds the record at fault.
                with self._lock:
                    self._open.pop(file, None)
                return self._read_carefully(file, numbers)

    def _read_carefully(self, file: int, numbers: list[int]) -> list[bytes]:
        reader = self._open_file(file)
        records = []
        for number in numbers:
            try:
                records.append(_record(reader, number))
            except (RuntimeError, ValueError, IndexError) as error:
                raise self._damaged(file, number, str(error)) from None
        return records

    def _reader(self, file: int) -> tuple[threading.Lock, Any]:
        """Returns the reader of a file and the lock to hold while using it; an LRU cache."""
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
            else:
                self._open[file] = (threading.Lock(), self._open_file(file))
            found = self._open[file]
            if len(self._open) > _OPEN_FILES:
                # Another thread may still read: the last reference closes the file.
                self._open.popitem(last=False)
            return found

    def _open_file(self, file: int) -> Any:
        expected = self._files[file].examples
        try:
            reader = shards.open_records(self._local / self._files[file].name)
            found = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise self._damaged(file, None, str(error)) from None
        if found != expected:
            raise self._damaged(file, None, f"{found} records where {expected} were written")
        return reader

    def _damaged(self, file: int, number: int | None, reason: str) -> UserError:
        where = "" if number is None else f", record {number}"
        reason = reason.split(";")[0].split(" (")[0]
        return UserError(
            f"{self._names / self._files[file].name}{where}: damaged ({reason}); copy the file "
            "again, or run prepare again into another directory."
        )

    def _copy(self, directory: epath.Path) -> epath.Path:
        local = epath.Path(tempfile.mkdtemp(prefix="bertjax-shards-"))
        weakref.finalize(self, local.rmtree, missing_ok=True)
        for file in self._files:
            shards.copy_file(directory / file.name, local / file.name)
            if file_sha256(local / file.name) != file.sha256:
                raise UserError(shards.not_listed(directory / file.name))
        return local


def _record(reader: Any, number: int) -> bytes:
    reader.seek(number)
    return reader.read()


class HeldOutBatches:
    """Held-out examples in a fixed order, in batches of one size; the last one may have padding."""

    def __init__(
        self, reader: ShardReader, *, batch_size: int, max_examples: int | None = None
    ) -> None:
        """Makes global batches of at most `max_examples` examples, spread evenly over the split.

        Raises `UserError` if the batch size or the number of examples is below 1.
        """
        for name, value in {"batch_size": batch_size, "max_examples": max_examples}.items():
            if value is not None and value < 1:
                raise UserError(f"`{name}` is {value}: give at least 1.")
        self.reader = reader
        self.batch_size = batch_size
        count = len(reader) if max_examples is None else min(max_examples, len(reader))
        self._indices = np.arange(count, dtype=np.int64) * len(reader) // max(count, 1)

    def __len__(self) -> int:
        """Returns the number of batches."""
        return -(-len(self._indices) // self.batch_size)

    @property
    def examples(self) -> int:
        """The number of examples in all batches, without padding."""
        return len(self._indices)

    def rows(self, batch_index: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Reads rows, [n], of a global batch and adds example_weight [n] float32.

        Examples of weight 0 fill the last batch. See `ShardReader.rows`. Raises `IndexError` if
        there is no such batch.
        """
        if not 0 <= batch_index < len(self):
            raise IndexError(f"batch {batch_index} of {len(self)}")
        position = batch_index * self.batch_size + np.asarray(rows, np.int64)
        real = position < len(self._indices)
        batch = self.reader.rows(self._indices[np.where(real, position, 0)])
        return {**batch, "example_weight": real.astype(np.float32)}


def read_ahead(
    make: Callable[[int], T], steps: Iterable[int], depth: int = 4, threads: int = 2
) -> Generator[tuple[int, T], None, None]:
    """Yields (step, make(step)) in the order of `steps`; threads make up to `depth` of them ahead.

    The iterator raises an exception of `make` when its step is due. Closing or dropping it ends the
    threads after their current calls.
    """
    steps = iter(steps)
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="read_ahead")
    waiting: collections.deque[tuple[int, concurrent.futures.Future[T]]] = collections.deque()
    try:
        for step in itertools.islice(steps, depth):
            waiting.append((step, pool.submit(make, step)))
        while waiting:
            step, future = waiting.popleft()
            result = future.result()
            for following in itertools.islice(steps, 1):
                waiting.append((following, pool.submit(make, following)))
            yield step, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""What the processes of preparing do, and the pool that runs them.

Workers are spawned, never forked, and load neither jax nor anything that needs it. Each piece of
work leaves its result under its final name or not at all, so any of them may be killed at any time.
"""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import duplicates, measure
from bertjax.data.pairs import FlatDocuments
from bertjax.data.prepare import file_ranges
from bertjax.data.prepare.segments import read_blocks, write_segment
from bertjax.data.segments import DEFAULT_SEGMENTS, SEGMENTS, SegmentKind
from bertjax.errors import Stopped, UserError
from bertjax.files import write_atomically
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

_SECONDS_BETWEEN_LINES = 10.0
_COUNT = np.dtype("<i8")
BYTES_PER_COUNT = _COUNT.itemsize
"""A unit leaves one count of each token."""
_COUNTED_AT_ONCE = 1 << 20


class WorkerDied(UserError):
    """A worker process was killed, most often for want of memory."""


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """What pairing depends on besides the documents."""

    max_seq_length: int
    short_seq_prob: float
    seed: int
    dupe_factor: int
    vocabulary: str
    """Directory of the tokenizer."""
    segments: str = DEFAULT_SEGMENTS
    """The kind of segments, a key of `SEGMENTS`."""
    sample_bits: int = 0
    """Of `repeats.sentence_hashes`."""

    @property
    def kind(self) -> SegmentKind:
        """The kind of segments."""
        return SEGMENTS[self.segments]


def cores() -> int:
    """How many processes this machine runs at once."""
    return os.cpu_count() or 1


def tokenise(
    segments: Sequence[str],
    tasks: Sequence[file_ranges.Task],
    vocabulary: str,
    options: dict[str, Any],
) -> None:
    """Pass 1 for a group of tasks (`parts.groups`): writes the segments that are not there."""
    tokenizer = _tokenizer(vocabulary)
    with file_ranges.window_on(tasks) as window:
        for path, task in zip(map(epath.Path, segments), tasks, strict=True):
            if not path.exists():
                write_segment(path, task, tokenizer, window=window, **options)


def pair(
    marker: str,
    split: str,
    blocks: tuple[int, ...],
    cutoff: int,
    segments: tuple[str, ...],
    options: PairOptions,
) -> None:
    """Pass 2 for one unit, whose documents lie in segments; see `pair_documents`."""
    vocab_size = _tokenizer(options.vocabulary).vocab_size
    documents = read_blocks(
        [epath.Path(segment) for segment in segments],
        blocks,
        held_out=split == "held_out",
        cutoff=cutoff,
        dtype=shards.id_dtype(shards.needs_wide_ids(vocab_size)),
    )
    pair_documents(epath.Path(marker), split, blocks[0], documents, vocab_size, options)


def pair_documents(
    marker: epath.Path,
    split: str,
    block: int,
    documents: FlatDocuments,
    vocab_size: int,
    options: PairOptions,
) -> None:
    """Pass 2 for the documents of a unit: writes its shards, its token counts, its sentences'
    hashes and, last, its marker (JSON).

    Held-out text is paired once: pairing it again would only weigh the same sentences twice.
    """
    wide = shards.needs_wide_ids(vocab_size)
    limit = options.max_seq_length - options.kind.special_tokens
    result: dict[str, Any] = {"examples": 0, "ids": 0, "random": 0, "files": []}
    result |= {"same_document": 0, "lengths": [0] * (options.max_seq_length + 1)}
    result["text"] = measure.document_sums(documents, limit)
    for dupe in range(options.dupe_factor if split == "train" else 1):
        # (seed, block, dupe), and the split, whose documents are others.
        key = (options.seed, shards.SPLITS.index(split), block, dupe)
        _write_dupe(marker, dupe, documents, wide, options, np.random.default_rng(key), result)
    counts = np.zeros(vocab_size, _COUNT)
    for start in range(0, len(documents.ids), _COUNTED_AT_ONCE):  # NumPy counts in 64 bits
        some = documents.ids[start : start + _COUNTED_AT_ONCE]
        counts += np.bincount(some, minlength=vocab_size)
    write_atomically(marker.with_suffix(".counts"), counts.tobytes())
    hashes = duplicates.sentence_hashes(
        documents.ids, documents.sentence_offsets, options.sample_bits
    )
    sentences = duplicates.Repeats.of(hashes).to_bytes()
    write_atomically(marker.with_suffix(".sentences"), sentences)
    write_atomically(marker, json.dumps(result).encode())


def _write_dupe(
    marker: epath.Path,
    dupe: int,
    documents: FlatDocuments,
    wide: bool,
    options: PairOptions,
    rng: np.random.Generator,
    result: dict[str, Any],
) -> None:
    """Makes the documents' examples once, writes them in random order, and adds to `result`."""
    spans = options.kind.draw(
        documents,
        max_seq_length=options.max_seq_length,
        short_seq_prob=options.short_seq_prob,
        rng=rng,
    )
    examples = len(spans.is_random)
    rows = np.stack(spans, axis=1)[rng.permutation(examples)]
    result["examples"] += examples
    result["random"] += int(spans.is_random.sum())
    result["ids"] += int((rows[:, 1] - rows[:, 0] + rows[:, 3] - rows[:, 2]).sum())
    lengths = measure.lengths_of(spans, options.max_seq_length, options.kind.special_tokens)
    result["lengths"] = (lengths + result["lengths"]).tolist()
    if options.kind.draws_other_documents:
        result["same_document"] += measure.same_document(documents, spans)
    if not examples:  # documents of one sentence may give none
        return
    data, width = documents.ids.view(np.uint8).data, documents.ids.itemsize
    for number, part in enumerate(np.array_split(rows, -(-examples // shards.EXAMPLES_PER_FILE))):
        name = f"{marker.stem}-{dupe:02d}-{number:03d}.array_record"
        records = (
            shards.encode_bytes(
                data[a_start * width : a_stop * width],
                data[b_start * width : b_stop * width],
                is_random=bool(is_random),
                wide=wide,
            )
            for a_start, a_stop, b_start, b_stop, is_random in part.tolist()
        )
        file = shards.write_records(marker.parent / name, records)
        result["files"].append(dataclasses.asdict(file))


@functools.cache
def _tokenizer(vocabulary: str) -> Tokenizer:
    return load_tokenizer(vocabulary)


class Workers:
    """Runs functions over tasks, in this process or in spawned ones. A context manager.

    While it is open, `stop_on_signals` holds; the tasks that are running are finished.
    """

    def __init__(self, processes: int) -> None:
        """A pool of `processes`; with 1, everything runs in this process."""
        _tokenizer.cache_clear()  # its directory may hold another vocabulary by now
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Workers":
        self._stack.enter_context(stop_on_signals())
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        *,
        what: str = "",
        log: Callable[[str], None] | None = None,
    ) -> list[Any]:
        """function(*task) for every task; the results in the order of the tasks.

        Args:
            function: importable by name, as its arguments and results are picklable.
            tasks: arguments.
            what: name of the work, for progress; none is shown without it.
            log: for progress where there is no terminal.

        Raises:
            WorkerDied: a worker died; what others finished stays.
            Exception: what the function raises, of the first task that failed.
        """
        results: list[Any] = [None] * len(tasks)
        finished = self._results(function, tasks)
        for number, result in _progress(finished, len(tasks), what, log):
            results[number] = result
        return results

    def _results(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        if self._pool is None:
            for number, task in enumerate(tasks):
                yield number, function(*task)
            return
        try:
            futures = {self._pool.submit(function, *task): i for i, task in enumerate(tasks)}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise WorkerDied(
                "A worker process died (out of memory, or killed): run the same command again to "
                "go on, with fewer --processes or a smaller --block-mib if memory is short. (A "
                'script that calls prepare needs `if __name__ == "__main__":` around the call.)'
            ) from None


def _start_worker() -> None:
    # The parent decides when to stop; a worker outlives it by no more than a moment.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Every core has a worker already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Stopped` in the main thread; a second signal ends the program.

    Not in a notebook, and not where the program has handlers of its own.
    """
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    ours = threading.current_thread() is threading.main_thread() and "ipykernel" not in sys.modules
    previous = {}

    def stop(number: int, frame: object) -> None:
        restore()
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    if ours:
        for number, default in defaults.items():
            if signal.getsignal(number) == default:
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


def _progress(
    finished: Iterator[tuple[int, Any]],
    total: int,
    what: str,
    log: Callable[[str], None] | None,
) -> Iterator[tuple[int, Any]]:
    """Passes results on, with a progress bar on a terminal and a line now and then elsewhere."""
    if not what or not total:
        yield from finished
    elif sys.stderr.isatty():
        from tqdm.auto import tqdm

        yield from tqdm(finished, total=total, desc=what, unit="task")
    else:
        said = time.monotonic()
        for count, result in enumerate(finished, start=1):
            if log is not None and time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                log(f"{what}: {count:,} of {total:,} done.")
            yield result

"""The pool of processes that preparing runs its work in, their progress and their end.

Workers are spawned, never forked, and do not import jax. Each piece of work leaves its result under
its final name or not at all, so a worker may be killed at any time.
"""

import concurrent.futures
import concurrent.futures.process
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bertjax import signals
from bertjax.errors import UserError
from bertjax.text.tokenizer import Tokenizer, load_tokenizer

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_CHECKS = 0.2
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class WorkerDied(UserError):
    """A worker process was killed, usually for lack of memory."""


@functools.cache
def cached_tokenizer(vocabulary: str) -> Tokenizer:
    """Loads the tokenizer in a directory once per process."""
    return load_tokenizer(vocabulary)


class Workers:
    """Runs functions in this process or in a pool of processes. Use it as a context manager.

    Closing it waits for running functions.
    """

    def __init__(self, processes: int) -> None:
        """Makes a pool of `processes`; with 1, everything runs in this process."""
        cached_tokenizer.cache_clear()  # its directory may hold another vocabulary by now
        self._pool = None
        if processes > 1:
            spawn = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(processes, spawn, _start_worker)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        progress: str = "",
        log: Callable[[str], None] | None = None,
    ) -> list[Any]:
        """Calls a function with each tuple of arguments; returns the results in the same order.

        The function is importable by name, and its arguments and results are picklable. `progress`
        names the work in reports; `log` receives these if stderr is not a terminal.

        Raises:
            Stopped: a signal came. The results of finished calls stay on disk.
            WorkerDied: a worker died. The results of finished calls stay on disk.
            Exception: whatever the first failing call raises.
        """
        results: list[Any] = [None] * len(arguments)
        finished = self._results(function, arguments)
        for number, result in _reporting(finished, len(arguments), progress, log):
            results[number] = result
        return results

    def _results(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        if self._pool is None:
            for number, each in enumerate(arguments):
                signals.check()
                yield number, function(*each)
            return
        try:
            # A signal to all processes of a terminal must not end a worker that is starting.
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
            try:
                numbers = {
                    self._pool.submit(function, *each): i for i, each in enumerate(arguments)
                }
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            waiting = set(numbers)
            while waiting:
                signals.check()
                done, waiting = concurrent.futures.wait(
                    waiting, _SECONDS_BETWEEN_CHECKS, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield numbers[future], future.result()
        except concurrent.futures.process.BrokenProcessPool:
            raise WorkerDied(
                "A worker process died (out of memory, or killed): run the same command again to "
                "continue, with fewer `processes` or a smaller `block_mib` if memory is short. (A "
                'script that calls prepare needs `if __name__ == "__main__":` around the call.)'
            ) from None


def _start_worker() -> None:
    # The parent decides when to stop, and a worker ends soon after its parent.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("bertjax").setLevel(logging.ERROR)  # the parent has warned
    # Every core already has a worker.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _reporting(
    finished: Iterator[tuple[int, Any]],
    total: int,
    progress: str,
    log: Callable[[str], None] | None,
) -> Iterator[tuple[int, Any]]:
    """Passes results on and reports progress: a bar on a terminal, occasional lines elsewhere."""
    if not progress or not total:
        yield from finished
    elif sys.stderr.isatty():
        from tqdm.auto import tqdm

        yield from tqdm(finished, total=total, desc=progress, unit="task")
    else:
        last = time.monotonic()
        for count, result in enumerate(finished, start=1):
            if log is not None and time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                log(f"{progress}: {count:,} of {total:,} done.")
            yield result

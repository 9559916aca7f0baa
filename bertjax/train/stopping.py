"""Requests to stop a run: SIGTERM and SIGINT in one process, JAX's preemption notice in several.

A run has one of these mechanisms: our handler would take the signal from JAX's.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

# A parent process may pass on a signal that this process got as well; a later one is deliberate.
_SAME_SIGNAL_SECONDS = 1.0


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a cheap function that tells whether to stop, to be called at every step.

    In one process it returns True after the first SIGTERM or SIGINT; another signal more than a
    second later ends the process at once. In a notebook or outside the main thread no handler is
    installed, and an interrupt raises KeyboardInterrupt. Several processes must call the function
    equally often; all stop at the same call after one of them received SIGTERM (this needs
    `jax.distributed.initialize`).
    """
    if jax.process_count() > 1:
        yield _several_processes()
        return
    if threading.current_thread() is not threading.main_thread() or "ipykernel" in sys.modules:
        yield lambda: False
        return
    first: list[float] = []

    def handle(number: int, _: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
        elif time.monotonic() - first[0] > _SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(first)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _several_processes() -> Callable[[], bool]:
    # Number the calls, not the steps: an evaluation calls many times within one step.
    calls, stop = itertools.count(1), False

    def stopping() -> bool:
        nonlocal stop
        stop = stop or multihost_utils.reached_preemption_sync_point(next(calls))
        return stop

    return stopping

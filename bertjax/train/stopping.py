"""Asking a run to stop: SIGTERM and SIGINT in one process, JAX's preemption notice in several.

One mechanism a run: a handler of our own would steal the signal from JAX's.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# Whoever starts us may pass on a signal that we got as well: only a later one means impatience.
_SAME_SIGNAL_SECONDS = 1.0


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether to stop; cheap, to be asked at every step.

    In one process it is True from the first SIGTERM or SIGINT on; another signal more than a second
    later ends the process at once. There is no handler in a notebook or outside the main thread,
    where an interrupt stays the exception it is. Several processes must all ask equally often; they
    stop at the same question after one of them was given notice by SIGTERM (needs
    `jax.distributed.initialize`).
    """
    import jax

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
    from jax.experimental import multihost_utils

    questions = 0
    stop = False

    def stopping() -> bool:
        nonlocal questions, stop
        questions += 1
        # Not the training step: evaluation asks many times within one.
        stop = stop or multihost_utils.reached_preemption_sync_point(questions)
        return stop

    return stopping

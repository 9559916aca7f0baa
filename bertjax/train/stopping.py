"""Requests to stop a run: SIGTERM and SIGINT in one process, JAX's preemption notice in several.

A run has one of these mechanisms: our handler would take the signal from JAX's.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from bertjax import signals


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a cheap function that tells whether to stop, to be called at every step.

    In one process it returns True after the first SIGTERM or SIGINT; see `signals.listening`.
    Several processes must call the function equally often; all stop at the same call after one of
    them received SIGTERM (this needs `jax.distributed.initialize`).
    """
    if jax.process_count() > 1:
        yield _several_processes()
    else:
        with signals.listening() as requested:
            yield requested


@functools.cache  # a notice that comes in the last step of a seed stops the next one
def _several_processes() -> Callable[[], bool]:
    # Number the calls, not the steps: an evaluation calls many times within one step.
    calls, stop = itertools.count(1), False

    def stopping() -> bool:
        nonlocal stop
        stop = stop or multihost_utils.reached_preemption_sync_point(next(calls))
        return stop

    return stopping

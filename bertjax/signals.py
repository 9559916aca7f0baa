"""SIGTERM and SIGINT as requests to stop: a flag, which work reads where it can be resumed.

A handler that raised could be swallowed by a callback, or would interrupt a write.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bertjax.errors import Stopped

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
# A parent process may pass on a signal that this process got as well; a later one is deliberate.
_SAME_SIGNAL_SECONDS = 1.0
# Work that has nothing to save may take so long to `check`, as compiling does.
_GRACE_SECONDS = 5.0


class _State:
    """The requests of this process."""

    listening = False
    name = ""  # of the first signal
    time = 0.0  # of the first signal
    must_finish = False


def requested() -> bool:
    """Whether a signal has come since the outermost block of `listening` began."""
    return bool(_State.name)


def check() -> None:
    """Raises `Stopped` if a signal has come."""
    if _State.name:
        raise Stopped(f"stopped by {_State.name}")


def must_finish(value: bool) -> None:
    """Says whether this process has work to save, for which the command line waits."""
    _State.must_finish = value


@contextlib.contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """Yields `requested`; until the end of the block SIGTERM and SIGINT are requests to stop.

    A second signal more than a second later ends the program. In a block of `listening`, in a
    notebook, outside the main thread, and for a signal that the program handles or ignores itself,
    nothing changes.
    """
    previous = _install(_note)
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            _State.listening, _State.name = False, ""


@contextlib.contextmanager
def command(exit_code: int, sentence: str) -> Iterator[None]:
    """Makes SIGTERM and SIGINT end a resumable command by `Stopped`, whatever it is doing.

    A thread answers at once, as Python runs no handler while native code compiles or multiplies.
    A command that does not stop by itself within some seconds, and has no work to save, exits
    with the code after the sentence on standard error; so does any command at a second signal.
    After the block signals are ignored, because its exit code is decided.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = _install(lambda number, frame: None)
    if previous:
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        arguments = (reader, exit_code, sentence)
        threading.Thread(target=_answer, args=arguments, name="signals", daemon=True).start()
    try:
        yield
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        os.write(writer, b"\0")  # ends the thread


def _install(handler: Callable[..., None]) -> dict[signal.Signals, Any]:
    """Installs a handler; returns the signals that have it now, with their former handlers."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if _State.listening or not in_main_thread or "ipykernel" in sys.modules:
        return {}
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    own = [number for number in _NUMBERS if signal.getsignal(number) == defaults[number]]
    _State.listening = bool(own)
    return {number: signal.signal(number, handler) for number in own}


def _note(number: int, _: object = None) -> None:
    now = time.monotonic()
    if not _State.name:
        _State.name, _State.time = signal.Signals(number).name, now
    elif now - _State.time > _SAME_SIGNAL_SECONDS:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _answer(reader: int, exit_code: int, sentence: str) -> None:
    """Reads the numbers of signals from a pipe until a zero."""
    deadline = math.inf
    while True:
        ready, _, _ = select.select([reader], [], [], 0.2 if _State.name else None)
        numbers = os.read(reader, 1024) if ready else b""
        if 0 in numbers:
            return
        now = time.monotonic()
        if came := [number for number in _NUMBERS if number in numbers]:
            if not _State.name:
                _State.name, _State.time, deadline = came[0].name, now, now + _GRACE_SECONDS
                what = "after this step" if _State.must_finish else "now"
                _write(f"Stopping {what}; a second signal ends the command at once.")
            elif now - _State.time > _SAME_SIGNAL_SECONDS:
                deadline = now
        if _State.must_finish and deadline > now:
            deadline = now + _GRACE_SECONDS
        if now >= deadline:
            _write(sentence)
            os._exit(exit_code)


def _write(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"bertjax: {line}\n".encode())

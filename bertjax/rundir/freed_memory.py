"""Keeps freed memory in the process, so that a step on a CPU finds its memory mapped.

Only the command line turns it on: importing bertjax doesn't change the process.
"""

import ctypes
import sys

# Parameters of glibc's mallopt, and their values (malloc.h).
_SETTINGS = {
    "M_ARENA_MAX": (-8, 1),  # other arenas map every array of more than 64 MB
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}


def keep_freed() -> None:
    """Makes glibc keep what is freed for the next allocation; does nothing with other C libraries.

    XLA:CPU allocates the temporary arrays of a program together, each time that the program runs,
    and glibc would map them anew: the system then clears pages for a tenth of the time of a step
    or more. The heap grows in the first steps, until its free parts fit, and
    the process keeps it until it ends. Call it before JAX starts its
    threads, each of which would have an arena of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in _SETTINGS.values():
            mallopt(parameter, value)

"""The storage of checkpoints, by Orbax: a directory of steps, each an array tree and a JSON object.

Orbax commits both at once and writes in the background. The caller verifies what it reads. Errors
of its decoders about wrong bytes become `Damaged`.
"""

import functools
import logging
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from bertjax.files import is_local
from bertjax.train.checkpoint.fingerprint import Damaged
from bertjax.train.tree import named, nested

_T = TypeVar("_T")

# The decoders of JSON, of Orbax's metadata and of TensorStore raise these over wrong or missing
# bytes. TensorStore also raises ValueError if it couldn't read the bytes.
_DECODING = (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError)
_DECODING += (RecursionError,)  # of JSON that is nested too deeply
_UNREADABLE = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED|"
    r"CANCELLED|INTERNAL|UNKNOWN)|os_error_code='(?!2')"
)


class Storage:
    """A directory of steps; all processes call every method, from their main threads."""

    def __init__(self, directory: epath.Path, *, read_only: bool) -> None:
        """Opens or makes the directory, and removes the remains of interrupted saves.

        With `read_only` it writes and removes nothing.
        """
        import orbax.checkpoint as ocp

        _mute()
        self.directory = directory
        local = is_local(directory)
        if local:
            directory = directory.resolve()  # Orbax needs an absolute path
        if local and not (read_only or jax.process_index()):
            _remove_interrupted_saves(directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # the caller, which knows the intact steps, decides what to delete
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not (read_only or local),
            lightweight_initialize=True,
            save_root_metadata=False,
        )
        self._handlers = {
            # Compression saves 8% of the space of float32 weights for three times the CPU time.
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "meta": ocp.JsonCheckpointHandler(),
        }

        class Manager(ocp.CheckpointManager):
            def reached_preemption(self, step: int) -> bool:
                # Orbax asks at every save, with the step's number. JAX wants ascending numbers, and
                # stopping.py asks more often: together they would lose the notice.
                return False

        self._manager = Manager(directory, options=options, item_handlers=self._handlers)
        self.writing = self._manager.is_saving_in_progress
        self.wait = self._manager.wait_until_finished
        """Waits until the save under way is committed; raises its error."""
        self.delete = self._manager.delete
        self.close = self._manager.close
        """Waits for the save under way and ends Orbax's threads."""

    def steps(self) -> list[int]:
        """Returns the committed steps, ascending."""
        return sorted(self._manager.all_steps())

    def write(self, step: int, arrays: dict[str, jax.Array], meta: dict[str, Any]) -> None:
        """Starts a save. The arrays are copied before this returns, so they may be donated."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(nested(arrays)), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=items, force=True)

    def read_arrays(
        self, step: int, wanted: dict[str, jax.ShapeDtypeStruct], *, partial: bool
    ) -> dict[str, jax.Array]:
        """Reads arrays of a step by name, onto the wanted shardings (default: the first device).

        Orbax silently casts to the dtypes of `wanted`: compare them before. `partial` says that
        `wanted` lacks some of the saved arrays.
        """
        import orbax.checkpoint as ocp

        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        how = {
            name: ocp.ArrayRestoreArgs(
                sharding=x.sharding or device, global_shape=x.shape, dtype=x.dtype
            )
            for name, x in wanted.items()
        }
        args = ocp.args.PyTreeRestore(
            nested(wanted), restore_args=nested(how), partial_restore=partial
        )
        return named(self.read(step, "state", args))

    def read(self, step: int, item: str, args: Any = None) -> Any:
        """Reads "state" or "meta" of a step; raises `Damaged` if it can't be decoded."""
        try:
            # The manager would wait for the other processes, also for one that failed.
            path = self._manager.directory / str(step) / item
            return self._handlers[item].restore(path, args=args)
        except Exception as error:
            cause = error
            while isinstance(cause.__cause__, Exception):  # Orbax wraps TensorStore's errors
                cause = cause.__cause__
            # A failure of disk, network or memory doesn't mean damage, and may be temporary.
            if not isinstance(cause, _DECODING) or _UNREADABLE.search(str(cause)):
                raise
            first_line = (str(cause).splitlines() or [""])[0][:200]
            raise Damaged(f"{item}: {type(cause).__name__}: {first_line}") from error


def _remove_interrupted_saves(directory: epath.Path) -> None:
    """Removes temporary directories. Orbax does so in threads, whose errors end the next save."""
    for path in list(directory.iterdir()) if directory.exists() else ():
        if ".orbax-checkpoint-tmp" in path.name:
            shutil.rmtree(path, ignore_errors=True)


@functools.cache
def _mute() -> None:
    """Drops what Orbax prints about a failure besides raising it, so that our sentence is visible.

    Orbax logs tracebacks, also of abandoned tasks; TensorStore complains of a closed event loop.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(
        lambda record: not re.search("orbax|tensorstore", record.getMessage())
    )
    hook = sys.unraisablehook

    def selective(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not late and (code is None or "orbax" not in code.co_filename):
            hook(unraisable)

    sys.unraisablehook = selective


# Several processes ------------------------------------------------------------------------------


def told_by_first_process(log: Callable[[str], None]) -> Callable[[str], None]:
    """Returns `log`; in all processes but the first, a function that logs nothing."""
    return (lambda line: None) if jax.process_index() else log


def from_first_process(steps: list[int]) -> list[int]:
    """Returns process 0's list on every process: storage may show a new step to some earlier."""
    if jax.process_count() == 1:
        return steps
    padded = np.full(1024, -1, np.int32)
    padded[: len(steps)] = steps[:1024]
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]


def together(read: Callable[[], _T]) -> _T:
    """Calls `read` on every process; if it raises `Damaged` on one, all raise it.

    A process that found damage alone would take another path than the others, which would wait for
    it in the next program over all devices.
    """
    found, why = None, "another process found damage"
    try:
        found = read()
    except Damaged as damage:
        why = str(damage)
    intact = found is not None
    if jax.process_count() > 1:
        intact = np.all(multihost_utils.process_allgather(np.asarray(intact)))
    if not intact:
        raise Damaged(why)
    return cast(_T, found)

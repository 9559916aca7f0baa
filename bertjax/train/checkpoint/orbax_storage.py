"""The storage of checkpoints, by Orbax: a directory of steps, each an array tree and a JSON object.

Orbax commits both at once and writes in the background. The caller verifies what it reads. Errors
of its decoders about wrong bytes become `Damaged`.
"""

import functools
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from bertjax.train.checkpoint.fingerprint import Damaged
from bertjax.train.tree import named, nested

# The decoders of JSON, of Orbax's metadata and of TensorStore raise these over wrong or missing
# bytes. TensorStore also raises ValueError if it couldn't read the bytes.
_DECODING = (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError)
_UNREADABLE = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED|"
    r"CANCELLED|INTERNAL|UNKNOWN)|os_error_code='(?!2')"
)


class Storage:
    """A directory of steps; all processes call every method, from their main threads.

    Each process reads on its own, and may find damage that the others don't.
    """

    def __init__(self, directory: epath.Path, *, read_only: bool) -> None:
        """Opens or makes the directory, and removes the remains of interrupted saves.

        Args:
            directory: local or remote.
            read_only: write and remove nothing.
        """
        import orbax.checkpoint as ocp

        _mute()
        if "://" not in str(directory):  # Orbax needs an absolute path
            directory = epath.Path(directory).resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # the caller, which knows the intact steps, decides what to delete
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=True,
            save_root_metadata=False,
        )
        self._directory = directory
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

    def writing(self) -> bool:
        """Whether a save is under way."""
        return self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Waits until the save under way is committed; raises its error."""
        self._manager.wait_until_finished()

    def delete(self, step: int) -> None:
        """Removes a committed step."""
        self._manager.delete(step)

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        self._manager.close()

    def read_meta(self, step: int) -> Any:
        """Reads the JSON value of a step.

        Raises:
            Damaged: it can't be read.
        """
        return self._read(step, "meta")

    def read_arrays(
        self, step: int, wanted: dict[str, jax.ShapeDtypeStruct], *, partial: bool
    ) -> dict[str, jax.Array]:
        """Reads arrays of a step by name, onto the wanted shardings (default: the first device).

        Args:
            step: one of `steps()`.
            wanted: the arrays to read. Orbax silently casts to these dtypes: compare them before.
            partial: `wanted` lacks some of the saved arrays.

        Raises:
            Damaged: they can't be read.
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
        return named(self._read(step, "state", args))

    def _read(self, step: int, item: str, args: Any = None) -> Any:
        try:
            # The manager would wait for the other processes, also for one that failed.
            return self._handlers[item].restore(self._directory / str(step) / item, args=args)
        except Exception as error:
            cause = error
            while isinstance(cause.__cause__, Exception):  # Orbax wraps TensorStore's errors
                cause = cause.__cause__
            # A failure of disk, network or memory doesn't mean damage, and may be temporary.
            if not isinstance(cause, _DECODING) or _UNREADABLE.search(str(cause)):
                raise
            first_line = (str(cause).splitlines() or [""])[0][:200]
            raise Damaged(f"{item}: {type(cause).__name__}: {first_line}") from error


def _not_of_a_checkpoint(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "orbax" not in message and "tensorstore" not in message


@functools.cache
def _mute() -> None:
    """Drops what Orbax prints about a failure besides raising it, so that our sentence is visible.

    It logs tracebacks, also of tasks that it abandons when another fails, and TensorStore's threads
    complain that their event loop is closed.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(_not_of_a_checkpoint)
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


def all_processes(agree: bool) -> bool:
    """Whether all processes agree."""
    if jax.process_count() == 1:
        return agree
    return bool(np.all(multihost_utils.process_allgather(np.asarray(agree))))


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

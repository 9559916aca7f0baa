"""Everything that knows Orbax: the steps in a directory, each an array tree and a JSON object.

Orbax commits both at once and writes in the background. It is not trusted further: what it reads
is to be verified by the caller, and what its decoders raise over wrong bytes becomes `Damaged`.
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

from bertjax.train.checkpoint.fingerprint import Damaged
from bertjax.train.tree import named, nested

# What the decoders of JSON, of Orbax's metadata and of TensorStore raise over bytes that are wrong
# or absent; TensorStore's ValueErrors, however, are also about bytes that could not be had.
_DECODING = (FileNotFoundError, ValueError, LookupError, AttributeError, TypeError)
_NOT_TO_BE_HAD = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|ABORTED|"
    r"CANCELLED|INTERNAL|UNKNOWN)|os_error_code='(?!2')"
)


class Storage:
    """A directory of steps; every method is called by all processes, from their main threads.

    Reading is each process's own affair: one may find damage where the others find none.
    """

    def __init__(self, directory: epath.Path, *, read_only: bool) -> None:
        """Opens or makes the directory, and removes what interrupted saves left behind.

        Args:
            directory: local or remote.
            read_only: writes and removes nothing.
        """
        import orbax.checkpoint as ocp

        _mute()
        if "://" not in str(directory):  # Orbax takes no relative path
            directory = epath.Path(directory).resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # what to delete is decided by who knows which steps are good
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=True,
            save_root_metadata=False,
        )
        self._directory = directory
        self._handlers = {
            # Compressing float32 weights saves 8% of the space for three times the CPU time.
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "meta": ocp.JsonCheckpointHandler(),
        }

        class Manager(ocp.CheckpointManager):
            def reached_preemption(self, step: int) -> bool:
                # Asked at every save, by the number of the step. JAX wants the questions numbered
                # upwards, and stopping.py asks more often: the two together lose the notice.
                return False

        self._manager = Manager(directory, options=options, item_handlers=self._handlers)

    def steps(self) -> list[int]:
        """The committed steps, ascending."""
        return sorted(self._manager.all_steps())

    def write(self, step: int, arrays: dict[str, jax.Array], meta: dict[str, Any]) -> None:
        """Starts to save; the arrays are copied before this returns, so they may be donated."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(nested(arrays)), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=items, force=True)

    def writing(self) -> bool:
        """Whether a save is under way."""
        return self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Returns when the save under way is committed; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def delete(self, step: int) -> None:
        """Removes a committed step."""
        self._manager.delete(step)

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        self._manager.close()

    def read_meta(self, step: int) -> Any:
        """The JSON value saved with a step.

        Raises:
            Damaged: it can't be read.
        """
        return self._read(step, "meta")

    def read_arrays(
        self, step: int, wanted: dict[str, jax.ShapeDtypeStruct], *, partial: bool
    ) -> dict[str, jax.Array]:
        """Arrays of a step by name, on the shardings asked for (default: the first device).

        Args:
            step: one of `steps()`.
            wanted: what to read; Orbax casts to these dtypes silently, so compare them before.
            partial: `wanted` is not all that was saved.

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
            # Not by the manager, which waits for the other processes: one that fails never comes.
            return self._handlers[item].restore(self._directory / str(step) / item, args=args)
        except Exception as error:
            cause = error
            while isinstance(cause.__cause__, Exception):  # Orbax wraps what TensorStore raised
                cause = cause.__cause__
            # A disk, a network or a memory that fails is not the file's fault, and may pass.
            if not isinstance(cause, _DECODING) or _NOT_TO_BE_HAD.search(str(cause)):
                raise
            first_line = (str(cause).splitlines() or [""])[0][:200]
            raise Damaged(f"{item}: {type(cause).__name__}: {first_line}") from error


def _not_of_a_checkpoint(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "orbax" not in message and "tensorstore" not in message


@functools.cache
def _mute() -> None:
    """Drops what Orbax prints about a failure besides raising it, so that our sentence is seen.

    These are the tracebacks that it logs, those of the tasks that it leaves behind when the one
    beside them failed, and the complaints of TensorStore's threads that their event loop is gone.
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
    """`log`, and in all processes but the first one that says nothing."""
    return (lambda line: None) if jax.process_index() else log


def from_first_process(steps: list[int]) -> list[int]:
    """Process 0's list on every process: storage may show a new step to some of them earlier."""
    if jax.process_count() == 1:
        return steps
    from jax.experimental import multihost_utils

    padded = np.full(1024, -1, np.int32)
    padded[: len(steps)] = steps[:1024]
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]


def all_processes(agree: bool) -> bool:
    """Whether every process says True."""
    if jax.process_count() == 1:
        return agree
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(agree))))


def barrier(name: str) -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)

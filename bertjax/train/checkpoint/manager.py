"""Verified checkpoints.

A step is the state (arrays named by their paths in the pytree) and a JSON `meta` with a fingerprint
of every array; orbax_storage.py commits both at once, in the background. This module and restore.py
add what Orbax lacks: a restored array must have the saved fingerprint, shape and dtype; a damaged
step is marked, and the one before it is restored; a state that is not finite is refused; only steps
with an intact meta count towards `keep_last` and `keep_best`.
"""

import contextlib
import functools
import importlib.metadata
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental.multihost_utils import sync_global_devices

from bertjax.errors import UserError
from bertjax.files import write_atomically, writing
from bertjax.train.checkpoint.fingerprint import Damaged, describe, seal
from bertjax.train.checkpoint.orbax_storage import Storage, from_first_process
from bertjax.train.checkpoint.restore import (
    AMENDMENT,
    FORMAT_VERSION,
    Restored,
    read_meta,
    read_state,
    some,
)
from bertjax.train.tree import named, nested

_LOGGER = logging.getLogger("bertjax")
_MARKER = "bad"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_FULL_DISK = ("No space left", "File too large", "Disk quota", "os_error_code='28'")


@functools.partial(jax.jit, donate_argnums=0)
def _next_mean(mean: Any, new: Any, count: float) -> Any:
    """Returns the mean of `count` trees from that of the others."""
    return jax.tree.map(lambda old, each: old + (each - old) / count, mean, new)


class Checkpoints:
    """The saved steps of a run, in one directory; call from the main thread of every process."""

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_last: int = 3,
        keep_best: int = 1,
        keep_regular: int = 0,
        interval: int = 1,
        best_mode: Literal["min", "max"] = "min",
        read_only: bool = False,
        log: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        """Opens or makes the directory and removes the remains of interrupted saves.

        Args:
            directory: local or remote, e.g. `gs://bucket/run/checkpoints`.
            keep_last: number of newest intact steps to keep, at least 3, so that after damage or a
                diverging run an earlier step is left.
            keep_best: number of steps with the best metric to keep in addition.
            keep_regular: number of newest steps that are multiples of `interval` to keep in
                addition, for `mean_params`.
            interval: steps between the regular saves of the run.
            best_mode: whether a lower or a higher metric is better.
            read_only: never write, clean or mark; for a run that may be in progress.
            log: receives one line about each damaged step.
        """
        if keep_last < 3:
            raise UserError(
                f"keep_last is {keep_last}: keep at least 3 checkpoints, so that a good one is "
                "left if one is damaged."
            )
        if keep_best < 0:
            raise UserError(f"keep_best is {keep_best}: give 0 or more.")
        self.directory = epath.Path(directory)
        self.best_mode = best_mode
        self._keep_last, self._keep_best = keep_last, keep_best
        self._keep_regular, self._interval = keep_regular, interval
        self.ranked_after = 0
        """Only later steps compete for `keep_best`; earlier ones belong to another phase."""
        self._read_only, self._log = read_only, log
        self._pending: tuple[int, float | None] | None = None
        self._storage = Storage(self.directory, read_only=read_only)
        self._scores: dict[int, float | None] = {}  # of the intact steps
        # Read the steps before any save: Orbax also lists a step whose save failed.
        for step in reversed(self._candidates()):
            with contextlib.suppress(Damaged):
                self._scores[step] = read_meta(self._storage, step).get("metric")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Which steps there are

    def steps(self) -> list[int]:
        """Returns the committed steps that are not marked as bad, ascending."""
        return sorted(self._scores)

    def empty(self) -> bool:
        """Whether the directory has no steps at all, neither intact nor damaged."""
        return not self._storage.steps()

    def best_step(self) -> int | None:
        """Returns the step with the best metric; None if no step has a metric."""
        return next(iter(self._ranked()), None)

    def _ranked(self) -> list[int]:
        sign = 1 if self.best_mode == "min" else -1
        scored = [
            (sign * score, step)
            for step, score in self._scores.items()
            if step > self.ranked_after and score is not None
        ]
        return [step for _, step in sorted(scored)]  # among equal scores the earlier step wins

    # Saving

    def save(
        self, state: Any, meta: dict[str, Any], metric: float | None = None, *, wait: bool = False
    ) -> bool:
        """Saves a state in the background, as the step in its leaf `step`.

        The arrays are copied before this returns, so they may be donated afterwards. The
        fingerprints are computed from the same arrays that Orbax receives.

        Args:
            state: a pytree of arrays with an integer leaf named `step`.
            meta: JSON values to save with it; `restore` returns them.
            metric: the value that `best_mode` compares, if this state was evaluated.
            wait: return only when the step is committed.

        Returns:
            False if this state was saved already, so that nothing was done.

        Raises:
            UserError: the state is not finite (nothing is saved or deleted), or there was no space
                for the previous save.
        """
        self.wait()
        arrays = {name: jnp.asarray(leaf) for name, leaf in named(state).items()}
        step = int(arrays["step"])
        described, not_finite = describe(arrays)
        if not_finite:
            raise UserError(
                f"The state of step {step:,} is not finite ({some(not_finite)}) and was not saved; "
                f"{self.newest_in_words()}. Lower the learning rate and run the same command again."
            )
        if step in self._scores and read_meta(self._storage, step)["arrays"] == described:
            return False
        if step in self._storage.steps():
            self._delete(step)
        if metric is not None and not math.isfinite(metric):
            metric = None
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        content = {"format": FORMAT_VERSION, "step": step, "metric": metric}
        content |= {"versions": versions, **meta, "arrays": described}
        with self._explained(step):
            self._storage.write(step, arrays, seal(content))
        self._pending = (step, metric)
        if wait:
            self.wait()
        return True

    def amend(self, step: int, *, metric: float | None = None, **fields: Any) -> None:
        """Replaces metric and fields of a saved meta, after an interrupted evaluation's repeat."""
        self.wait()
        if metric is not None and math.isfinite(metric):
            self._scores[step] = fields["metric"] = metric
        if jax.process_index() == 0:
            text = json.dumps(seal(fields))
            write_atomically(self.directory / str(step) / AMENDMENT, text.encode())
        sync_global_devices("bertjax_amended")

    def poll(self) -> None:
        """Raises the error of a finished save; does not wait for one under way."""
        # `wait` deletes steps, a collective operation: several processes do it at the next save.
        if self._pending and jax.process_count() == 1 and not self._storage.writing():
            self.wait()

    def wait(self) -> None:
        """Waits until the save under way, if any, is committed; deletes old steps.

        Raises `UserError` if there was no space for it; older steps are then unchanged.
        """
        if self._pending is None:
            return
        # Forget it before its outcome is known: a failed save must never count as a step.
        (step, metric), self._pending = self._pending, None
        with self._explained(step):
            self._storage.wait()
        self._scores[step] = metric
        last = self.steps()[-self._keep_last :]
        regular = [each for each in self.steps()[::-1] if each % self._interval == 0]
        keep = {*last, *self._ranked()[: self._keep_best], *regular[: self._keep_regular]}
        for old in self._storage.steps():
            # A damaged step stays for inspection until enough intact ones follow it.
            if old not in keep and (old in self._scores or old < last[0]):
                self._delete(old)

    def close(self) -> None:
        """Waits for the save under way and releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._storage.close()

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Turns the error of a full disk into a sentence that names the step."""
        try:
            yield
        except (OSError, ValueError) as error:
            if not any(sign in str(error) for sign in _FULL_DISK):
                raise
            raise UserError(
                f"The checkpoint of step {step:,} could not be written to {self.directory}: no "
                f"space left there; {self.newest_in_words()}. Free some space and run the same "
                "command again."
            ) from error

    def newest_in_words(self) -> str:
        """Returns a clause for messages: which step is intact."""
        if not self._scores:
            return "there is no earlier checkpoint"
        return f"the checkpoint of step {max(self._scores):,} is intact"

    def _delete(self, step: int) -> None:
        self._storage.delete(step)
        self._scores.pop(step, None)

    # Restoring

    def restore(
        self,
        target: Any,
        *,
        step: int | None = None,
        accept: Callable[[dict[str, Any]], None] | None = None,
    ) -> Restored | None:
        """Restores and verifies the newest intact state; marks, reports and skips damaged ones.

        Args:
            target: the state as `jax.ShapeDtypeStruct`s with shardings (see `abstract`). Arrays are
                restored onto these shardings, from any topology.
            step: restore only this step.
            accept: called with the meta before any array is read; may raise to refuse the run.

        Returns:
            The state and its meta, or None if nothing was ever saved.

        Raises:
            UserError: every checkpoint is damaged, or has other arrays than `target`.
        """
        self.wait()
        candidates = self._candidates() if step is None else [step]
        if step is not None and step not in self._storage.steps():
            raise UserError(f"{self.directory} holds no checkpoint of step {step:,}.")
        for candidate in candidates:
            try:
                return read_state(self._storage, candidate, target, accept)
            except Damaged as damage:
                self._mark(candidate, str(damage), "and the one before it is used")
        # If all steps were marked before, the directory isn't empty: training would replace them.
        damaged = candidates or from_first_process(self._storage.steps()[::-1])
        if not damaged:
            return None
        names = ", ".join(f"{each:,}" for each in damaged)
        raise UserError(
            f"No checkpoint in {self.directory} is intact (damaged: step {names}): set `fresh` "
            "to start a new run beside them, or put a copy back."
        )

    def restore_params(
        self, target: Any = None, *, which: Literal["best", "latest"] | int = "latest"
    ) -> Restored:
        """Restores only the parameters of a saved state, e.g. for an export.

        These are the arrays under `params`, or their moving averages under `ema` if there are any,
        as in `train.step.TrainState.averaged_params`.

        Args:
            target: the parameters as `jax.ShapeDtypeStruct`s; by default a nested dict of all
                arrays under `params`, on the first device.
            which: the best step (the latest if none was evaluated), the latest, or a step's number.

        Raises:
            UserError: no such step, or it is damaged.
        """
        self.wait()
        step = max(self._scores, default=None) if isinstance(which, str) else which
        if which == "best" and (best := self.best_step()) is not None:
            step = best
        if step not in self._scores:
            raise UserError(f"{self.directory} holds no intact checkpoint ({which} was asked for).")
        try:
            return self._read_params(step, target)
        except Damaged as damage:
            raise UserError(
                f"The checkpoint of step {step:,} in {self.directory} is damaged ({damage}): "
                "resume the run, which goes back to an intact one, or name another step."
            ) from None

    def mean_params(self, target: Any, steps: Sequence[int]) -> tuple[Any, list[int]]:
        """Averages the parameters of several steps; leaves missing ones out, and damaged ones.

        Parameters that are equal in all steps keep their bits. The mean depends on the order of
        the steps in its last bits.

        Source: Vaswani et al. 2017, section 6.1; fairseq's scripts/average_checkpoints.py.

        Args:
            target: the parameters as `jax.ShapeDtypeStruct`s.
            steps: the steps; a damaged one is reported and marked.

        Returns:
            The mean, and the steps that it covers.

        Raises:
            UserError: no step is intact.
        """
        self.wait()
        mean, used = None, []
        for step in (step for step in steps if step in self._scores):
            try:
                params = self._read_params(step, target).state
            except Damaged as damage:
                self._mark(step, str(damage), "and the mean leaves it out")
                continue
            used.append(step)
            mean = params if mean is None else _next_mean(mean, params, float(len(used)))
        if mean is None:
            raise UserError(f"{self.directory} holds no intact checkpoint to average.")
        return mean, used

    def _read_params(self, step: int, target: Any) -> Restored:
        arrays = read_meta(self._storage, step)["arrays"]
        if target is None:
            saved = {n: jax.ShapeDtypeStruct(s, d) for n, (d, s, _) in arrays.items()}
            target = nested(saved)["params"]
        names = [f"ema/{n}" if f"ema/{n}" in arrays else f"params/{n}" for n in named(target)]
        wanted = nested(dict(zip(names, jax.tree.leaves(target), strict=True)))
        restored = read_state(self._storage, step, wanted, partial=True)
        found, structure = named(restored.state), jax.tree.structure(target)
        params = jax.tree.unflatten(structure, [found[name] for name in names])
        return Restored(params, restored.meta)

    def _candidates(self) -> list[int]:
        """Returns the committed steps without a marker, newest first, even with a damaged meta."""
        steps = self._storage.steps()[::-1]
        unmarked = [n for n in steps if not (self.directory / str(n) / _MARKER).exists()]
        return from_first_process(unmarked)

    def _mark(self, step: int, why: str, consequence: str) -> None:
        self._log(
            f"Warning: the checkpoint of step {step:,} in {self.directory} is damaged ({why}); it "
            f"is marked as bad, {consequence}."
        )
        self._scores.pop(step, None)
        if not self._read_only:
            # A rename would not be atomic on an object store.
            if jax.process_index() == 0:
                with writing(self.directory):
                    (self.directory / str(step) / _MARKER).write_text(why)
            sync_global_devices("bertjax_marked")

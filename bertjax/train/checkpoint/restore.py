"""One saved step, read and verified: names, shapes, dtypes, fingerprints, finiteness."""

import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
from etils import epath

from bertjax.errors import UserError
from bertjax.train.checkpoint.fingerprint import Damaged, describe, differences, unseal
from bertjax.train.checkpoint.orbax_storage import Storage, all_processes
from bertjax.train.tree import named

FORMAT_VERSION = 1
AMENDMENT = "amendment.json"


class Restored(NamedTuple):
    """The state that `Checkpoints.restore` found, and the `meta` that was saved with it."""

    state: Any
    meta: dict[str, Any]


def abstract(tree: Any) -> Any:
    """Returns the shapes, dtypes and shardings of a pytree of arrays, for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree,
    )


_T = TypeVar("_T")


class Reader:
    """Reads and verifies the steps of a directory; damage raises `Damaged` on all processes.

    The processes agree after every read. A process that found damage alone would take another path
    than the others, which would wait for it in the next program over all devices.
    """

    def __init__(self, storage: Storage, directory: epath.Path) -> None:
        self._storage, self._directory = storage, directory

    def meta(self, step: int) -> dict[str, Any]:
        """Reads the meta of a step, with later amendments.

        Raises:
            Damaged: it differs from what was saved, or can't be read.
            UserError: another version of bertjax wrote it.
        """
        meta = _together(lambda: unseal(self._storage.read_meta(step), "meta"))
        if meta.get("format") != FORMAT_VERSION:
            raise UserError(
                f"The checkpoint of step {step:,} in {self._directory} has format "
                f"{meta.get('format')}, and this bertjax reads {FORMAT_VERSION}: use the version "
                "of bertjax that wrote it."
            )
        path = self._directory / str(step) / AMENDMENT
        if path.exists():
            with contextlib.suppress(ValueError, Damaged):  # half-written: as if absent
                meta.update(unseal(json.loads(path.read_text()), "amendment"))
        return meta

    def state(
        self,
        step: int,
        target: Any,
        accept: Callable[[dict[str, Any]], None] | None = None,
        *,
        partial: bool = False,
    ) -> Restored:
        """Reads the arrays of a step onto the shardings of `target`, with the step's meta.

        Args:
            step: one of the storage's steps.
            target: the state as `jax.ShapeDtypeStruct`s (see `abstract`).
            accept: called with the meta before any array is read; may raise to refuse the run.
            partial: `target` lacks some of the saved arrays.

        Raises:
            Damaged: the step differs from what was saved, or can't be read.
            UserError: the saved state has other arrays than `target`.
        """
        meta = self.meta(step)
        if accept is not None:
            accept(meta)
        wanted = named(target)
        saved = meta["arrays"]
        if partial:
            saved = {name: saved[name] for name in wanted if name in saved}
        self._compare(step, saved, wanted)
        try:
            arrays = self._read_arrays(step, wanted, saved, partial)
        except Damaged:
            # A second read tells damage on disk from a bit that flipped on its way here.
            arrays = self._read_arrays(step, wanted, saved, partial)
        state = jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in wanted])
        return Restored(state, meta)

    def _compare(self, step: int, saved: dict[str, list], wanted: dict[str, Any]) -> None:
        """Refuses other names, shapes or dtypes, which Orbax would cast silently."""
        if differing := differences(saved, wanted):
            raise UserError(
                f"The checkpoint of step {step:,} in {self._directory} holds another state: "
                f"{some(differing, '; ')}. Set `fresh` to start a new run beside it, or name "
                "another `workdir`."
            )

    def _read_arrays(
        self, step: int, wanted: dict[str, Any], saved: dict[str, list], partial: bool
    ) -> dict[str, jax.Array]:
        arrays = _together(lambda: self._storage.read_arrays(step, wanted, partial=partial))
        described, poisoned = describe({name: arrays[name] for name in wanted})
        wrong = sorted({*poisoned, *(n for n in wanted if described[n][2] != saved[n][2])})
        if wrong:
            raise Damaged(f"not the bits that were saved: {some(wrong)}")
        return arrays


def _together(read: Callable[[], _T]) -> _T:
    """Calls `read` on every process; if it raises Damaged on one, all raise it."""
    found, why = None, "another process found damage"
    try:
        found = read()
    except Damaged as damage:
        why = str(damage)
    if not all_processes(found is not None):
        raise Damaged(why)
    return cast(_T, found)


def some(names: list[str], separator: str = ", ") -> str:
    """Joins the first three names, and says how many more there are."""
    more = f"{separator}and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more

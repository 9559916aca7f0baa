"""One saved step, read and verified: names, shapes, dtypes, fingerprints, finiteness."""

import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bertjax.errors import UserError
from bertjax.train.checkpoint.fingerprint import Damaged, describe, differences, unseal
from bertjax.train.checkpoint.orbax_storage import Storage, together
from bertjax.train.checkpoint.settings import UNSET
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


def read_meta(storage: Storage, step: int) -> dict[str, Any]:
    """Reads the meta of a step, with later amendments.

    Raises:
        Damaged: it differs from what was saved, or can't be read; raised on all processes.
        UserError: another version of bertjax wrote it.
    """
    meta = together(lambda: _well_formed(unseal(storage.read(step, "meta"), "meta")))
    if meta.get("format") != FORMAT_VERSION:
        raise UserError(
            f"The checkpoint of step {step:,} in {storage.directory} has format "
            f"{meta.get('format')}, and this bertjax reads {FORMAT_VERSION}: use the version "
            "of bertjax that wrote it."
        )
    path = storage.directory / str(step) / AMENDMENT
    if path.exists():
        with contextlib.suppress(ValueError, RecursionError, Damaged):  # as if absent
            meta = _well_formed({**meta, **unseal(json.loads(path.read_text()), "amendment")})
    return meta


def _well_formed(meta: dict[str, Any]) -> dict[str, Any]:
    """Returns a meta whose fields have the types that they were saved with.

    Raises:
        Damaged: one has another type.
    """
    kinds = {"arrays": dict, "loop": dict, "immutable": dict, "mutable": dict}
    kinds |= {"metric": int | float | None, UNSET: list}
    for name, kind in kinds.items():
        if name in meta and not isinstance(meta[name], kind):
            raise Damaged(f"meta has a {name} of another type")
    for name, row in meta.get("arrays", {}).items():
        match row:
            case [str(), list() as shape, str()] if all(type(size) is int for size in shape):
                pass
            case _:
                raise Damaged(f"meta describes the array {name} in another way")
    return meta


def read_state(
    storage: Storage,
    step: int,
    target: Any,
    accept: Callable[[dict[str, Any]], None] | None = None,
    *,
    partial: bool = False,
) -> Restored:
    """Reads the arrays of a step onto the shardings of `target`, with the step's meta.

    `target` is the state as `jax.ShapeDtypeStruct`s (see `abstract`); with `partial` it may lack
    some of the saved arrays. `accept` gets the meta before any array is read, and may raise.

    Raises:
        Damaged: the step differs from what was saved, or can't be read; raised on all processes.
        UserError: the saved state has other arrays than `target`.
    """
    meta = read_meta(storage, step)
    if accept is not None:
        accept(meta)
    wanted, saved = named(target), meta["arrays"]
    if partial:
        saved = {name: saved[name] for name in wanted if name in saved}
    if differing := differences(saved, wanted):  # Orbax would cast silently
        raise UserError(
            f"The checkpoint of step {step:,} in {storage.directory} holds another state: "
            f"{some(differing, '; ')}. Set `fresh` to start a new run beside it, or name "
            "another `workdir`."
        )

    def read() -> dict[str, jax.Array]:
        arrays = together(lambda: storage.read_arrays(step, wanted, partial=partial))
        described, not_finite = describe({name: arrays[name] for name in wanted})
        wrong = sorted({*not_finite, *(n for n in wanted if described[n][2] != saved[n][2])})
        if wrong:
            raise Damaged(f"not the bits that were saved: {some(wrong)}")
        return arrays

    try:
        arrays = read()
    except Damaged:  # a second read tells damage on disk from a bit that flipped on its way here
        arrays = read()
    state = jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in wanted])
    return Restored(state, meta)


def some(names: list[str], separator: str = ", ") -> str:
    """Joins the first three names, and says how many more there are."""
    more = f"{separator}and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more

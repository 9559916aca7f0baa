"""The settings of a run that its checkpoints record, and which of them a resumed run may change."""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from bertjax.errors import UserError

ORDER = "order of the data"
"""Name of a setting that is a hash. Another setting that changed, such as the batch size, tells."""
UNSET = "unset"
"""Key of a checkpoint's meta: immutable settings that the checkpoint leaves open (see below)."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The settings of a run, as JSON values by name; a value may be a dict of inner settings."""

    immutable: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    """A resumed run must have the same values. A function returns them for a checkpoint's step."""
    mutable: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """A resumed run may change these values; it logs the changes."""
    effects: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The effect of changing a mutable setting, by its dotted name, for the log."""

    def immutable_at(self, step: int) -> Mapping[str, Any]:
        """Returns the immutable settings of the checkpoint of a step."""
        return self.immutable(step) if callable(self.immutable) else self.immutable


def refuse_changed(
    saved: Mapping[str, Any], here: Mapping[str, Any], where: object, *, unset: Collection[str] = ()
) -> None:
    """Refuses to resume a run whose immutable settings differ from the saved ones.

    Args:
        saved: immutable settings of the checkpoint.
        here: immutable settings of this run.
        where: the run's directory, for the message.
        unset: names without a value in the checkpoint, which was converted from another program's.
            This run may bring any value for them; its own checkpoints record that value.

    Raises:
        UserError: names every setting that differs, with both values.
    """
    here = {n: value for n, value in as_json(here).items() if n in saved or n not in unset}
    differences = list(_differences(saved, here))
    told = [each for each in differences if each[0] != ORDER] or differences
    differing = [
        f"another {name} ({_show(old)} there, {_show(new)} here)" for name, old, new in told
    ]
    if differing:
        raise UserError(
            f"{where} holds a run with {' and '.join(differing)}: set `fresh` to start a new run "
            "beside it, or name another `workdir`."
        )


def describe_changes(
    saved: Mapping[str, Any], here: Mapping[str, Any], effects: Mapping[str, str]
) -> list[str]:
    """Describes every changed mutable setting, e.g. `train_steps 1,000 -> 2,000 (effect)`."""
    return [
        f"{name} {_show(old)} -> {_show(new)}" + (f" ({effects[name]})" if name in effects else "")
        for name, old, new in _differences(saved, as_json(here))
    ]


def first_difference(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> tuple[str, str, str] | None:
    """Returns the dotted name of a setting that differs, with both values in words."""
    differences = list(_differences(there, here))
    told = [each for each in differences if each[0] != ORDER] or differences
    return next(((name, _show(old), _show(new)) for name, old, new in told), None)


def as_json(value: Any) -> Any:
    """Returns a value as JSON reads it back: tuples become lists."""
    return json.loads(json.dumps(value))


_ABSENT = object()


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value there, value here) of what differs; inner names are dotted."""
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name, _ABSENT), here.get(name, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

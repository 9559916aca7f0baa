"""What makes a run the same run when it resumes, and what may change."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bertjax.errors import UserError

UNDECIDED = "undecided"
"""In a checkpoint's meta: the names of its run's identity that the run has no value for yet."""


def refuse_another_run(
    saved: Mapping[str, Any],
    here: Mapping[str, Any],
    where: object,
    *,
    undecided: Collection[str] = (),
) -> None:
    """Refuses to go on with the checkpoint of a run that differs in what may not change.

    Args:
        saved: `identity` of the checkpoint: {name: JSON value}, inner dicts allowed.
        here: the same of this run.
        where: the run's directory, for the message.
        undecided: names that the checkpoint, which was made from another program's, does not know:
            this run may bring any value, and its own checkpoints will have it.

    Raises:
        UserError: names every field that differs, with both values.
    """
    decided = {
        name: value
        for name, value in as_json(here).items()
        if name in saved or name not in undecided
    }
    differing = [
        f"{name} ({_show(old)} there, {_show(new)} here)"
        for name, old, new in _differences(saved, decided)
    ]
    if differing:
        raise UserError(
            f"{where} holds a run with another {' and another '.join(differing)}: use --fresh to "
            "start beside the old run, or give a new --workdir."
        )


def changes(
    saved: Mapping[str, Any], here: Mapping[str, Any], explain: Mapping[str, str]
) -> list[str]:
    """What differs among the facts that may change, e.g. `train_steps 1,000 -> 2,000 (...)`.

    Args:
        saved: `facts` of the checkpoint.
        here: the same of this run.
        explain: what a change of a fact does, by its name.
    """
    return [
        f"{name} {_show(old)} -> {_show(new)}" + (f" ({explain[name]})" if name in explain else "")
        for name, old, new in _differences(saved, as_json(here))
    ]


def as_json(value: Any) -> Any:
    """As it reads back from JSON: tuples have become lists."""
    return json.loads(json.dumps(value))


_ABSENT = object()


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(name, value there, value here) of what differs; inner fields by dotted names."""
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


def refuse_fewer_steps(step: int, train_steps: int, workdir: object) -> None:
    """Refuses to call what was trained for longer the result of so many steps.

    Raises:
        UserError: the run is beyond train_steps.
    """
    if step > train_steps:
        raise UserError(
            f"{workdir}: holds a run at step {step:,}, beyond the {train_steps:,} steps of this "
            "command: ask for more steps or epochs, or start beside it with --fresh."
        )

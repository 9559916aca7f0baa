"""The grid of a fine-tuning run: all combinations of learning rates, batch sizes and epochs, as in
the BERT paper's appendix A.3."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import UserError


class Setting(NamedTuple):
    """One point of the grid."""

    learning_rate: float
    """Peak learning rate."""
    batch_size: int
    """Rows per step, over all devices."""
    epochs: int
    """Passes over the training rows."""


_NAMES = ("learning rate", "batch size", "epochs")


def check_axis(field: str, values: Sequence[float] | None) -> None:
    """Refuses an axis of the grid that is empty, or has a value twice or not above 0.

    Raises:
        UserError: names the field.
    """
    if values is None:
        return
    # Directories and tables show six digits: 1e-5 and 1.0000001e-5 would be the same.
    if not values or len({f"{value:g}" for value in values}) < len(values):
        raise UserError(
            f"`{field}` is {tuple(values)}: give at least one value, and each only once (to six "
            "digits), or leave it out."
        )
    if not all(0 < value < float("inf") for value in values):
        raise UserError(f"`{field}` is {tuple(values)}: give numbers above 0.")


def directory(setting: Setting, grid: Sequence[Setting]) -> str:
    """Returns the directory of a setting: the values that vary in the grid; "" if none does."""
    return "-".join(
        f"{name.replace(' ', '-')}-{value:g}"
        for name, value, varies in zip(_NAMES, setting, _varying(grid), strict=True)
        if varies
    )


def description(setting: Setting, grid: Sequence[Setting]) -> str:
    """Returns the learning rate of a setting, and the other values that vary in the grid."""
    words = (
        f"learning rate {setting.learning_rate:g}",
        f"batch size {setting.batch_size}",
        f"{setting.epochs} epochs",
    )
    _, *varying = _varying(grid)
    return ", ".join([words[0], *itertools.compress(words[1:], varying)])


def _varying(grid: Sequence[Setting]) -> list[bool]:
    """Whether each field of a setting has several values in the grid."""
    return [len(set(column)) > 1 for column in zip(*grid, strict=True)]


def table(tried: Mapping[Setting, float], metric: str, best: Setting) -> list[str]:
    """Returns lines of text: the values that vary, and the metric of each setting."""
    varying = _varying(tuple(tried))
    rows = [(*itertools.compress(_NAMES, varying), metric)]
    for setting, score in tried.items():
        values = itertools.compress((f"{value:g}" for value in setting), varying)
        rows.append((*values, f"{score:.4f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    marks = ["", *("  best" if setting == best else "" for setting in tried)]
    return [line + mark for line, mark in zip(lines, marks, strict=True)]

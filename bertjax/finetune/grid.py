"""The grid of a fine-tuning run: every learning rate with every batch size and number of epochs, as
in the BERT paper's appendix A.3."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bertjax.errors import UserError

if TYPE_CHECKING:
    from bertjax.finetune.run import FinetuneConfig


class Setting(NamedTuple):
    """One point of the grid."""

    learning_rate: float
    """Peak."""
    batch_size: int
    """Rows a step, over all devices."""
    epochs: int
    """Times that every row is seen."""


# In the order of a setting's fields: the configuration's field, and the name in paths.
_AXES = (
    ("learning_rates", "learning-rate"),
    ("batch_sizes", "batch-size"),
    ("epoch_counts", "epochs"),
)


def check_axes(config: "FinetuneConfig") -> None:
    """Refuses a grid of nothing, and one that names a value twice.

    Raises:
        UserError: as said.
    """
    for name, _ in _AXES:
        values = getattr(config, name)
        if values is None:
            continue
        # As directories and tables show them: 1e-5 and 1.0000001e-5 would be one.
        shown = {f"{value:g}" for value in values}
        if not values or len(shown) < len(values):
            raise UserError(
                f"{name} is {tuple(values)}: give at least one to try, and each only once (to "
                "six digits), or leave it out."
            )
        if not all(0 < value < float("inf") for value in values):
            raise UserError(f"{name} are {tuple(values)}: give numbers above 0.")


def settings(config: "FinetuneConfig") -> list[Setting]:
    """All points of the grid, in the order in which they are tried; without a grid the one that the
    configuration names."""
    axes = (
        config.learning_rates or (config.optimizer.learning_rate,),
        config.batch_sizes or (config.batch_size,),
        config.epoch_counts or (config.epochs,),
    )
    return list(itertools.starmap(Setting, itertools.product(*axes)))


def directory(setting: Setting, grid: Sequence[Setting]) -> str:
    """The name of a setting's directory: what varies in the grid; "" where nothing does."""
    return "-".join(
        f"{name}-{value:g}"
        for (_, name), value, varies in zip(_AXES, setting, _varying(grid), strict=True)
        if varies
    )


def said(setting: Setting, grid: Sequence[Setting]) -> str:
    """A setting in words: its learning rate, and what else varies in the grid."""
    words = (
        f"learning rate {setting.learning_rate:g}",
        f"batch size {setting.batch_size}",
        f"{setting.epochs} epochs",
    )
    _, *varying = _varying(grid)
    return ", ".join([words[0], *itertools.compress(words[1:], varying)])


def _varying(grid: Sequence[Setting]) -> list[bool]:
    """Of each field of a setting: whether the grid has several values of it."""
    return [len(set(column)) > 1 for column in zip(*grid, strict=True)]


def table(tried: Mapping[Setting, float], metric: str, best: Setting) -> list[str]:
    """Lines of text: what varies among the settings, each with its metric on the dev rows."""
    varying = _varying(tuple(tried))
    names = itertools.compress(("learning rate", "batch size", "epochs"), varying)
    rows = [(*names, metric)]
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

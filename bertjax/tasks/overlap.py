"""Rows of one labeled file that are in another, which makes its metrics too good."""

from collections.abc import Hashable, Iterator, Sequence

_NAMES = ("training", "dev", "test")
_EFFECTS = (
    "the model learns them by heart, and their metrics are too good",
    "what the dev rows choose fits them, and their metrics are too good",
)


def overlaps(paths: Sequence[str], inputs: Sequence[Sequence[Hashable]]) -> Iterator[str]:
    """Yields a warning for each pair of files with common rows.

    Args:
        paths: the training, the dev and, if there is one, the test file.
        inputs: what the model reads of each row of these files, without the label.
    """
    for later, rows in enumerate(inputs):
        for earlier in range(later):
            there = set(inputs[earlier])
            same = sum(row in there for row in rows)
            if same:
                name, other = _NAMES[later], _NAMES[earlier]
                whole = f" ({paths[later]} is both)" if paths[later] == paths[earlier] else ""
                verb = "is" if same == 1 else "are"
                yield (
                    f"Warning: of {len(rows):,} {name} rows, {same:,} {verb} among the {other} rows"
                    f"{whole}: {_EFFECTS[earlier]}."
                )

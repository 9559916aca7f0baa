"""Tables that reports show beside metrics: dev rows with outputs, and scores of groups of rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MAX_ROWS, MAX_TEXT, GROUPS = 50, 2000, 5
"""Maximum rows of examples, maximum characters of a text, maximum groups of lengths."""


class ReportTable(NamedTuple):
    """A table of a seed's dev rows."""

    title: str
    columns: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str | float]]
    """Texts and numbers, as many as columns."""
    given: int
    """Number of first columns that do not depend on the model, such as source and reference. A page
    that compares runs shows the others side by side."""


def examples(
    title: str, given: Mapping[str, Sequence[str]], outputs: Mapping[str, Sequence[str]]
) -> ReportTable:
    """Returns a table of the first `MAX_ROWS` rows; texts beyond `MAX_TEXT` characters are cut.

    Args:
        title: the heading.
        given: column -> its texts, which the file has.
        outputs: column -> its texts, which the model gives.
    """
    columns = {**given, **outputs}
    rows = list(zip(*(texts[:MAX_ROWS] for texts in columns.values()), strict=True))
    return ReportTable(title, list(columns), [list(map(_cut, row)) for row in rows], len(given))


def _cut(text: str) -> str:
    more = len(text) - MAX_TEXT
    return text if more <= 0 else f"{text[:MAX_TEXT]} [... {more:,} more characters]"


def scores_by_length(
    title: str,
    column: str,
    lengths: np.ndarray,
    scores: Callable[[Sequence[int]], Mapping[str, float]],
) -> ReportTable:
    """Returns a table of the metrics of up to `GROUPS` groups of about as many rows.

    Args:
        title: the heading.
        column: what the lengths are.
        lengths: int [N]; rows of equal length are in one group.
        scores: numbers of rows -> their metrics.
    """
    shares = np.linspace(0, 1, GROUPS + 1)[1:-1]
    edges = np.unique(np.quantile(lengths, shares, method="inverted_cdf"))
    group_of = np.searchsorted(edges, lengths)
    rows, columns = [], [column, "rows"]
    for group in np.unique(group_of):
        own = np.flatnonzero(group_of == group)
        shortest, longest = lengths[own].min(), lengths[own].max()
        found = scores(own.tolist())
        columns = [column, "rows", *found]
        span = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        rows.append([span, len(own), *found.values()])
    return ReportTable(title, columns, rows, given=2)

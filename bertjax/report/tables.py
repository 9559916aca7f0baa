"""The tables of dev rows in reports: outputs beside references, and scores of groups of rows."""

from collections.abc import Mapping, Sequence

from bertjax.report import html
from bertjax.tasks.report_tables import ReportTable

_SHOWN = 10
"""Rows that a page shows at once; the others open with a click."""


def run_tables(tables: Sequence[ReportTable]) -> list[str]:
    """Returns the tables of one run with their headings."""
    pieces = []
    for table in tables:
        pieces += _titled(table.title, table.columns, table.rows)
    return pieces


def compared_tables(tables: Mapping[str, Sequence[ReportTable]]) -> list[str]:
    """Returns tables whose rows have the outputs of several runs side by side.

    Args:
        tables: label of a run -> its tables. Tables of one title are compared in the rows whose
            given columns are the same in all of them.
    """
    pieces = []
    for title in dict.fromkeys(table.title for own in tables.values() for table in own):
        found = {
            label: table for label, own in tables.items() for table in own if table.title == title
        }
        if len(found) > 1:
            pieces += _compared(title, found)
    return pieces


def _compared(title: str, tables: Mapping[str, ReportTable]) -> list[str]:
    first = next(iter(tables.values()))
    given = tuple(first.columns[: first.given])
    columns, outputs = list(given), []
    for label, table in tables.items():
        if tuple(table.columns[: table.given]) != given:
            return []
        own = table.columns[table.given :]
        columns += [label] if len(own) == 1 else [f"{column}, {label}" for column in own]
        outputs.append({tuple(row[: table.given]): row[table.given :] for row in table.rows})
    keys = [key for key in outputs[0] if all(key in own for own in outputs)]
    rows = [[*key, *(cell for own in outputs for cell in own[key])] for key in keys]
    return _titled(title, columns, rows) if rows else []


def _titled(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> list[str]:
    """A heading and a table, of which the first rows are shown at once."""
    pieces = [html.heading(title), _table(columns, rows[:_SHOWN])]
    if more := rows[_SHOWN:]:
        pieces.append(html.folded(f"{len(more)} more rows", _table(columns, more), "more"))
    return pieces


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    numbers = [at for at, cell in enumerate(rows[0]) if not isinstance(cell, str)]
    words, style = (html.text, "") if numbers else (html.long_text, "texts")
    cells = [
        [words(cell) if isinstance(cell, str) else html.number(cell) for cell in row]
        for row in rows
    ]
    return html.table(columns, cells, numbers, style)

"""Pairs of source and target from a table, or from two parallel files of lines."""

from typing import NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks import tables
from bertjax.tasks.seq2seq.config import Seq2SeqConfig


class Pairs(NamedTuple):
    """N sources and targets."""

    sources: list[str]
    targets: list[str]
    places: list[str]
    """`file:line` of each target."""

    def __len__(self) -> int:
        return len(self.sources)


def read_pairs(path: epath.PathLike, options: Seq2SeqConfig) -> Pairs:
    """Reads a .tsv, .csv or .jsonl file, or the parallel files `path`.SOURCE and `path`.TARGET.

    Raises:
        UserError: something is wrong with a file, a source or a target is empty, or parallel files
            have different numbers of lines.
    """
    columns = (options.source_column, options.target_column)
    path = location(path)
    if tables.is_table(path):
        fields = dict(zip(columns, ("source_column", "target_column"), strict=True))
        table = tables.read_table(path, fields, column_names=options.column_names)
        sources, targets = (table.columns[name] for name in columns)
        source_places = target_places = [table.where(row) for row in range(len(table))]
    else:
        (sources, source_places), (targets, target_places) = (
            _lines(path, name) for name in columns
        )
        if len(sources) != len(targets):
            raise UserError(
                f"{path}.{columns[0]} has {len(sources):,} lines and {path}.{columns[1]} "
                f"{len(targets):,}: parallel files need the same number."
            )
    for kind, texts, places in (
        ("source", sources, source_places),
        ("target", targets, target_places),
    ):
        for text, place in zip(texts, places, strict=True):
            if not text.strip():
                raise UserError(f"{place}: the {kind} is empty; write it, or remove the row.")
    return Pairs(sources, targets, target_places)


def _lines(path: epath.Path, suffix: str) -> tuple[list[str], list[str]]:
    """Returns the lines of a file and their places."""
    file = path.parent / f"{path.name}.{suffix}"
    if not file.exists():
        raise UserError(
            f"{path}: is neither a {tables.FORMATS} file nor the beginning of two parallel files, "
            f"because {file} does not exist."
        )
    text = tables.read_text(file, "text")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    places = [f"{file}:{number}" for number in range(1, len(lines) + 1)]
    for line, place in zip(lines, places, strict=True):
        tables.check_text(line, place)
    return lines, places

"""Checks labeled files before a model is loaded: whether they exist and have the columns."""

import csv
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import file_sha256, is_local, location, reading
from bertjax.tasks.tables import missing_column
from bertjax.text import compressed, tfds_source


def check_file(path: str, options: Any) -> None:
    """Refuses a labeled file that is absent, or a .tsv or .csv file whose header lacks a column.

    Args:
        path: a file, a TFDS data set, or the beginning of the names of parallel files.
        options: options of a task; their `columns`, if they have any, are what every table has.

    Raises:
        UserError: the file or a column is absent.
    """
    if path.startswith(tfds_source.PREFIX):
        return
    file, columns = location(path), getattr(options, "columns", ())
    if not file.exists():
        if any(file.parent.glob(f"{file.name}.*")):
            return
        raise UserError(f"{path}: no such file; give the path of a labeled file.")
    name = compressed.text_name(file).lower()
    if not columns or options.column_names or not name.endswith((".tsv", ".csv")):
        return
    with compressed.open_text(file) as opened:
        line = opened.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    try:
        fields = line.split("\t") if name.endswith(".tsv") else next(csv.reader([line]), [])
    except csv.Error:
        return  # the reader of the whole file has a better sentence
    names = [each.strip() for each in fields]
    for field, column in vars(options).items():
        if names != [""] and column in columns and column not in names:
            raise UserError(f"{file}:1: {missing_column(column, names, field)}")


def file_digest(path: str) -> str | None:
    """Returns the SHA-256 of a local file's bytes; None for remote and parallel ones, and TFDS."""
    file = epath.Path(path)
    if path.startswith(tfds_source.PREFIX) or not (is_local(path) and file.is_file()):
        return None
    with reading(file):
        return file_sha256(file)

"""Labelled rows from TSV, CSV and JSON-lines files, each knowing its file and line."""

import csv
import dataclasses
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location

MAX_FIELD = 131_072
"""Longest value in characters, the csv module's own limit: far beyond what a BERT reads."""

_READERS = ".tsv, .csv or .jsonl"


@dataclasses.dataclass(frozen=True)
class Table:
    """Chosen columns of a file; row i of every column began at `lines[i]`."""

    path: epath.Path
    """The file the rows come from."""
    columns: dict[str, list[str]]
    """Values as text, by column name."""
    lines: list[int]
    """Line of the file, from 1, that each row begins at."""

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.path}:{self.lines[row]}"


def read_table(
    path: epath.PathLike,
    columns: Sequence[str],
    *,
    column_names: Sequence[str] | None = None,
) -> Table:
    """Reads the named columns; the file's suffix says how.

    `.tsv` is read as GLUE's files are: fields between tabs, and a quote is a character like any
    other. `.csv` is RFC 4180: quoted fields may hold commas, doubled quotes and line breaks.
    `.jsonl` (or `.json`) holds one JSON object a line; numbers keep the digits of the file.
    UTF-8, with or without a byte-order mark; lines end with LF or CRLF; empty lines are skipped.

    Args:
        path: the file; any scheme `epath` knows.
        columns: names of the columns to return.
        column_names: names of the fields of a TSV or CSV file that has no header.

    Raises:
        UserError: anything wrong with the file; the sentence names the file and the line.
    """
    path = location(path)
    text = read_text(path, (".tsv", ".csv", ".jsonl", ".json"), _READERS)
    rows = _rows(path, text, columns, column_names)
    values: dict[str, list[str]] = {name: [] for name in columns}
    lines: list[int] = []
    for line, row in rows:
        for name in values:
            values[name].append(_field(row, name, f"{path}:{line}"))
        lines.append(line)
    if not lines:
        raise UserError(f"{path}: has a header and no rows; add at least one row of data.")
    return Table(path, values, lines)


def check_text(text: str, where: str, *, longest: int | None = MAX_FIELD) -> str:
    """The text itself, if a tokenizer can read it.

    Args:
        text: to check.
        where: what messages call it.
        longest: most characters of a text that is read whole; None where it may be any.

    Raises:
        UserError: it holds a NUL or a lone surrogate, or is longer than that.
    """
    if longest is not None and len(text) > longest:
        raise UserError(
            f"{where}: a value has {len(text):,} characters, more than the {longest:,} that are "
            "read; is a line break or a closing quote missing? Otherwise shorten it."
        )
    if "\0" in text:
        raise UserError(f"{where}: holds a NUL character; remove it, or give a text file.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: holds half of a surrogate pair ({text[error.start]!a}), which is no "
            "character; repair the text where it was cut."
        ) from None
    return text


def read_text(path: epath.Path, suffixes: Sequence[str], formats: str) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Args:
        path: the file.
        suffixes: what its name may end with.
        formats: what messages call these.

    Raises:
        UserError: another name, no such file, or no text in UTF-8.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: can't tell the format by its name; name the file {formats}.")
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name one {formats} file.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a {formats} file.") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read; change its permissions.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}:1: begins as UTF-16 does; save the file as UTF-8.")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UserError(f"{path}: is empty; give a file with rows of data.")
    if (at := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, at) + 1
        raise UserError(f"{path}:{line}: holds a NUL byte; remove it, or give a text file.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file to it."
        ) from None


def _rows(
    path: epath.Path, text: str, columns: Sequence[str], column_names: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, field by name) of every row; the fields are still to be checked."""
    if path.suffix.lower() in (".jsonl", ".json"):
        if column_names:
            raise UserError(f"{path}: its objects name their columns; leave out --column-names.")
        return _json_rows(path, text)
    fields = _tsv_fields(text) if path.suffix.lower() == ".tsv" else _csv_fields(path, text)
    return _named_rows(path, fields, columns, column_names)


def _tsv_fields(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            yield number, line.split("\t")


def _csv_fields(path: epath.Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _bad_csv(f"{path}:{begin}", str(error))
        if fields:
            yield begin, fields


def _bad_csv(where: str, error: str) -> NoReturn:
    if "unexpected end of data" in error:
        problem = "a quote that opens in the row beginning here is never closed"
    elif "expected after" in error:
        problem = "a quote closes in the middle of a field of the row beginning here"
    elif "field limit" in error:
        problem = f"a field has more than {MAX_FIELD:,} characters, as if a quote were never closed"
    else:
        problem = f"not CSV ({error})"
    raise UserError(
        f"{where}: {problem}; put quotes around the whole field and double those inside it, or "
        "save the file as .tsv, where quotes mean nothing."
    )


def _named_rows(
    path: epath.Path,
    rows: Iterator[tuple[int, list[str]]],
    columns: Sequence[str],
    column_names: Sequence[str] | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    if column_names:
        names, source = list(column_names), "--column-names"
    else:
        line, fields = next(rows)
        names, source = [name.strip() for name in fields], f"{path}:{line}"
    for name in columns:
        if name not in names:
            raise UserError(f"{source}: {missing_column(name, names)}")
        if names.count(name) > 1:
            raise UserError(f"{source}: two columns are named {_short(name)}; rename one of them.")
    for line, fields in rows:
        if len(fields) != len(names):
            separator = "tabs" if path.suffix.lower() == ".tsv" else "commas"
            raise UserError(
                f"{path}:{line}: fields in this row: {len(fields)}, in {source}: {len(names)}; "
                f"repair the row (fields are separated by {separator})."
            )
        yield line, dict(zip(names, fields, strict=True))


def _json_rows(path: epath.Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if len(line) > 64 * MAX_FIELD:
            raise UserError(
                f"{where}: the line has {len(line):,} characters; write one object a line, each "
                f"of at most {64 * MAX_FIELD:,} characters."
            )
        yield number, _json_object(line, where)


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        # Numbers stay text: a label "1.0" keeps its name, and 5,000 digits are no int to convert.
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(
            f"{where}: the JSON is nested too deeply; write one flat object a line."
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at character {error.pos + 1}); write one object a "
            'line, such as {"text": "...", "label": "..."}.'
        ) from None
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: holds no JSON object; write one object a line, such as "
            '{"text": "...", "label": "..."}.'
        )
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; write a number or a string")


def _field(row: dict[str, Any], name: str, where: str) -> str:
    """The value of a column as text, checked."""
    if name not in row:
        raise UserError(f"{where}: {missing_column(name, list(row))}")
    value = row[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        raise UserError(
            f"{where}: column {name!r} holds {kinds[type(value)]}; write a string or a number."
        )
    return check_text(value, where)


def missing_column(name: str, present: Sequence[str]) -> str:
    """What to say of a column that isn't there: those that are, and the nearest of them."""
    shown = ", ".join(_short(column) for column in present[:12]) or "none"
    more = f" and {len(present) - 12} more" if len(present) > 12 else ""
    # Compared without case: "Sentence" is near "sentence".
    lowered = {column.lower(): column for column in present}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {_short(lowered[near[0]])}?" if near else "name one of these"
    return (
        f"no column {_short(name)}; the columns are {shown}{more}; {hint} "
        "(or give --column-names, if the file is a TSV or CSV without a header)."
    )


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "...")

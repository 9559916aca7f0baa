"""Tables from TSV, CSV and JSON-lines files, with the line of each row."""

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
"""Maximum characters of a value: the limit of the csv module."""

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json")
"""Suffixes of the files that `read_table` reads."""
FORMATS = ".tsv, .csv or .jsonl"
"""Their names in errors."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Some columns of a file."""

    path: epath.Path
    """The file."""
    columns: dict[str, list[str]]
    """Values of each column, as text."""
    lines: list[int]
    """Line of the file, from 1, at which each row begins."""

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Returns `file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"


def read_table(
    path: epath.PathLike,
    columns: Sequence[str],
    *,
    column_names: Sequence[str] | None = None,
    may_be_lists: bool = False,
) -> Table:
    """Reads some columns of a file, whose suffix gives its format.

    `.tsv` has fields between tabs, in which quotes have no meaning, as in GLUE's files. `.csv`
    follows RFC 4180: quoted fields may hold commas, doubled quotes and line breaks. `.jsonl` (or
    `.json`) has one JSON object per line; numbers keep the digits of the file, and the column a.b
    is the field b of the object a. All are UTF-8, with
    or without a byte-order mark. Lines end with LF or CRLF, and empty lines are skipped.

    Args:
        path: the file, in any scheme of `epath`.
        columns: names of the columns to return.
        column_names: names of all fields, for a TSV or CSV file without a header.
        may_be_lists: whether values of JSON objects may be lists too, which become JSON text.

    Raises:
        UserError: something is wrong with the file; the sentence names the line.
    """
    path = location(path)
    text = read_text(path, SUFFIXES, FORMATS)
    rows = _rows(path, text, columns, column_names)
    values: dict[str, list[str]] = {name: [] for name in columns}
    lines: list[int] = []
    for line, row in rows:
        for name in values:
            values[name].append(_field(row, name, f"{path}:{line}", may_be_lists))
        lines.append(line)
    if not lines:
        raise UserError(f"{path}: has a header and no rows; add at least one row of data.")
    return Table(path, values, lines)


def check_text(text: str, where: str, *, max_length: int | None = MAX_FIELD) -> str:
    """Returns the text if a tokenizer can read it.

    Args:
        text: the text.
        where: its name in errors.
        max_length: maximum number of characters, or None.

    Raises:
        UserError: it holds a NUL or a lone surrogate, or is too long.
    """
    if max_length is not None and len(text) > max_length:
        raise UserError(
            f"{where}: a value has {len(text):,} characters, more than the maximum of "
            f"{max_length:,}; is a line break or a closing quote missing? Otherwise shorten it."
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
    """Returns the text of a UTF-8 file, without its byte-order mark.

    Args:
        path: the file.
        suffixes: suffixes that its name may have.
        formats: their names in errors.

    Raises:
        UserError: the file has another suffix, does not exist or is not UTF-8.
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
    """Yields (line, field by name) of each row; the fields are not checked yet."""
    if path.suffix.lower() in (".jsonl", ".json"):
        if column_names:
            raise UserError(f"{path}: its objects name their columns; leave out `column_names`.")
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
        names, source = list(column_names), "`column_names`"
    else:
        line, fields = next(rows)
        names, source = [name.strip() for name in fields], f"{path}:{line}"
    for name in columns:
        if name not in names:
            raise UserError(f"{source}: {missing_column(name, names)}")
        if names.count(name) > 1:
            raise UserError(f"{source}: two columns are named {shorten(name)}; rename one of them.")
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
                f"{where}: the line has {len(line):,} characters; write one object per line, each "
                f"of at most {64 * MAX_FIELD:,} characters."
            )
        yield number, _json_object(line, where)


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        # Numbers stay text: a label "1.0" keeps its name, and int() refuses 5,000 digits.
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(
            f"{where}: the JSON is nested too deeply; write one flat object per line."
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
            f"{where}: holds no JSON object; write one object per line, such as "
            '{"text": "...", "label": "..."}.'
        )
    return row


def read_json(text: str) -> Any:
    """Returns the value of a text that is JSON, and None for any other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; write a number or a string")


def _field(row: dict[str, Any], name: str, where: str, may_be_list: bool) -> str:
    """Returns the value of a column as checked text."""
    outer, _, inner = name.partition(".")
    if name not in row and isinstance(row.get(outer), dict):
        return _field(row[outer], inner, f"{where}: {outer}", may_be_list)
    if name not in row:
        raise UserError(f"{where}: {missing_column(name, list(row))}")
    value = row[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and may_be_list:
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        raise UserError(
            f"{where}: column {name!r} holds {kinds[type(value)]}; write a string or a number."
        )
    return check_text(value, where)


def missing_column(name: str, present: Sequence[str]) -> str:
    """Returns the error for a missing column: the present ones, and the most similar of them."""
    shown = ", ".join(shorten(column) for column in present[:12]) or "none"
    more = f" and {len(present) - 12} more" if len(present) > 12 else ""
    lowered = {column.lower(): column for column in present}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {shorten(lowered[near[0]])}?" if near else "name one of these"
    return (
        f"no column {shorten(name)}; the columns are {shown}{more}; {hint} "
        "(or give `column_names`, if the file is a TSV or CSV without a header)."
    )


def shorten(text: str) -> str:
    """Returns the quoted text, truncated to 40 characters."""
    return repr(text if len(text) <= 40 else text[:40] + "...")

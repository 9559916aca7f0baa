"""Tables from TSV, CSV and JSON Lines files and TFDS data sets, with the line of each row."""

import csv
import dataclasses
import difflib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.text import compressed, corpus, tfds_source

MAX_FIELD = 131_072
"""Maximum characters of a value: the limit of the csv module."""

FORMATS = ".tsv, .csv or .jsonl"
"""The files that `read_table` reads, in errors."""

_JSON = (*corpus.JSON_LINES, ".json")
_MAX_UNPACKED = 1 << 31
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Table:
    """Some columns of a file."""

    path: epath.Path
    """The file."""
    columns: dict[str, list[str]]
    """Values of each column, as text."""
    lines: list[int]
    """Line of the file, from 1, at which each row begins; of a data set the example, from 0."""

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Returns `file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"


def read_table(
    path: epath.PathLike,
    columns: Iterable[str],
    *,
    column_names: Sequence[str] | None = None,
    may_be_lists: bool = False,
    may_be_null: Collection[str] = (),
) -> Table:
    """Reads some columns of a file, or of the TFDS data set tfds:NAME[/CONFIG][:VERSION][:SPLIT].

    `.tsv` has fields between tabs, in which quotes have no meaning, as in GLUE's files. `.csv`
    follows RFC 4180: quoted fields may hold commas, doubled quotes and line breaks. `.jsonl` (or
    .json, .ndjson, .jsonlines, or any other name if the first line begins with a JSON object) has
    one JSON object per line; numbers keep the digits of the file, and the column a.b is the field b
    of the object a. All are UTF-8, with or without a byte-order mark, and may be compressed. Lines
    end with LF or CRLF, and empty lines are skipped.

    Args:
        path: the file, in any scheme of `epath`.
        columns: names of the columns to return. A mapping has the configuration's field that names
            each, for errors.
        column_names: names of all fields, for a TSV or CSV file without a header.
        may_be_lists: whether values of JSON objects may be lists too, which become JSON text.
        may_be_null: columns whose null is an empty value.

    Raises:
        UserError: something is wrong with the file; the sentence names the line.
    """
    fields = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    path, rows = _open(path, fields, column_names)
    values: dict[str, list[str]] = {name: [] for name in fields}
    lines: list[int] = []
    for line, row in rows:
        for name, field in fields.items():
            where = f"{path}:{line}"
            values[name].append(
                _value(row, name, field, where, may_be_lists, null=name in may_be_null)
            )
        lines.append(line)
    if not lines:
        raise UserError(f"{path}: has a header and no rows; add at least one row of data.")
    table = Table(path, values, lines)
    if column_names:
        _refuse_header(table)
    return table


def is_table(path: epath.PathLike) -> bool:
    """Whether a name is that of a table: a file, a TFDS data set, or a name that ends like one."""
    name = compressed.text_name(epath.Path(path)).lower()
    is_named = name.endswith((".tsv", ".csv", *_JSON))
    return is_named or str(path).startswith(tfds_source.PREFIX) or location(path).is_file()


def as_number(text: str) -> float | None:
    """Returns the number that a text spells, or None."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _refuse_header(table: Table) -> None:
    """Refuses a file whose first row names the columns, by their names or above numbers."""
    names = all(values[0].strip().lower() == name.lower() for name, values in table.columns.items())
    numbers = any(
        len(values) > 2
        and values[0].strip()
        and as_number(values[0]) is None
        and None not in map(as_number, values[1:])
        for values in table.columns.values()
    )
    if names or numbers:
        found = ", ".join(shorten(values[0]) for values in table.columns.values())
        raise UserError(
            f"{table.where(0)}: is a header ({found}), and `column_names` is for files without "
            "one: leave out `column_names`, or remove the line."
        )


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


def read_text(path: epath.Path, formats: str) -> str:
    """Returns the text of a UTF-8 file, compressed or not, without its byte-order mark.

    Args:
        path: the file.
        formats: the formats that it may have, for errors.

    Raises:
        UserError: the file does not exist, can't be read or is not UTF-8.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name one {formats} file.")
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a {formats} file.")
    with compressed.open_text(path) as file:
        data = file.read(_MAX_UNPACKED if compressed.is_compressed(path) else -1)
    if compressed.is_compressed(path) and len(data) == _MAX_UNPACKED:
        raise UserError(f"{path}: unpacks to more than {_MAX_UNPACKED >> 30} GiB; split the file.")
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


_Rows = Iterator[tuple[int, dict[str, Any]]]
"""(line, value by name) of each row; the values are not checked yet."""


def _open(
    path: epath.PathLike, columns: Mapping[str, str], column_names: Sequence[str] | None
) -> tuple[epath.Path, _Rows]:
    """Returns the full path, and the rows."""
    if str(path).startswith(tfds_source.PREFIX):
        name, examples = tfds_source.rows(str(path))
        path, rows = epath.Path(name), enumerate(examples)
    else:
        path = location(path)
        text, suffix = read_text(path, FORMATS), _suffix(path)
        if suffix in (".tsv", ".csv"):
            lines = _tsv_fields(text) if suffix == ".tsv" else _csv_fields(path, text)
            return path, _named_rows(path, lines, columns, column_names)
        if suffix not in _JSON and not corpus.begins_as_object(text[:4096].encode()):
            raise UserError(f"{path}: can't tell the format by its name; name the file {FORMATS}.")
        rows = _json_rows(path, text)
    if column_names:
        raise UserError(f"{path}: its rows name their columns; leave out `column_names`.")
    return path, rows


def _suffix(path: epath.Path) -> str:
    return epath.Path(compressed.text_name(path)).suffix.lower()


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
    columns: Mapping[str, str],
    column_names: Sequence[str] | None,
) -> _Rows:
    if column_names:
        names, source = list(column_names), "`column_names`"
    else:
        line, fields = next(rows)
        names, source = [name.strip() for name in fields], f"{path}:{line}"
    for name, field in columns.items():
        if name not in names:
            raise UserError(f"{source}: {missing_column(name, names, field)}")
        if names.count(name) > 1:
            raise UserError(f"{source}: two columns are named {shorten(name)}; rename one of them.")
    for line, fields in rows:
        if len(fields) != len(names):
            separator = "tabs" if _suffix(path) == ".tsv" else "commas"
            raise UserError(
                f"{path}:{line}: fields in this row: {len(fields)}, in {source}: {len(names)}; "
                f"repair the row (fields are separated by {separator})."
            )
        yield line, dict(zip(names, fields, strict=True))


def _json_rows(path: epath.Path, text: str) -> _Rows:
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


def _value(
    row: dict[str, Any], name: str, field: str, where: str, may_be_list: bool, *, null: bool
) -> str:
    """Returns the value of a column as checked text."""
    outer, _, inner = name.partition(".")
    if name not in row and isinstance(row.get(outer), dict):
        return _value(row[outer], inner, field, f"{where}: {outer}", may_be_list, null=null)
    if name not in row:
        raise UserError(f"{where}: {missing_column(name, list(row), field)}")
    value = row[name]
    if value is None and null:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):  # JSON's numbers are texts already
        return str(value)
    if isinstance(value, list) and may_be_list:
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        raise UserError(
            f"{where}: column {name!r} holds {kinds[type(value)]}; write a string or a number."
        )
    return check_text(value, where)


def missing_column(name: str, present: Sequence[str], field: str = "") -> str:
    """Returns the error for a missing column, which a field names: the present ones, and the most
    similar of them."""
    shown = ", ".join(shorten(column) for column in present[:12]) or "none"
    more = f" and {len(present) - 12} more" if len(present) > 12 else ""
    lowered = {column.lower(): column for column in present}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f" (did you mean {shorten(lowered[near[0]])}?)" if near else ""
    option = f" with `{field}`" if field else ""
    return (
        f"no column {shorten(name)}; the columns are {shown}{more}; name one of them{option}{hint} "
        "or, if a TSV or CSV file has no header, all of its columns with `column_names`."
    )


def shorten(text: str) -> str:
    """Returns the quoted text, truncated to 40 characters."""
    return repr(text if len(text) <= 40 else text[:40] + "...")

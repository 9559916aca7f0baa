"""Files of CoNLL columns: a word a line, and a blank line between sentences."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.tasks import tables
from bertjax.tasks.token_classification.tagged import Tagged

FORMATS = "CoNLL or .jsonl"
"""The files that are read, in errors."""

_DOCSTART = "-DOCSTART-"
_SEPARATOR = re.compile(r"[ \t]+")


def read_columns(path: epath.Path, options: Any) -> Tagged:
    """Reads a file of columns; see `files.read_tagged`."""
    lines = [line.rstrip("\r") for line in tables.read_text(path, FORMATS).split("\n")]
    data = ((at, line) for at, line in enumerate(lines) if line.strip() and _DOCSTART not in line)
    begin = next((at for at, line in data if not line.startswith("# ")), None)
    if begin is None:
        raise UserError(f"{path}: has no words; give a file with a word and its tag a line.")
    split = _splitter(lines[begin])
    columns = len(split(lines[begin]))
    token, tag, has_header = _columns(path, begin, split(lines[begin]), options)
    if has_header:
        lines[begin] = ""
    words, tags, starts, documents, comments = [], [], [], [], 0
    document, is_inside = 0, False
    for at, line in enumerate(lines):
        if not line.strip():
            is_inside = False
            continue
        fields = split(line)
        if fields[0] == _DOCSTART:
            document, is_inside = document + 1, False
        elif not is_inside and line.startswith("# ") and len(fields) != columns:
            comments += 1
        else:
            _check_line(fields, columns, tag, f"{path}:{at + 1}")
            if not is_inside:
                starts.append(at + 1)
                documents.append(document)
                words.append([])
                tags.append([])
            is_inside = True
            words[-1].append(fields[token])
            tags[-1].append(fields[tag])
    if not words:
        raise UserError(f"{path}: has a header and no words; add sentences.")
    return Tagged(
        path,
        [tuple(each) for each in words],
        [tuple(each) for each in tags],
        lambda sentence, word: f"{path}:{starts[sentence] + word}",
        documents,
        comments=comments,
    )


def _splitter(line: str) -> Callable[[str], list[str]]:
    """Splits lines at tabs if the first of them has one, and else at spaces."""
    if "\t" in line:
        return lambda each: [field.strip() for field in each.rstrip("\t").split("\t")]
    return lambda each: _SEPARATOR.split(each.strip(" \t"))


def _columns(
    path: epath.Path, begin: int, fields: Sequence[str], options: Any
) -> tuple[int, int, bool]:
    """Returns the columns of words and tags from 0, and whether the line is a header."""
    where, names = f"{path}:{begin + 1}", options.column_names or ()
    if len(fields) < 2:
        raise UserError(
            f"{where}: has the one column {tables.shorten(fields[0])}; write a word and its tag a "
            "line, with a tab or a space between."
        )
    if names and len(names) != len(fields):
        raise UserError(
            f"{where}: has {len(fields)} columns, and `column_names` names {len(names)}; name all."
        )
    found, has_header = [], False
    for field, default in (("token_column", 0), ("tag_column", len(fields) - 1)):
        name = getattr(options, field)
        if name is None:
            found.append(default)
        elif name.isdecimal():
            if not 1 <= int(name) <= len(fields):
                raise UserError(
                    f"{where}: has {len(fields)} columns, and `{field}` is {name}; give a number "
                    f"from 1 to {len(fields)}."
                )
            found.append(int(name) - 1)
        elif name in (names or fields):
            found.append((names or fields).index(name))
            has_header = not names
        else:
            columns = tables.missing_column(name, list(names or fields), field)
            raise UserError(f"{where}: {columns}")
    if found[0] == found[1]:
        raise UserError(f"{where}: `token_column` and `tag_column` are the same column; give two.")
    return found[0], found[1], has_header


def _check_line(fields: Sequence[str], columns: int, tag: int, where: str) -> None:
    if len(fields) != columns:
        raise UserError(
            f"{where}: has {len(fields)} columns, and the first line of the file {columns}; repair "
            "it (a blank line separates sentences)."
        )
    if not fields[tag]:
        raise UserError(f"{where}: has no tag; write one, or drop the line.")

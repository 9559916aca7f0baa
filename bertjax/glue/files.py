"""The files of a task: found in GLUE's directory, or written from TFDS or by holding out rows."""

from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location, write_atomically
from bertjax.glue.benchmark import GlueTask, TestFile
from bertjax.tasks.batches import epoch_order
from bertjax.tasks.tables import as_number, missing_column, read_text, shorten
from bertjax.text import tfds_source

TRAIN = "train.tsv"


class LabeledFiles(NamedTuple):
    """The labeled files of a task."""

    task: GlueTask
    train: epath.Path
    dev: epath.Path
    second_dev: epath.Path | None
    columns: tuple[str, ...]
    """Names of all columns, if the files have no header."""


class GlueData:
    """The files of GLUE."""

    def __init__(self, directory: str, workdir: epath.Path, hold_out: float) -> None:
        """Takes the place of the data, and a directory for files that are written.

        Raises:
            UserError: there is no such directory.
        """
        self.specification, self.workdir, self.hold_out = directory, workdir, hold_out
        self.is_tfds = directory.startswith(tfds_source.PREFIX)
        if not self.is_tfds:
            self.directory = location(directory)
            if not self.directory.is_dir():
                raise UserError(
                    f"{directory}: no such directory; give that of GLUE, with CoLA/train.tsv, "
                    "RTE/train.tsv, ..., or tfds:glue."
                )

    def find(self, task: GlueTask) -> LabeledFiles | str:
        """Returns the labeled files of a task, or says what is missing.

        Raises:
            UserError: a file has other columns than GLUE's, or can't be read.
        """
        if self.is_tfds:
            return self._from_tfds(task)
        folder = self.directory / task.name
        train, dev = folder / TRAIN, folder / task.dev
        if not train.exists():
            return f"{train} is missing"
        second = folder / task.second_dev if task.second_dev else None
        second = second if second is not None and second.exists() else None
        if not dev.exists():
            if not self.hold_out:
                return f"{dev} is missing (set `hold_out` to evaluate on training rows)"
            _check_labeled(train, task)
            return LabeledFiles(task, *self._split(task, train), second, task.columns)
        for path in filter(None, (train, dev, second)):
            _check_labeled(path, task)
        return LabeledFiles(task, train, dev, second, task.columns)

    def test_rows(self, task: GlueTask, test: TestFile) -> list[tuple[str, str]] | None:
        """Returns the texts and second texts ("" without) of a test file; None if it is missing.

        Raises:
            UserError: it has other columns than GLUE's, or can't be read.
        """
        if self.is_tfds:
            config, *columns = (test.config or task.tfds[0], *task.tfds[1:])
            try:
                rows = tfds_source.rows(f"{self.specification}/{config}:{test.split}")[1]
            except UserError:
                return None
            return [_pair(_clean(row[name]) for name in columns) for row in rows]
        path = self.directory / task.name / test.file
        if not path.exists():
            return None
        columns = _check_columns(path, task, labeled=False)
        places = [columns.index(name) for name in (task.text, task.pair) if name]
        found = []
        for number, fields in _rows(path, skip=1):
            if len(fields) != len(columns):
                raise UserError(
                    f"{path}:{number}: fields in this row: {len(fields)}, in the header: "
                    f"{len(columns)}; give GLUE's own file."
                )
            found.append(_pair(fields[place] for place in places))
        return found

    def _split(self, task: GlueTask, train: epath.Path) -> tuple[epath.Path, epath.Path]:
        """Writes some training rows to a dev file, and the others to a training file."""
        lines = [line for line in read_text(train, ".tsv").split("\n") if line.strip("\r")]
        head = [] if task.columns else [lines.pop(0)]
        count = round(self.hold_out * len(lines))
        if not 0 < count < len(lines):
            raise UserError(
                f"{train}: `hold_out` {self.hold_out} of its {len(lines):,} rows leaves no rows to "
                "train on or to evaluate on: give another share."
            )
        held = set(epoch_order(0, 0, len(lines))[:count].tolist())
        dev = [line for row, line in enumerate(lines) if row in held]
        rest = [line for row, line in enumerate(lines) if row not in held]
        return self._written(task, TRAIN, head + rest), self._written(task, "dev.tsv", head + dev)

    def _from_tfds(self, task: GlueTask) -> LabeledFiles | str:
        """Writes a data set of TFDS as GLUE's files."""
        config, *columns = task.tfds
        head = "\t".join(filter(None, (task.text, task.pair, task.label)))
        paths = []
        for split in task.splits:
            try:
                name, rows = tfds_source.rows(f"{self.specification}/{config}:{split}")
            except UserError as error:
                return str(error)
            lines = [head]
            for number, row in enumerate(rows):
                texts = [_clean(row[column]) for column in columns]
                lines.append("\t".join((*texts, _label(task, row["label"], f"{name}:{number}"))))
            paths.append(self._written(task, f"{split}.tsv", lines))
        train, dev, *second = paths
        return LabeledFiles(task, train, dev, second[0] if second else None, ())

    def _written(self, task: GlueTask, name: str, lines: list[str]) -> epath.Path:
        path = self.workdir / "data" / task.name / name
        data = "".join(f"{line}\n" for line in lines).encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)
        return path


def _label(task: GlueTask, value: object, where: str) -> str:
    """Returns a label of TFDS as GLUE's files have it."""
    if not task.labels:
        return str(value)
    names = task.names or task.labels
    if value not in names:
        raise UserError(f"{where}: the label is {value!r}; build GLUE with one of {names}.")
    return task.labels[names.index(str(value))]


def _clean(text: str) -> str:
    return " ".join(text.split())


def _pair(texts: Iterator[str]) -> tuple[str, str]:
    first, *second = texts
    return first, second[0] if second else ""


def _rows(path: epath.Path, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(path, ".tsv").split("\n"), start=1):
        line = line.removesuffix("\r")
        if line and number > skip:
            yield number, line.split("\t")


def _check_labeled(path: epath.Path, task: GlueTask) -> None:
    """Raises a UserError unless a file has the columns of a task, and labels of GLUE."""
    columns = _check_columns(path, task, labeled=True)
    place = columns.index(task.label)
    for number, fields in _rows(path, skip=0 if task.columns else 1):
        value = fields[place] if place < len(fields) else ""
        score = as_number(value)
        known = value in task.labels if task.labels else score is not None and 0 <= score <= 5
        if not known:
            among = f"one of {', '.join(task.labels)}" if task.labels else "a number from 0 to 5"
            raise UserError(
                f"{path}:{number}: column {task.label!r} has {shorten(value)}, and {task.name} has "
                f"{among}; correct the row."
            )


def _check_columns(path: epath.Path, task: GlueTask, *, labeled: bool) -> list[str]:
    """Returns the names of the columns of a file.

    Raises:
        UserError: it does not have those of the task.
    """
    _, fields = next(_rows(path))
    if labeled and task.columns:
        if len(fields) != len(task.columns):
            raise UserError(
                f"{path}:1: fields in this row: {len(fields)}, and {task.name} has "
                f"{len(task.columns)} without a header ({', '.join(task.columns)}); give GLUE's "
                "own file."
            )
        return list(task.columns)
    for name in (task.text, task.pair, task.label if labeled else None):
        if name and name not in fields:
            problem = missing_column(name, fields).partition("; did")[0].partition("; name")[0]
            raise UserError(f"{path}:1: {problem}; give GLUE's own file of {task.name}.")
    return fields

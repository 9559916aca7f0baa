"""The leaderboard's submission: a zip of one file of predictions per test set."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from bertjax import signals
from bertjax.files import write_atomically
from bertjax.glue.benchmark import TASKS, GlueTask, TestFile
from bertjax.glue.files import GlueData
from bertjax.inference.predict import predict
from bertjax.interop.huggingface import from_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.rundir.records import read_object
from bertjax.tasks.task import data_hash

_CHUNK = 4096  # lines between looks for a signal
_MADE = "made.json"  # the weights and the rows of each file


def write_predictions(
    glue: GlueData, task: GlueTask, export: str, workdir: epath.Path, log: Callable[[str], None]
) -> None:
    """Writes workdir/NAME.tsv for each test file of a task that there is.

    Predictions of the same rows by the same weights are kept.
    """
    model = from_pretrained(export)
    weights = weights_hash(model.params)
    for test in task.tests:
        rows = glue.test_rows(task, test)
        if rows is None:
            continue
        path, made = workdir / f"{test.name}.tsv", read_object(workdir / _MADE)
        key = {"weights": weights, "rows": data_hash(rows)}
        if made.get(test.name) == key and path.exists():
            continue
        log(f"Answering the {len(rows):,} rows of {test.name}.")
        write_atomically(path, _table(_answers(model, task, rows)))
        write_atomically(workdir / _MADE, json.dumps({**made, test.name: key}).encode())


def _answers(model: Any, task: GlueTask, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for first in range(0, len(rows), _CHUNK):
        signals.check()
        texts = [row if task.pair else row[0] for row in rows[first : first + _CHUNK]]
        for answer in predict(model, texts):
            if task.labels:
                yield answer["label"]
            else:
                yield f"{min(max(answer['score'], 0.0), 5.0):.3f}"


def _table(values: Sequence[str] | Iterator[str]) -> bytes:
    lines = (f"{number}\t{value}\n" for number, value in enumerate(values))
    return "".join(("index\tprediction\n", *lines)).encode()


def write_zip(workdir: epath.Path, output: epath.Path) -> list[str]:
    """Writes the zip of all files of the leaderboard; returns the names of those without a model.

    They have the official number of rows and one answer for all, as the leaderboard needs every
    file and scores each alone.
    """
    filled, buffer = [], io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for task in TASKS.values():
            for test in task.tests:
                path = workdir / f"{test.name}.tsv"
                data = path.read_bytes() if path.exists() else _default(task, test)
                if not path.exists():
                    filled.append(test.name)
                # A fixed date, so that equal predictions make equal bytes.
                archive.writestr(zipfile.ZipInfo(f"{test.name}.tsv"), data, zipfile.ZIP_DEFLATED)
    write_atomically(output, buffer.getvalue())
    return filled


def _default(task: GlueTask, test: TestFile) -> bytes:
    return _table([task.default] * test.rows)

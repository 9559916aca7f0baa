"""Run directories: choosing one, and the files that describe its run."""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.experimental.multihost_utils import sync_global_devices

from bertjax.errors import UserError
from bertjax.files import damaged, is_local, output_directory, write_atomically
from bertjax.interop.run_checkpoints import FINETUNING, KIND
from bertjax.locks import LOCK, locked
from bertjax.rundir.records import CONFIG, RESULT, TABLES, Metric, read_object
from bertjax.tasks.report_tables import ReportTable
from bertjax.train.checkpoint.orbax_storage import from_first_process
from bertjax.train.checkpoint.settings import as_json, refuse_changed
from bertjax.train.telemetry import goodput

KINDS = (KIND, FINETUNING, "GLUE")


@contextlib.contextmanager
def open_workdir(
    workdir: str, kind: str, log: Callable[[str], None], *, fresh: bool
) -> Iterator[epath.Path]:
    """Yields the named directory, or with `fresh` the first unused of name-2, name-3, ...

    The first process holds the lock of the directory; see `locks.locked`.

    Args:
        workdir: the directory that the user named.
        kind: kind of the run, one of `KINDS`.
        log: receives a warning if there can be no lock.
        fresh: never resume an existing run.

    Raises:
        UserError: a file is in the way, the directory belongs to another run, or another process is
            at work there.
    """
    path = _choose(workdir, kind, fresh=fresh)
    lock = contextlib.nullcontext() if jax.process_index() else locked(path, "workdir", log)
    with goodput.command(), lock:
        _check_shared(path)
        yield path


def _check_shared(path: epath.Path) -> None:
    """Raises `UserError` on a host that does not see the lock of the first one."""
    if jax.process_count() == 1 or not is_local(path):
        return
    sync_global_devices("bertjax_locked")
    for _ in range(20):  # a network file system may show it late
        if (path / LOCK).exists():
            break
        time.sleep(0.5)
    else:
        raise UserError(
            f"{path}: this host does not see the run directory of host 0: name a `workdir` on a "
            "file system that all hosts share, or gs://."
        )
    sync_global_devices("bertjax_seen")


def refuse_changed_run(
    path: epath.Path, immutable: Mapping[str, Any], names: Collection[str] | None = None
) -> None:
    """Raises `UserError` unless settings are those that config.json says every run must share.

    `names` are those of the settings to compare; None: all.
    """
    if saved := saved_settings(path):
        compared = {name: value for name, value in saved.items() if names is None or name in names}
        refuse_changed(compared, immutable, path)


def saved_settings(path: epath.Path) -> dict[str, Any]:
    """Returns the settings that config.json says every run must share; empty if there is none."""
    saved = read_object(path / CONFIG).get("immutable", {})
    if not isinstance(saved, dict):
        damaged(path / CONFIG, "its immutable settings", "set `fresh` to start a new run beside it")
    return saved


def _choose(workdir: str, kind: str, *, fresh: bool) -> epath.Path:
    path = output_directory(workdir)
    number = 1
    if fresh and path.exists():
        number = 2
        while (path.parent / f"{path.name}-{number}").exists():
            number += 1
    # A late process may find that another has made the directory already.
    (number,) = from_first_process([number])
    if number > 1:
        return path.parent / f"{path.name}-{number}"
    if not (path / CONFIG).exists():
        return path
    found = read_object(path / CONFIG).get("kind")
    if found != kind:
        what = f"a {found} run" if found in KINDS else f"a {CONFIG} that is of no run"
        raise UserError(
            f"{path}: holds {what}, and this is a {kind} run: name another `workdir`, or set "
            "`fresh` to start a new run beside it."
        )
    return path


def write_config(
    workdir: epath.Path,
    kind: str,
    config: Mapping[str, Any],
    immutable: Mapping[str, Any] | None = None,
    metrics: Sequence[Metric] = (),
) -> None:
    """Writes workdir/config.json: the configuration, the kind of the run, and more.

    `config` has the fields of the run's configuration, in nested dicts. `immutable` are settings
    that every run in the directory must share. `metrics` tells reports how to show the metrics, the
    main one first.
    """
    fields = {"kind": kind, **config}
    fields.pop("hosts", None)  # they may change from one command to the next
    if immutable is not None:
        fields["immutable"] = as_json(immutable)
    if metrics:
        fields["metrics"] = [metric._asdict() for metric in metrics]
    _write_json(workdir / CONFIG, fields)


def write_result(
    workdir: epath.Path, sentence: str, steps: int, more: Mapping[str, Any] | None = None
) -> None:
    """Writes workdir/result.json: the result of a run that finished after so many steps."""
    _write_json(workdir / RESULT, {"sentence": sentence, "steps": steps, **(more or {})})


def write_tables(workdir: epath.Path, tables: Sequence[ReportTable]) -> None:
    """Writes workdir/tables.json: what reports show of the dev rows beside the metrics."""
    _write_json(workdir / TABLES, {"tables": [table._asdict() for table in tables]})


def _write_json(path: epath.Path, fields: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode())

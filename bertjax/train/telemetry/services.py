"""Weights & Biases and trackio: trackers that log a run's records, configuration and last values.

Neither package is imported, and nothing connects, unless a run's configuration names a project.
"""

import contextlib
import importlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import is_local, write_atomically
from bertjax.train.telemetry.metrics_file import KINDS

_NO_METRIC = frozenset({"step", "kind", "time"})


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of a record that are numbers."""
    return {
        name: float(value)
        for name, value in record.items()
        if name not in _NO_METRIC and isinstance(value, int | float)
    }


class Service:
    """A tracker that logs to wandb, or to trackio, which has the same functions.

    A file in the run directory stores the run's id and the last logged steps. A resumed run
    continues the same run there and doesn't log a repeated step twice.
    """

    def __init__(
        self, module: str, project: str, workdir: epath.Path, settings: Mapping[str, Any]
    ) -> None:
        """Imports the module, "wandb" or "trackio"; nothing connects before `begin`.

        `settings` are the run's configuration as JSON values. Raises `UserError` if the package is
        not installed.
        """
        try:
            self._service = importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"`telemetry.{module}` needs the package {module}, which is not installed: pip "
                f"install 'bertjax[{module}]'."
            ) from None
        self._module, self._project, self._workdir = module, project, workdir
        self._settings = dict(settings)
        self._file = workdir / f"{module}.json"
        self._memory: dict[str, Any] = {}
        self._latest: dict[str, float] = {}
        self._run: Any = None

    def begin(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Starts or resumes the service's run, and logs the records that it lacks."""
        # The parent directory tells the runs of seeds apart.
        name = "-".join(self._workdir.parts[-2:]).strip("/")
        self._memory = self._read() or {"id": f"{name}-{uuid.uuid4().hex[:8]}"}
        own = {"project": self._project, "config": self._settings, "name": self._memory["id"]}
        if self._module == "wandb":
            own |= {"name": name, "id": self._memory["id"]}
            if is_local(self._workdir):
                own["dir"] = str(self._workdir)
        self._write()
        self._run = self._service.init(resume="allow", **own)
        for record in history:
            self.record(record)

    def record(self, record: Mapping[str, Any]) -> None:
        """Logs a record, unless an earlier process did."""
        kind, step = record.get("kind"), record["step"]
        if kind not in KINDS:
            return
        named = {f"{kind}/{name}": value for name, value in scalars(record).items()}
        self._latest |= named
        if step <= self._memory.get(kind, 0):
            return
        self._run.log(named, step=step)
        self._memory[kind] = step
        if is_local(self._file):
            self._write()

    def flush(self) -> None:
        """Stores the last logged steps."""
        if self._run is not None:
            self._write()

    def end(self) -> None:
        """Logs the last values and ends the service's run."""
        if self._run is None:
            return
        self._write()
        if self._module == "wandb":
            self._run.summary.update(self._latest)
        self._run.finish()
        self._run = None

    def _write(self) -> None:
        write_atomically(self._file, (json.dumps(self._memory) + "\n").encode())

    def _read(self) -> dict[str, Any] | None:
        if not self._file.exists():
            return None
        with contextlib.suppress(ValueError):
            memory = json.loads(self._file.read_text())
            if isinstance(memory, dict) and isinstance(memory.get("id"), str):
                return memory
        raise UserError(
            f"{self._file}: names no run of {self._module}; remove it to log to a new run."
        )

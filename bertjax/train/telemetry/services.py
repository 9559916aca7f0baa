"""Weights & Biases and trackio: a run's records, settings and last values, where they are shown.

Neither is imported, and nothing connects, unless a run asks for it by its flag.
"""

import importlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import is_local, write_atomically

KINDS = ("train", "eval")
"""The kinds of records."""
# What a record says of itself instead of the model.
_NO_METRIC = frozenset({"step", "kind", "time"})


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record that are numbers."""
    return {
        name: float(value)
        for name, value in record.items()
        if name not in _NO_METRIC and isinstance(value, int | float)
    }


class Service:
    """A tracker (`train.trackers`) that logs to wandb, or to trackio, whose functions are like it.

    The run's id is kept in the run directory, with the last steps that were logged: a run that goes
    on goes on there too, and what it repeats after a sudden end, with the same bits, is left out.
    """

    def __init__(
        self, module: str, project: str, workdir: epath.Path, settings: Mapping[str, Any]
    ) -> None:
        """Imports the package; nothing connects before `begin`.

        Args:
            module: "wandb" or "trackio".
            project: there.
            workdir: the run directory.
            settings: of the run, as JSON values.

        Raises:
            UserError: the package is not installed.
        """
        try:
            self._service = importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"telemetry.{module} needs the package {module}, which is not installed: pip "
                f"install 'bertjax[{module}]'."
            ) from None
        self._module, self._project, self._workdir = module, project, workdir
        self._settings = dict(settings)
        self._file = workdir / f"{module}.json"
        self._memory: dict[str, Any] = {}
        self._latest: dict[str, float] = {}
        self._run: Any = None

    def begin(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Starts the run there, or goes on with it, and logs what it lacks of the history."""
        # Of seeds the directory above says which run they are of.
        name = "-".join(self._workdir.parts[-2:]).strip("/")
        self._memory = self._remembered() or {"id": f"{name}-{uuid.uuid4().hex[:8]}"}
        own = {"name": self._memory["id"]}
        if self._module == "wandb":
            own = {"name": name, "id": self._memory["id"]}
            if is_local(self._workdir):
                own["dir"] = str(self._workdir)
        self._write()
        self._run = self._service.init(
            project=self._project, config=self._settings, resume="allow", **own
        )
        for record in history:
            self.record(record)

    def record(self, record: Mapping[str, Any]) -> None:
        """Logs a record, unless an earlier process has."""
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
        """Keeps the last steps that were logged."""
        if self._run is not None:
            self._write()

    def end(self) -> None:
        """Gives the last values and finishes."""
        if self._run is None:
            return
        self._write()
        if self._module == "wandb":
            self._run.summary.update(self._latest)
        self._run.finish()
        self._run = None

    def _write(self) -> None:
        write_atomically(self._file, (json.dumps(self._memory) + "\n").encode())

    def _remembered(self) -> dict[str, Any] | None:
        if not self._file.exists():
            return None
        try:
            memory = json.loads(self._file.read_text())
        except ValueError:
            memory = None
        if not isinstance(memory, dict) or not isinstance(memory.get("id"), str):
            raise UserError(
                f"{self._file}: names no run of {self._module}: remove it to log to a new one."
            )
        return memory

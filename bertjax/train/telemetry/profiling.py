"""Traces of some steps with JAX's profiler."""

import pathlib
import tempfile

from etils import epath

from bertjax.files import is_local, writing


class Profiler:
    """Traces steps first to last, and the beginning of the next, which is dispatched by then."""

    def __init__(self, first: int, last: int, directory: epath.Path) -> None:
        """Each trace gets a subdirectory of `directory`, named by the time."""
        self._first, self._last, self._directory = first, last, directory
        self._writes_to: epath.Path | None = None
        self._started = 0

    def before(self, step: int) -> None:
        """Starts a trace if one of the steps is about to be dispatched."""
        if self._writes_to is not None or not self._first <= step <= self._last:
            return
        import jax

        local = is_local(self._directory)
        self._writes_to = self._directory if local else epath.Path(tempfile.mkdtemp())
        self._started = step
        with writing(self._writes_to):
            self._writes_to.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(str(self._writes_to))

    def after(self, step: int) -> str | None:
        """Ends the trace after the last step; returns the sentence to log then."""
        return self.close(step) if step >= self._last else None

    def close(self, step: int) -> str | None:
        """Ends the trace under way, if any; returns a sentence with its place."""
        if self._writes_to is None:
            return None
        import jax

        written, self._writes_to = self._writes_to, None
        with writing(self._directory):
            jax.profiler.stop_trace()
            if written != self._directory:
                _move(written, self._directory)
        return (
            f"Traced steps {self._started:,} to {step:,} into {self._directory}: pip install "
            f"xprof, then xprof --logdir {self._directory}."
        )


def _move(source: epath.Path, target: epath.Path) -> None:
    """Moves local files into an object store, to which the profiler can't write."""
    for path in pathlib.Path(source).rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    source.rmtree()

"""Runs the work of preparing as Apache Beam pipelines, here or on a cluster (extra beam).

A pipeline distributes the calls that local worker processes get (`workers.py`), one pipeline for
each pass. Calls leave their results under final names, so Beam may repeat them.
"""

import contextlib
import difflib
import importlib
import io
import json
import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bertjax import signals
from bertjax.data.prepare.workers import Workers
from bertjax.errors import Stopped, UserError
from bertjax.files import CannotWrite, is_local, write_atomically

_SECONDS_BETWEEN_CHECKS = 1.0
_DEFAULTS = (
    "direct_running_mode=multi_processing",
    "default_sdk_harness_log_level=WARNING",
    # No pipeline here has triggers. With this flag DirectRunner does not download Prism, a program
    # that it would run instead.
    "allow_unsafe_triggers",
)


# The functions are written for processes that make one call at a time, and tokenizers have caches.
# Some runners give a process several threads.
_ONE_CALL = threading.Lock()


class BeamWorkers(Workers):
    """Runs functions on the workers of a Beam runner."""

    def __init__(
        self, flags: str, processes: int, places: Sequence[object], answers: epath.Path
    ) -> None:
        """Reads Beam's flags.

        Args:
            flags: the flags, separated as in a shell.
            processes: the number of DirectRunner's processes, unless a flag gives another one.
            places: the input and the output.
            answers: a directory for what the calls return.

        Raises:
            UserError: Beam is not installed, or refuses a flag; a remote runner and a local place.
        """
        super().__init__(1)
        self._answers, self._pipelines = answers, 0
        try:
            self._beam = importlib.import_module("apache_beam")
        except ImportError:
            raise UserError(
                "`runner` beam needs apache-beam, which is not installed: pip install "
                "'bertjax[beam]'."
            ) from None
        defaults = (f"direct_num_workers={processes}", *_DEFAULTS)
        self._options = _options([*(f"--{each}" for each in defaults), *_words(flags)])
        _check_runner(self._beam, self._options, places)

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        progress: str = "",
        log: Callable[[str], None] | None = None,
    ) -> list[Any]:
        """Does the same as `Workers.run`; the results are values of JSON."""
        if not arguments:
            return []
        if log is not None:
            log(f"{progress}: a pipeline of {len(arguments):,} tasks.")
        self._pipelines += 1
        answers = self._answers / str(self._pipelines)
        answers.mkdir()
        pipeline = self._beam.Pipeline(options=self._options)
        numbers = self._beam.Create(range(len(arguments)))
        call = self._beam.Map(_call, function, list(arguments), str(answers))
        _ = pipeline | numbers | function.__name__ >> call
        self._run(pipeline)
        found = {int(path.stem): json.loads(path.read_bytes()) for path in answers.glob("*.json")}
        for _, answer in sorted(found.items()):
            if "mistake" in answer:
                raise (CannotWrite if answer["cannot_write"] else UserError)(*answer["mistake"])
        return [found.get(number, {}).get("result") for number in range(len(arguments))]

    def _run(self, pipeline: Any) -> None:
        try:
            try:
                result = pipeline.run()
            except ImportError as error:  # DataflowRunner without its libraries
                raise UserError(f"`beam_flags`: {error}.") from None
            try:
                # Most runners have a state before their job ends, DirectRunner only then.
                while not self._beam.runners.runner.PipelineState.is_terminal(result.state):
                    signals.check()
                    time.sleep(_SECONDS_BETWEEN_CHECKS)
            except Stopped:
                result.cancel()
                raise
            result.wait_until_finish()  # raises the error of a job that failed
        finally:
            signals.check()  # a call in a thread has raised Stopped, which Beam reports as its own


def _call(
    number: int, function: Callable[..., Any], arguments: list[tuple[Any, ...]], answers: str
) -> None:
    """Makes one of the calls; writes a file if it returns something or finds a mistake."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core already has a worker
    try:
        with _ONE_CALL:
            result = function(*arguments[number])
        answer = {} if result is None else {"result": result}
    except UserError as error:
        answer = {"mistake": error.args, "cannot_write": isinstance(error, CannotWrite)}
    if answer:
        write_atomically(epath.Path(answers) / f"{number}.json", json.dumps(answer).encode())


def _words(flags: str) -> list[str]:
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UserError(f"`beam_flags` {flags!r}: {error}; quote it as in a shell.") from None
    if words and not words[0].startswith("--"):
        raise UserError(f"`beam_flags`: {words[0]!r} is no flag; flags begin with --.")
    return words


def _options(words: list[str]) -> Any:
    """Returns the PipelineOptions; Beam itself ignores flags that it does not know."""
    kind = importlib.import_module("apache_beam.options.pipeline_options").PipelineOptions
    options, known = kind(words), kind([]).get_all_options()
    try:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit:  # argparse
        reason = told.getvalue().rpartition("error: ")[2].strip()
        raise UserError(f"`beam_flags`: Beam refuses a flag ({reason}).") from None
    if unknown := [name for name in given if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, 1)
        asked = f"did you mean --{near[0]}?" if near else "leave it out."
        raise UserError(f"`beam_flags`: Beam has no --{unknown[0]}; {asked}")
    return options


def _check_runner(beam: Any, options: Any, places: Sequence[object]) -> None:
    """Raises `UserError` if the runner can't run, or its workers can't reach a place."""
    kinds = beam.options.pipeline_options
    try:
        name = type(beam.Pipeline(options=options).runner).__name__
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"`beam_flags`: {' '.join(str(error).split())}") from None
    is_loopback = options.view_as(kinds.PortableOptions).environment_type == "LOOPBACK"
    if name in kinds.StandardOptions.LOCAL_RUNNERS or is_loopback:
        return
    for place in places:
        if is_local(str(place)):
            raise UserError(
                f"{place}: the workers of Beam's {name} can't reach this machine's files; give "
                "gs:// paths for `input` and `output`."
            )

"""The exceptions: `UserError`, which a user can correct, and the user's request to stop."""

from collections.abc import Iterable

EXIT_MISTAKE, EXIT_STOPPED = 2, 75
"""Exit codes of a command: a `UserError`; stopped early, and resumable by the same command."""

_MAX_MESSAGE = 2000


def _shortened(text: str) -> str:
    """Leaves out the middle of a text that is too long for a message."""
    left_out, half = len(text) - _MAX_MESSAGE, _MAX_MESSAGE // 2
    return text if left_out <= 0 else f"{text[:half]} ... ({left_out:,} more) ... {text[-half:]}"


class UserError(ValueError):
    """One sentence: what is wrong, where (file:line if there is one), and what to do instead.

    A message names configuration fields in backquotes by their dotted path, e.g. `loop.patience`.
    The command line prints it with flags in their place and exits with code 2. Every other
    exception keeps its traceback and exits with code 1.

    A message may quote its input, which may be of any length: the middle of a long one is left out.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_shortened(str(argument)) for argument in arguments))


class Stopped(BaseException):
    """SIGTERM or SIGINT ended the work early; the same call resumes it.

    The command line exits with code 75.
    """


def refuse_unknown(field: str, value: object, known: Iterable[str]) -> None:
    """Raises `UserError` unless a field has one of its known values.

    The command line checks these values itself; a recipe, which is Python, needs this check.
    """
    names = tuple(known)
    if value not in names:
        raise UserError(f"{field} {value!r} is unknown: give one of {', '.join(names)}.")

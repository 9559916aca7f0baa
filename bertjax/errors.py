"""Mistakes of the user's, said in one sentence; and the user's wish to stop."""

from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where (file:line if there is one), and what to do instead, in one sentence.

    Raised where the fault is known. The command line prints it and exits with code 2; every other
    exception keeps its traceback and exits with code 1.
    """


class Stopped(BaseException):
    """SIGTERM or SIGINT ended the work early, and the same call goes on with it.

    The command line exits with code 75.
    """


def refuse_unknown(field: str, value: object, known: Iterable[str]) -> None:
    """Raises `UserError` unless a field has one of its known values.

    For what the command line checks by itself and a recipe, which is Python, does not.
    """
    names = tuple(known)
    if value not in names:
        raise UserError(f"{field} {value!r} is unknown: give one of {', '.join(names)}.")

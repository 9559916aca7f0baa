"""Lines for a terminal, in which control characters of file names and texts are escaped."""

import logging
import re
import sys

# Control characters except tab and newline, marks that change the direction of text, other ends of
# lines, and halves of characters, which can't be printed.
_UNSAFE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Returns a text with its control characters as escapes, e.g. `\x1b`."""
    if text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class _State:
    is_mute = False


def mute(is_mute: bool = True) -> None:
    """Makes `say_line` and `complain` print nothing, as on all hosts of a run but one."""
    _State.is_mute = is_mute


def say_line(line: str) -> None:
    """Prints a line on standard output."""
    if not _State.is_mute:
        print(printable(line), flush=True)


def complain(line: str) -> None:
    """Prints a line on standard error."""
    if not _State.is_mute:
        print(printable(line), file=sys.stderr)


class Complaints(logging.Handler):
    """Prints the library's warnings as the command line prints its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the message of a log record on standard error."""
        complain(f"bertjax: {record.getMessage()}")

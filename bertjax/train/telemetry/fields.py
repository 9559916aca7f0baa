"""How metrics, speeds and durations read in a line."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Field(NamedTuple):
    """How one metric appears in a line; lines list metrics in the order of their fields."""

    name: str
    """Key in the metrics that the step or the evaluation returns."""
    label: str = ""
    """Name in the line; by default the key."""
    format: str = ".3f"
    """Format specification of the value and of its reference."""
    reference: tuple[str, float] | None = None
    """Value to compare with, printed beside it, e.g. ("unigram", 6.71)."""
    last: bool = False
    """Report the newest value instead of the mean since the previous line."""

    def show(self, value: float) -> str:
        """Formats a value, e.g. `mlm 6.23 (unigram 6.71)`."""
        text = f"{self.label or self.name} {value:{self.format}}"
        if self.reference is not None:
            name, reference = self.reference
            text += f" ({name} {reference:{self.format}})"
        return text


def rate_fields(groups: Iterable[str], format: str) -> list[Field]:
    """Returns the field of the learning rate, and of those of parameter groups by their names."""
    names = {"lr": "learning_rate", **{f"lr {name}": f"learning_rate/{name}" for name in groups}}
    return [Field(name, label, format, last=True) for label, name in names.items()]


def show_fields(fields: Iterable[Field], metrics: Mapping[str, float]) -> list[str]:
    """Formats the metrics that have a field."""
    return [field.show(metrics[field.name]) for field in fields if field.name in metrics]


def show_tokens(tokens_per_second: float, real_share: float | None = None) -> str:
    """Formats a speed, e.g. `16,400 tok/s (19% padding)`."""
    digits = -2 if tokens_per_second >= 1000 else 0
    padding = "" if real_share is None else f" ({1 - real_share:.0%} padding)"
    return f"{round(tokens_per_second, digits):,.0f} tok/s{padding}"


def duration(seconds: float) -> str:
    """Formats seconds as a person says them: 8s, 4m10s, 3h05m, 2d04h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"

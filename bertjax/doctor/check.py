"""The result of a check, and how it reads in a line."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """`told` is what a check found, and `advice` says in whole sentences what to do about it."""

    status: Literal["ok", "warning", "failed"]
    name: str
    told: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The check as one line, which begins with its status."""
        return f"{self.status:<7}  {self.name}: {self.told}. {self.advice}".rstrip()

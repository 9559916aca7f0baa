import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cases(load_helper):
    """What both sides are given."""
    return load_helper("parity/cases.py")


@pytest.fixture(scope="session")
def golden(load_helper):
    """The reader of golden files."""
    return load_helper("parity/golden.py")


@pytest.fixture(scope="session")
def ours(load_helper, cases):
    """bertjax's side: parameters and outputs of a case."""
    return load_helper("parity/ours.py")


@pytest.fixture(scope="session")
def hold():
    """Holds a measured number to its bound, and puts it into the file that BERTJAX_PARITY_LOG names
    (docs/parity.md is made of that)."""

    def hold(what: str, measured: float, bound: float, note: str = "") -> None:
        print(f"{what}: {measured:.3g} (at most {bound:.3g}) {note}")
        line = {"what": what, "measured": float(measured), "bound": bound, "note": note}
        if log := os.environ.get("BERTJAX_PARITY_LOG"):
            with Path(log).open("a") as file:
                file.write(json.dumps(line) + "\n")
        assert measured <= bound, f"{what}: {measured} > {bound} {note}"

    return hold

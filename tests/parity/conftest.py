import itertools
import json
import os
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cases(load_helper):
    """The module of the inputs for both sides."""
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
    """Checks a measured number against its bound, and appends it to the file BERTJAX_PARITY_LOG.

    docs/parity.md is made from that file.
    """

    def hold(what: str, measured: float, bound: float, note: str = "") -> None:
        print(f"{what}: {measured:.3g} (at most {bound:.3g}) {note}")
        line = {"what": what, "measured": float(measured), "bound": bound, "note": note}
        if log := os.environ.get("BERTJAX_PARITY_LOG"):
            with Path(log).open("a") as file:
                file.write(json.dumps(line) + "\n")
        assert measured <= bound, f"{what}: {measured} > {bound} {note}"

    return hold


@pytest.fixture(scope="session")
def texts(data_dir):
    """Texts: part of the novels, the Universal Declaration in every language, tweets."""
    found = []
    with tarfile.open(data_dir / "pretrain/novels.tar.xz", "r|xz") as archive:
        books = (archive.extractfile(member) for member in archive if member.isfile())
        for book in itertools.islice(books, 6):
            lines = book.read().decode().splitlines()
            found += [line for line in lines[:2000] if line]
    for path in sorted((data_dir / "udhr").glob("*.txt")):
        found += path.read_text(encoding="utf-8").split("\n")
    for path in sorted((data_dir / "ner/btc").glob("*.conll")):
        for tweet in path.read_text(encoding="utf-8").split("\n\n"):
            found.append(" ".join(line.split("\t")[0] for line in tweet.split("\n")))
    return [text for text in found if text.strip()]

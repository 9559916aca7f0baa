import importlib.util
import pathlib
import sys

import pytest


def _load(name):
    """A helper beside the tests, which importlib's import mode does not put on sys.path."""
    if name not in sys.modules:
        path = pathlib.Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def toy():
    return _load("toy_run")


@pytest.fixture(scope="session")
def killing():
    return _load("killing")

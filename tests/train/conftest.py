import pytest


@pytest.fixture(scope="session")
def toy(load_helper):
    return load_helper("train/toy_run.py")

import pytest


@pytest.fixture(scope="session")
def pages(load_helper):
    """The helpers in pages.py."""
    return load_helper("report/pages.py")

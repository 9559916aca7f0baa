"""Which releases belong together, with made-up metadata in place of the installed one."""

import importlib.metadata

import pytest

from bertjax.doctor import packages

NEEDS = {
    "bertjax": ["jax>=0.7.2", 'absent>=0.2.7; extra == "x"', 'absent; python_version < "3"'],
    "jax": [
        *("jaxlib<=0.10.2,>=0.10.1", 'libtpu==0.0.42.*; extra == "tpu"'),
        *('requests; extra == "tpu"', 'jax-cuda13-plugin<=0.10.2,>=0.10.2; extra == "cuda13"'),
    ],
}
RIGHT = {"bertjax": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.1", "requests": "2"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"libtpu": "0.0.42.1"}, ""),
        ({"jaxlib": "0.10.2.dev20260503"}, ""),
        ({"jaxlib": "0.9.2"}, "jax 0.10.2 needs jaxlib<=0.10.2,>=0.10.1, found 0.9.2"),
        ({"libtpu": "0.0.46"}, "jax 0.10.2 needs libtpu==0.0.42.*, found 0.0.46"),
        ({"libtpu": "0.0.42.1", "requests": None}, "jax 0.10.2 needs requests, found none"),
        ({"jaxlib": None}, "jax 0.10.2 needs jaxlib<=0.10.2,>=0.10.1, found none"),
        ({"jax-cuda13-plugin": "0.10.1"}, "jax 0.10.2 needs jax-cuda13-plugin<=0.10.2,>=0.10.2"),
        ({"jax": "0.7.1"}, "bertjax 0.1.0 needs jax>=0.7.2, found 0.7.1"),
    ],
)
def test_what_does_not_belong_together_is_named(monkeypatch, changes, told):
    there = {**RIGHT, **changes}

    def version(name):
        if there.get(name) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", NEEDS.get)
    (check,) = packages.check_packages()
    assert check.status == ("failed" if told else "ok")
    assert check.told.startswith(told or "bertjax 0.1.0, jax 0.10.2, jaxlib ")
    if told:
        wanted = check.told.split(" needs ")[1].split(", found")[0]
        assert check.advice == f"Run pip install '{wanted}'."


def test_the_report_has_the_packages_that_are_used_but_not_those_of_tests():
    found = packages.versions()
    assert {"bertjax", "jax", "jaxlib", "orbax-checkpoint", "numpy"} <= set(found)
    assert not {"pytest", "ruff"} & set(found)

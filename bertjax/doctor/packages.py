"""The versions of the installed packages, and whether they belong together."""

import importlib.metadata
from collections.abc import Iterator

from packaging.requirements import Requirement

from bertjax.doctor.check import Check

_TOGETHER = ("bertjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
# The extra of jax that asks for a plugin says which release of the plugin belongs to this jax.
_PLUGINS = {"tpu": "libtpu", "cuda12": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}


def version_of(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages() -> Iterator[Check]:
    """Yields a failed check for each package that another one can't work with, or else one."""
    plugins = [extra for extra, plugin in _PLUGINS.items() if version_of(plugin)]
    wrong = False
    for name in _TOGETHER:
        for needed in _requirements(name):
            extras = ["", *(plugins if name == "jax" else ())]
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in extras):
                continue
            found = version_of(needed.name)
            if found is None or not needed.specifier.contains(found, prereleases=True):
                wrong, wanted = True, f"{needed.name}{needed.specifier}"
                told = f"{name} {version_of(name)} needs {wanted}, found {found or 'none'}"
                yield Check("failed", "packages", told, f"Run pip install '{wanted}'.")
    if not wrong:
        names = [*_TOGETHER, *_PLUGINS.values()]
        told = ", ".join(f"{name} {found}" for name in names if (found := version_of(name)))
        yield Check("ok", "packages", told)


def versions() -> dict[str, str]:
    """Returns the versions of bertjax and of all that it can use, those that are installed."""
    used = [each.name for each in _requirements("bertjax") if "test" not in str(each.marker)]
    names = [*_TOGETHER, *_PLUGINS.values(), *used, "gcsfs"]
    return {name: found for name in names if (found := version_of(name))}


def _requirements(package: str) -> list[Requirement]:
    if version_of(package) is None:
        return []
    return [Requirement(text) for text in importlib.metadata.requires(package) or ()]

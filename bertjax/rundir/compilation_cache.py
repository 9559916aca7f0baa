"""Compiled programs, kept for the next command in JAX's persistent cache.

The command line alone asks for it: who imports bertjax has the JAX that they configured.
"""

import hashlib
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

from bertjax.files import is_local

# Of /proc/cpuinfo, what says which instructions a processor has: x86's and ARM's names.
_CPU_FIELDS = ("model name", "flags", "Features", "CPU implementer", "CPU part")
# Loading a large program overruns a thread's stack on macOS before this release.
_SAFE_ON_MACOS = (0, 10)


def keep_compiled() -> str:
    """Turns the cache on, and says in one sentence where it is; nothing where it is off.

    Call it before anything is compiled, as JAX looks once. JAX's own variables decide:
    JAX_COMPILATION_CACHE_DIR names another place (empty: no cache), and
    JAX_ENABLE_COMPILATION_CACHE=false switches it off. A place that can't be written is a warning.
    """
    import jax

    settings: Any = jax.config  # whose names are made when jax is loaded
    if not settings.jax_enable_compilation_cache:
        return ""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", settings.jax_compilation_cache_dir)
    if named == "" or (named is None and not _is_safe(jax.lib.__version__)):
        return ""
    if named is not None and not is_local(named):
        return f"Compiled programs are kept in {named}."
    directory: object = named
    try:
        directory = pathlib.Path(named) if named else _own_directory(jax.lib.__version__)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is run
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        jax.config.update("jax_compilation_cache_dir", None)
        why = getattr(error, "strerror", None) or error
        return (
            f"Warning: compiled programs are not kept, because {directory or 'their directory'} "
            f"can't be written ({why}); set JAX_COMPILATION_CACHE_DIR to one that can."
        )
    jax.config.update("jax_compilation_cache_dir", str(directory))
    return f"Compiled programs are kept in {directory}."


def _own_directory(version: str) -> pathlib.Path:
    """Of this user, this jaxlib and this kind of processor.

    A program for a CPU has the instructions of the CPU it was compiled on, and a home directory may
    be shared by machines that differ.
    """
    if sys.platform == "darwin":
        home = pathlib.Path.home() / "Library" / "Caches"
    else:
        named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = named if named.is_absolute() else pathlib.Path.home() / ".cache"
    digest = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return home / "bertjax" / f"jaxlib-{version}-{digest}"


def _processor() -> str:
    """What differs between processors that have other instructions."""
    facts = [platform.machine(), platform.processor()]
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text(errors="replace").partition("\n\n")[0].splitlines()
        facts += [line for line in first if line.partition("\t")[0].strip(" :") in _CPU_FIELDS]
    elif sys.platform == "darwin":
        brand = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        facts.append(subprocess.run(brand, capture_output=True, text=True, check=False).stdout)
    return "\n".join(facts)


def _is_safe(version: str) -> bool:
    release = tuple(int(part) for part in version.split(".")[:2])
    return sys.platform != "darwin" or release >= _SAFE_ON_MACOS

"""JAX's persistent cache of compiled programs, for the next command.

Only the command line turns it on: importing bertjax doesn't change JAX's configuration.
"""

import hashlib
import os
import pathlib
import platform
import stat
import subprocess
import sys
import tempfile
from typing import Any

from bertjax.files import is_local

# The fields of /proc/cpuinfo that tell a processor's instructions, on x86 and ARM.
_CPU_FIELDS = ("model name", "flags", "Features", "CPU implementer", "CPU part")


def keep_compiled() -> str:
    """Turns the cache on and returns a sentence with its directory; empty if the cache is off.

    Call it before the first compilation, when JAX reads the setting. JAX's environment variables
    take precedence: JAX_COMPILATION_CACHE_DIR names another directory (empty: no cache), and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. If the directory can't be written, or others
    than its user can write it, the cache stays off and the sentence is a warning.
    """
    import jax

    settings: Any = jax.config  # pyright doesn't know its attributes
    if not settings.jax_enable_compilation_cache:
        return ""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", settings.jax_compilation_cache_dir)
    # On macOS, earlier releases overrun a thread's stack when they load a large program.
    release = tuple(int(part) for part in jax.lib.__version__.split(".")[:2])
    if named == "" or (named is None and sys.platform == "darwin" and release < (0, 10)):
        return ""
    if named is not None and not is_local(named):
        return f"Compiled programs are kept in {named}."
    directory: object = named
    try:
        directory = pathlib.Path(named) if named else _own_directory(jax.lib.__version__)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds executable code
        with tempfile.TemporaryFile(dir=directory):
            pass
        why = _untrusted(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        why = f"can't be written ({getattr(error, 'strerror', None) or error})"
    if why:
        jax.config.update("jax_compilation_cache_dir", None)
        return (
            f"Warning: compiled programs are not kept, because {directory or 'their directory'} "
            f"{why}; set JAX_COMPILATION_CACHE_DIR to a directory that only you can write."
        )
    jax.config.update("jax_compilation_cache_dir", str(directory))
    return f"Compiled programs are kept in {directory}."


def _untrusted(directory: pathlib.Path) -> str:
    """Says why a directory may hold programs of other users, which would be run; "" if it can't."""
    status = directory.stat()
    if status.st_uid != os.getuid():
        return "belongs to another user"
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return f"can be written by other users (chmod go-w {directory})" if others_write else ""


def _own_directory(version: str) -> pathlib.Path:
    """Returns a directory for this user, this jaxlib and this kind of processor.

    CPU programs contain its instructions, and different machines may share a home directory.
    """
    if sys.platform == "darwin":
        home = pathlib.Path.home() / "Library" / "Caches"
    else:
        named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = named if named.is_absolute() else pathlib.Path.home() / ".cache"
    digest = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return home / "bertjax" / f"jaxlib-{version}-{digest}"


def _processor() -> str:
    """Returns a text that differs between processors with different instructions."""
    fields = [platform.machine(), platform.processor()]
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text(errors="replace").partition("\n\n")[0].splitlines()
        fields += [line for line in first if line.partition("\t")[0].strip(" :") in _CPU_FIELDS]
    elif sys.platform == "darwin":
        brand = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        fields.append(subprocess.run(brand, capture_output=True, text=True, check=False).stdout)
    return "\n".join(fields)

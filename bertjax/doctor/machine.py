"""The accelerators of this machine, and what keeps JAX from using them."""

import contextlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.doctor.check import Check
from bertjax.doctor.packages import version_of

_ROOT = pathlib.Path("/")
# PCI device numbers of Google's TPUs, as in jax/_src/hardware_utils.py.
_TPUS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
_PLUGINS = {"TPU": ("libtpu",), "GPU": ("jax-cuda12-plugin", "jax-cuda13-plugin"), "": ()}
_EXTRAS = {"TPU": "bertjax[tpu]", "GPU": "jax[cuda13]"}
# Other prefixes, such as NVIDIA_, would show keys in a report that is made to be pasted.
_SHOWN = re.compile("(JAX|XLA|TPU|LIBTPU|PJRT|MEGASCALE|CUDA|NCCL)_|LD_LIBRARY_PATH$")


class Machine(NamedTuple):
    """The accelerators that the operating system knows: their numbers, and TPUs' device files."""

    tpus: int = 0
    files: tuple[pathlib.Path, ...] = ()
    gpus: int = 0

    @property
    def kind(self) -> str:
        """TPU, GPU or nothing. A container may hide a TPU's files or the PCI bus."""
        return "TPU" if self.tpus or self.files else "GPU" if self.gpus else ""

    @property
    def chips(self) -> int:
        """The number of chips of this kind."""
        return self.tpus or len(self.files) or self.gpus


def inspect(root: pathlib.Path = _ROOT) -> Machine:
    """Returns the accelerators of the machine with this root directory, without starting them."""
    google = [
        _text(vendor.with_name("device"))
        for vendor in root.glob("sys/bus/pci/devices/*/vendor")
        if _text(vendor) == "0x1ae0"
    ]
    tpus = sum(device in _TPUS for device in google)
    vfio = root.glob("dev/vfio/[0-9]*") if tpus else ()  # other devices have such files too
    files = sorted([*root.glob("dev/accel[0-9]*"), *vfio])
    return Machine(tpus, tuple(files), len([*root.glob("dev/nvidia[0-9]*")]))


def _text(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def holders(machine: Machine, root: pathlib.Path = _ROOT) -> list[str]:
    """Returns the processes that use the TPU; those of other users only if this one is root."""
    found = []
    wanted = {f"/{path.relative_to(root)}" for path in machine.files}
    for link in sorted(root.glob("proc/[0-9]*/fd/*")) if wanted else ():
        with contextlib.suppress(OSError):  # it has just been closed
            if str(link.readlink()) in wanted:
                process = link.parent.parent
                words = _text(process / "cmdline").replace("\0", " ").strip()
                found.append(f"process {process.name} ({words[:80]})")
    return list(dict.fromkeys(found))


def check_machine(machine: Machine, held: Sequence[str]) -> Check:
    """Returns which accelerators there are, or the first reason why JAX can't use them."""
    kind, name = machine.kind, "accelerators"
    told = f"{kind} chips: {machine.chips}" if kind else "no TPU and no NVIDIA GPU"
    closed = " ".join(str(path) for path in machine.files if not os.access(path, os.R_OK | os.W_OK))
    if machine.tpus and not machine.files:
        told += ", without a device file such as /dev/accel0 or /dev/vfio/0"
        advice = "Run the container privileged, or create the TPU VM anew with a current image."
    elif closed:
        told += f", and no permission to open {closed}"
        advice = f"Run as root, or run sudo chmod a+rw {closed}."
    elif held:
        told += f", and {' and '.join(held)} holds them"
        advice = "One process can use the TPU at a time: wait until that one ends, or end it."
    elif kind and not any(map(version_of, _PLUGINS[kind])):
        told += f", without {' or '.join(_PLUGINS[kind])}"
        advice = f"Run pip install -U '{_EXTRAS[kind]}'."
    else:
        return Check("ok", name, told)
    return Check("failed", name, told, advice)


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables that JAX and its plugins read."""
    return {name: value for name, value in sorted(environment.items()) if _SHOWN.match(name)}

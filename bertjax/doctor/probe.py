"""`bertjax doctor` runs this in a process of its own, since it may hang or crash.

It prints a line of JSON with facts for each stage. After its time it prints where it is, and ends,
whatever native code it waits in.
"""

import faulthandler
import json
import sys
import time
import uuid
from typing import Any

from etils import epath

from bertjax.files import free_bytes, is_local, output_directory
from bertjax.train.hosts_config import HostsConfig


def _tell(**facts: Any) -> None:
    sys.stdout.write(f"{json.dumps(facts)}\n")  # `say_line` is mute on all hosts but one
    sys.stdout.flush()


def start(hosts: str) -> None:
    """Joins the hosts of a `HostsConfig` in JSON, then starts and measures the devices of this."""
    _tell(stage="import jax")
    import jax

    from bertjax.rundir.compilation_cache import keep_compiled
    from bertjax.train.hosts import joined

    _tell(stage="join the other hosts", cache=keep_compiled())
    told: list[str] = []
    with joined(HostsConfig(**json.loads(hosts)), {}, told.append, resumable=False):
        _tell(stage="start the devices", joined="".join(told))
        _start_devices(jax)


def _start_devices(jax: Any) -> None:
    began = time.monotonic()
    devices = jax.local_devices()
    seconds = time.monotonic() - began
    is_cpu = devices[0].platform == "cpu"
    how = {"platform": devices[0].platform, "kind": devices[0].device_kind, "seconds": seconds}
    how |= {"devices": len(devices), "host": jax.process_index(), "hosts": jax.process_count()}
    _tell(stage="compute a matrix product", **how)
    size, dtype = (1024, "float32") if is_cpu else (8192, "bfloat16")
    measured = devices[:1] if is_cpu else devices  # all CPU devices are the same cores
    rate = min(flops_per_second(device, size, dtype) for device in measured)
    _tell(stage="end", size=size, dtype=dtype, flops_per_second=rate)


def flops_per_second(device: Any, size: int, dtype: str) -> float:
    """Returns the FLOP/s of a product of two matrices [size, size] on a `jax.Device`."""
    import jax

    matrix = jax.device_put(jax.numpy.ones((size, size), dtype), device)
    product = jax.jit(lambda a, b: a @ b)
    product(matrix, matrix).block_until_ready()
    count, began = 0, time.monotonic()
    while (seconds := time.monotonic() - began) < 0.3:
        results = [product(matrix, matrix) for _ in range(4)]  # one waits while another runs
        jax.block_until_ready(results)
        count += len(results)
    return count * 2 * size**3 / seconds


def store(directory: str) -> None:
    """Writes a file in a directory, or in the nearest one above it, and reads it back."""
    _tell(stage="find the directory")
    path = output_directory(directory)
    if is_local(path):
        path = path.absolute()
        path = next(place for place in (path, *path.parents) if place.exists())
    _tell(stage="write and read a file", directory=str(path), free=free_bytes(path))
    began = time.monotonic()
    write_and_read(path)
    _tell(stage="end", seconds=time.monotonic() - began)


def write_and_read(directory: epath.Path) -> None:
    """Writes a file, reads it back and removes it; raises `OSError` if it is another one."""
    path = directory / f".bertjax-doctor-{uuid.uuid4().hex[:8]}"
    data = uuid.uuid4().bytes
    try:
        path.write_bytes(data)
        if path.read_bytes() != data:
            raise OSError(f"{path}: other bytes were read than written")
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    what, argument, limit = sys.argv[1:]
    faulthandler.dump_traceback_later(float(limit), exit=True)
    start(argument) if what == "start" else store(argument)

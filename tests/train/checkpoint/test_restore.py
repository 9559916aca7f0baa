"""Reading a step in several processes, of which one alone meets the damage."""

import socket
import sys

_PROCESS = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract

rank, port, parent = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
address = f"127.0.0.1:{port}"
jax.distributed.initialize(address, 2, rank, coordinator_bind_address=address)
mesh = Mesh(np.array(jax.devices()), ("data",))
half_each = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)

def place(array, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

def state_of(step):
    return {"step": place(np.asarray(step, np.int32)), "w": place(half_each, "data")}

for damage in ("cut off", "a flipped bit"):
    directory = parent / damage
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(step), {}, wait=True)
    sync_global_devices(f"saved, {damage}")
    if rank == 0:
        files = (directory / "2").rglob("ocdbt.process_1/d/*")
        (file,) = (file for file in files if file.stat().st_size > 100_000)
        content = file.read_bytes()
        if damage == "cut off":
            file.write_bytes(content[:100_000])
        else:
            file.write_bytes(content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:])
    sync_global_devices(f"damaged, {damage}")
    with Checkpoints(directory, log=lambda line: print("told:", line)) as checkpoints:
        found = checkpoints.restore(abstract(state_of(1)))
        print("restored", int(found.state["step"]), checkpoints.steps())
"""


def test_damage_in_the_part_of_one_process_sends_all_to_the_step_before(killing, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", _PROCESS]
    processes = [killing.start([*command, str(rank), port, str(tmp_path)]) for rank in range(2)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    restored = "restored 1 [1]\n"
    assert [output.count(restored) for output in outputs] == [2, 2], outputs
    for place, found in enumerate(
        ("damaged (state: ValueError", "not the bits that were saved: w")
    ):
        told = [output.split(restored)[place] for output in outputs]
        assert all("told: Warning: the checkpoint of step 2" in each for each in told), told
        assert found in told[1]
        assert (found in told[0]) == (place == 1)  # each reads only its own part

"""One of two processes that train the toy together; it prints its steps, and a test kills it.

Arguments: rank, port of the coordinator, run directory.
"""

import sys
import time

import jax
import numpy as np
import toy_run as toy
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract
from bertjax.train.loop import TrainProgram, fit
from bertjax.train.loop_config import LoopConfig
from bertjax.train.telemetry.logger import Telemetry


def main(rank: int, port: str, workdir: epath.Path) -> None:
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address, 2, rank, coordinator_bind_address=address, heartbeat_timeout_seconds=10
    )
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def place(array, *spec):
        array, sharding = np.asarray(array), NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def step(state, batch):
        print("step", int(state.step), flush=True)
        time.sleep(0.1)
        return toy.train_step(state, batch)

    def init():
        return jax.tree.map(place, toy.make_state())

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        fit(
            LoopConfig(10_000, log_every=4, eval_every=0, save_every=4),
            TrainProgram(init, abstract(init()), step),
            lambda number: {n: place(a, "data") for n, a in toy.batch_at(number).items()},
            checkpoints=checkpoints,
            telemetry=Telemetry(workdir / "metrics.jsonl", log=lambda line: None, progress=False),
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], epath.Path(sys.argv[3]))

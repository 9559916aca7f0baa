"""One of two processes that train the toy together; the second is told to stop at a step.

Arguments: rank, port of the coordinator, run directory, step of the SIGTERM (0: none).
"""

import os
import signal
import sys
import time

import jax
import numpy as np
import toy_run as toy
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract
from bertjax.train.checkpoint.settings import RunSettings
from bertjax.train.loop import Evaluation, TrainProgram, fit
from bertjax.train.loop_config import LoopConfig
from bertjax.train.telemetry.logger import Telemetry


def main(rank: int, port: str, workdir: epath.Path, stop_at: int) -> None:
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, rank, coordinator_bind_address=address)
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def place(array, spec):
        array, sharding = np.asarray(array), NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def batch_at(step):
        return {name: place(array, ("data",)) for name, array in toy.batch_at(step).items()}

    def train_step(state, batch):
        if stop_at:
            time.sleep(0.2)  # JAX hands on its notice within about a second
        if rank == 1 and int(state.step) + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.train_step(state, batch)

    loss_of = jax.jit(toy.loss_of)

    def evaluate(state, should_stop):
        losses = []
        for index in range(3):
            if should_stop():
                return None
            losses.append(float(loss_of(state.params, batch_at(10_000 + index))))
        return {"loss": sum(losses) / 3}

    def init():
        return jax.tree.map(lambda x: place(x, ()), toy.make_state())

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        result = fit(
            LoopConfig(24, log_every=4, eval_every=5, save_every=4),
            TrainProgram(init, abstract(init()), train_step),
            batch_at,
            checkpoints=checkpoints,
            evaluation=Evaluation(evaluate, "loss"),
            settings=RunSettings({"seed": 1}),
            telemetry=Telemetry(
                workdir / "metrics.jsonl", toy.FIELDS, log=lambda line: None, progress=False
            ),
        )
    step = int(result.state.step)
    print("stopped" if result.stopped else "done", step, toy.digest(result.state))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], epath.Path(sys.argv[3]), int(sys.argv[4]))

"""A linear regression trained by `bertjax.train.loop.fit`; also a script for tests to kill."""

import argparse
import functools
import hashlib
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from bertjax.errors import UserError
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.settings import RunSettings
from bertjax.train.loop import Evaluation, FitResult, TrainProgram, fit
from bertjax.train.loop_config import LoopConfig
from bertjax.train.telemetry.fields import Field
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.phases import PhaseInfo

OPTIMIZER = optax.adam(1e-2)
FIELDS = (Field("loss", format=".4f", reference=("noise", 0.01)), Field("grad_norm", "grad", ".2e"))
CONFIG = LoopConfig(train_steps=12, log_every=3, eval_every=5, save_every=4)
IMMUTABLE = {"model": {"size": 64}, "data": "abc", "seed": 1}


class State(flax.struct.PyTreeNode):
    step: jax.Array
    updates: jax.Array
    bad_steps: jax.Array
    params: dict
    opt_state: optax.OptState


def make_state(size: int = 64) -> State:
    params = {"w": 0.1 * jax.random.normal(jax.random.key(0), (size, 8)), "b": jnp.zeros(8)}
    step, updates, bad_steps = (jnp.zeros((), jnp.int32) for _ in range(3))
    return State(step, updates, bad_steps, params, OPTIMIZER.init(params))


def batch_at(step: int, size: int = 64, poison: frozenset[int] = frozenset()) -> dict:
    """Returns x [4, size] and y [4, 8] of a step; poisoned steps hold a NaN."""
    rng = np.random.default_rng(step)
    x = rng.normal(size=(4, size)).astype(np.float32)
    y = np.tanh(x[:, :8]) + 0.1 * rng.normal(size=(4, 8)).astype(np.float32)
    if step in poison:
        y[0, 0] = np.nan
    return {"x": jnp.asarray(x), "y": jnp.asarray(y, jnp.float32)}


def loss_of(params: dict, batch: dict) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state: State, batch: dict) -> tuple[State, dict]:
    loss, grads = jax.value_and_grad(loss_of)(state.params, batch)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state)
    new = (optax.apply_updates(state.params, updates), opt_state)
    params, opt_state = jax.tree.map(
        lambda a, b: jnp.where(finite, a, b), new, (state.params, state.opt_state)
    )
    state = State(
        state.step + 1,
        state.updates + finite,
        jnp.where(finite, 0, state.bad_steps + 1),
        params,
        opt_state,
    )
    return state, {"loss": loss, "grad_norm": norm, "skipped": 1.0 - finite}


def evaluate(state: State, should_stop=lambda: False, size: int = 64) -> dict | None:
    total = 0.0
    for index in range(3):
        if should_stop():
            return None
        total += float(jax.jit(loss_of)(state.params, batch_at(10_000 + index, size)))
    return {"loss": total / 3}


def digest(state: State) -> str:
    """Returns a hash of every bit of a state."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def run(
    workdir: epath.PathLike,
    config: LoopConfig | None = None,
    *,
    size: int = 64,
    poison: frozenset[int] = frozenset(),
    step=train_step,
    evaluator=None,
    immutable: dict = IMMUTABLE,
    log=lambda line: None,
    best_mode="min",
    init=make_state,
    profiler=None,
    phases=(),
    hooks=None,
    **extra,
) -> FitResult:
    """Calls `fit` in a directory, as a command does."""
    config = config or CONFIG
    workdir = epath.Path(workdir)
    with Checkpoints(
        workdir / "checkpoints",
        keep_last=config.keep_last,
        keep_best=config.keep_best,
        best_mode=best_mode,
        log=log,
    ) as checkpoints:
        return fit(
            config,
            TrainProgram(
                functools.partial(init, size),
                jax.eval_shape(functools.partial(make_state, size)),
                step,
            ),
            functools.partial(batch_at, size=size, poison=poison),
            checkpoints=checkpoints,
            evaluation=Evaluation(evaluator or functools.partial(evaluate, size=size), "loss"),
            settings=RunSettings(immutable, **extra),
            hooks=hooks,
            telemetry=Telemetry(
                workdir / "metrics.jsonl", FIELDS, log=log, progress=False, profiler=profiler
            ),
            phases=phases or [PhaseInfo(config.train_steps, 512)],
        )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=0.0, help="within the third step")
    parser.add_argument("--pace", type=float, default=0.0, help="the least seconds of a step")
    arguments = parser.parse_args()

    def step(state: State, batch: dict) -> tuple[State, dict]:
        if arguments.sleep and state.step == 2:
            log("sleeping")
            time.sleep(arguments.sleep)
        time.sleep(arguments.pace)
        return train_step(state, batch)

    def log(line: str) -> None:
        print(line, flush=True)

    config = LoopConfig(arguments.steps, log_every=1, eval_every=7, save_every=5)
    try:
        result = run(arguments.workdir, config, size=arguments.size, step=step, log=log)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    log(f"final {digest(result.state)}")
    return 75 if result.stopped else 0


if __name__ == "__main__":
    sys.exit(main())

"""Whatever happens to a directory of checkpoints, the newest intact step is found, and only that.

A machine saves, fails in a save, is killed in one, damages files, changes the sharding and opens
the directory again, in any order. A model remembers the states that were committed.
"""

import os
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.errors import UserError
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.orbax_storage import Storage
from bertjax.train.checkpoint.restore import abstract

KEEP = 3


def state_of(step, value):
    base = jnp.arange(8, dtype=jnp.float32).reshape(4, 2)
    return {"step": jnp.int32(step), "params": {"w": base * value, "b": jnp.full(2, value)}}


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def failing(self, step, arrays, meta):
    """Writes a part of a step and fails, as a full disk makes Orbax do."""
    raise OSError(28, "No space left on device")


class Machine(RuleBasedStateMachine):
    """`saved` holds value and damage of every step that was committed and not deleted since."""

    def __init__(self):
        super().__init__()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bertjax-machine-"))
        self.saved: dict[int, float] = {}
        self.damaged: set[int] = set()
        self.step = 0
        self.checkpoints: Checkpoints | None = None

    @initialize()
    def open(self):
        self.checkpoints = Checkpoints(self.directory, keep_last=KEEP, log=lambda line: None)

    def intact(self):
        return sorted(set(self.saved) - self.damaged)

    def forget_old(self):
        """Keeps what the manager keeps: the newest steps, and damaged ones that are newer."""
        last = self.intact()[-KEEP:]
        for old in [step for step in self.saved if step not in last]:
            if old not in self.damaged or old < last[0]:
                del self.saved[old]
                self.damaged.discard(old)

    @rule(value=st.floats(0.5, 2.0, width=32))
    def save(self, value):
        self.step += 1
        assert self.checkpoints.save(state_of(self.step, value), {"loop": {}}, wait=True)
        self.saved[self.step] = value
        self.damaged.discard(self.step)
        self.forget_old()

    @rule()
    def fail(self):
        """A save fails; the step does not count, and older steps stay."""
        before = self.checkpoints.steps()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Storage, "write", failing)
            with pytest.raises(UserError, match="no space left"):
                self.checkpoints.save(state_of(self.step + 1, 1.0), {"loop": {}})
        assert self.checkpoints.steps() == before

    @rule(kind=st.sampled_from(["temporary", "killed"]))
    def kill(self, kind):
        """The process dies in a save: a temporary directory, or nothing, is left."""
        self.checkpoints.close()
        left = self.directory / f"{self.step + 1}.orbax-checkpoint-tmp-7"
        if kind == "temporary":
            (left / "state").mkdir(parents=True)
            (left / "state" / "half").write_bytes(b"\0" * 10)
        self.open()
        assert not left.exists()

    @precondition(lambda self: self.intact())
    @rule(data=st.data(), how=st.sampled_from(["flip", "truncate", "delete", "json"]))
    def damage(self, data, how):
        """Changes a file of the newest intact step, while no process has it open."""
        step = self.intact()[-1]
        self.checkpoints.close()
        place = self.directory / str(step)
        name = "meta/metadata"
        files = sorted((place / "state").rglob("d/*")) if how in ("flip", "truncate") else []
        path = max(files, key=lambda file: file.stat().st_size) if files else place / name
        text = path.read_bytes()
        if how == "delete":
            path.unlink()
        elif how == "json":
            value = data.draw(
                st.sampled_from(["3", "[]", "null", "{}", "[" * 9999, '{"arrays": 1}'])
            )
            path.write_text(value)
        elif how == "truncate":
            path.write_bytes(text[: len(text) // 2])
        else:
            # Bytes of an array: a flip elsewhere may change nothing that is read.
            at = text.find(np.asarray(state_of(step, self.saved[step])["params"]["b"]).tobytes())
            at = at if at >= 0 else len(text) // 2
            path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        self.damaged.add(step)
        self.open()

    @rule(devices=st.sampled_from([1, 2, 4]))
    def restore(self, devices):
        """Restores onto another sharding: the newest intact step, with its bits, or a refusal."""
        mesh = Mesh(np.array(jax.devices()[: min(devices, jax.device_count())]), ("data",))
        sharding = NamedSharding(mesh, PartitionSpec())
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            abstract(state_of(0, 1.0)),
        )
        if not self.saved:
            assert self.checkpoints.restore(target) is None
            return
        try:
            restored = self.checkpoints.restore(target)
        except UserError as error:
            assert "is intact" in str(error) and not self.intact()
            return
        step = int(restored.state["step"])
        assert bits(restored.state) == bits(state_of(step, self.saved[step]))
        # A change that alters no array may leave the step intact.
        assert step in self.saved and step >= max(self.intact(), default=0)
        self.damaged.discard(step)
        self.step = max(self.step, *self.saved)

    @rule()
    def open_read_only(self):
        """Looking changes no file."""
        before = sorted(map(str, self.directory.rglob("*")))
        Checkpoints(self.directory, read_only=True).close()
        assert sorted(map(str, self.directory.rglob("*"))) == before

    def teardown(self):
        if self.checkpoints is not None:
            self.checkpoints.close()
        shutil.rmtree(self.directory)


Machine.TestCase.settings = settings(
    max_examples=int(os.environ.get("BERTJAX_MACHINE_EXAMPLES", "6")),
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class TestMachine(Machine.TestCase):
    """In the normal suite few examples run; BERTJAX_MACHINE_EXAMPLES asks for more."""

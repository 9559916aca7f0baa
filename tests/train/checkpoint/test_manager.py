"""Saving, restoring, damage, full disks and other topologies."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import PyTreeCheckpointHandler

from bertjax.errors import UserError
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.restore import abstract

META = {"immutable": {"seed": 1}, "loop": {"best": None}}


def state_of(step, value=1.0, size=6):
    """A small state whose arrays depend on (step, value)."""
    base = jnp.arange(size * 4, dtype=jnp.float32).reshape(size, 4)
    return {
        "step": jnp.int32(step),
        "params": {"layer_0": {"kernel": base * value + step}, "bias": jnp.full(4, value)},
        "opt_state": [{"mu": (base / 3).astype(jnp.bfloat16)}, {"count": jnp.int32(step)}],
    }


def equal(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    )


def save(checkpoints, *steps, metrics=None):
    for step in steps:
        checkpoints.save(state_of(step), META, (metrics or {}).get(step), wait=True)


def files_of(step_directory):
    return sorted(path for path in pathlib.Path(step_directory).rglob("*") if path.is_file())


# Saving and restoring


def test_saves_and_restores_bits_dtypes_structure_and_meta(tmp_path):
    state = state_of(7, 0.1)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(state)) is None
        assert checkpoints.save(state, {**META, "pair": (1, 2)})
        assert not checkpoints.save(state, META), "the same state again is nothing to do"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [7]
        found = checkpoints.restore(abstract(state))
    assert equal(found.state, state)
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    assert found.meta["immutable"] == {"seed": 1}
    assert found.meta["pair"] == [1, 2]
    assert found.meta["step"] == 7


def test_donating_right_after_a_save_changes_nothing_saved(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep_last=5) as checkpoints:
        for step in range(5):
            state = {"step": jnp.int32(step), "w": jnp.full((400, 1000), float(step))}
            checkpoints.save(state, META)
            jax.block_until_ready(overwrite(overwrite(state)))
        for step in range(5):
            found = checkpoints.restore(abstract(state_like(step)), step=step)
            assert equal(found.state, state_like(step))


def state_like(step):
    return {"step": jnp.int32(step), "w": jnp.full((400, 1000), float(step))}


def test_keeps_the_newest_and_the_best(tmp_path):
    metrics = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 3.5, 6: 9.0}
    with Checkpoints(tmp_path / "min", keep_last=3, keep_best=1) as checkpoints:
        save(checkpoints, *metrics, metrics=metrics)
        assert checkpoints.steps() == [2, 4, 5, 6]
        assert checkpoints.best_step() == 2
    with Checkpoints(tmp_path / "max", keep_last=3, keep_best=1, best_mode="max") as checkpoints:
        save(checkpoints, 1, 2, 3, metrics=metrics)
    with Checkpoints(tmp_path / "max", keep_last=3, keep_best=1, best_mode="max") as checkpoints:
        save(checkpoints, 4, 5, 7)  # scores are known after reopening, and 7 has none
        assert checkpoints.steps() == [1, 4, 5, 7]
        assert checkpoints.best_step() == 1


def test_steps_up_to_ranked_after_do_not_compete(tmp_path):
    metrics = {1: 0.5, 2: 0.1, 3: 4.0, 4: 1.0, 5: 2.0, 6: 3.0, 7: 5.0}
    with Checkpoints(tmp_path, keep_last=3, keep_best=1) as checkpoints:
        save(checkpoints, 1, 2, metrics=metrics)
        assert checkpoints.best_step() == 2
        checkpoints.ranked_after = 2
        save(checkpoints, *range(3, 8), metrics=metrics)
        assert checkpoints.best_step() == 4
        assert checkpoints.steps() == [4, 5, 6, 7]


def test_regular_steps_stay_whatever_is_saved_between(tmp_path):
    settings = {"keep_last": 3, "keep_best": 1, "keep_regular": 3, "interval": 10}
    with Checkpoints(tmp_path, **settings) as checkpoints:
        save(checkpoints, 5, 10, 20, 25, metrics={5: 0.1, 25: 0.2})
        assert checkpoints.steps() == [5, 10, 20, 25]
    with Checkpoints(tmp_path, **settings) as checkpoints:
        save(checkpoints, 26, 27, 30, 31, 32, 33, metrics={26: 0.3})
        assert checkpoints.steps() == [5, 10, 20, 30, 31, 32, 33]
        save(checkpoints, 40)
        assert checkpoints.steps() == [5, 20, 30, 32, 33, 40]


def test_the_mean_of_steps_and_what_it_leaves_out(tmp_path):
    lines = []
    with Checkpoints(tmp_path, keep_last=5) as checkpoints:
        for step, value in ((1, 0.1), (2, 0.7), (4, -3.3), (5, 0.2)):
            state = state_of(step, value)
            state["params"]["frozen"] = jnp.full(4, 0.1)
            checkpoints.save(state, META)
    target = abstract(state["params"])
    with Checkpoints(tmp_path, keep_last=5, log=lines.append) as checkpoints:
        mean, used = checkpoints.mean_params(target, [1, 2, 3, 5])
        assert used == [1, 2, 5] and not lines
        kernels = [state_of(*each)["params"] for each in ((1, 0.1), (2, 0.7), (5, 0.2))]
        wanted = jax.tree.map(lambda *leaves: np.mean(np.float64(leaves), 0), *kernels)
        frozen = mean.pop("frozen")
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), mean, wanted)
        assert equal(frozen, jnp.full(4, 0.1))  # a sum of three would have another last bit
        again, _ = checkpoints.mean_params(target, [1, 2, 3, 5])
        assert equal({**mean, "frozen": frozen}, again)
        for file in (file for file in files_of(tmp_path / "2") if file.parent.name == "d"):
            file.write_bytes(file.read_bytes()[:10])
        damaged, used = checkpoints.mean_params(target, [1, 2, 5])
        assert used == [1, 5] and equal(damaged, checkpoints.mean_params(target, [1, 5])[0])
        assert len(lines) == 1 and lines[0].endswith("marked as bad, and the mean leaves it out.")
        assert checkpoints.steps() == [1, 4, 5]
        with pytest.raises(UserError, match="no intact checkpoint to average"):
            checkpoints.mean_params(target, [2, 3])


def test_keep_last_below_three_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 3"):
        Checkpoints(tmp_path, keep_last=2)


def test_restore_params_of_the_best_the_latest_and_a_step(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2, 3, metrics={1: 2.0, 2: 1.0, 3: 3.0})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for which, step in (("best", 2), ("latest", 3), (1, 1)):
            found = checkpoints.restore_params(which=which)
            assert equal(found.state, state_of(step)["params"])
            assert found.meta["step"] == step
        target = abstract(state_of(0)["params"])
        assert equal(checkpoints.restore_params(target).state, state_of(3)["params"])
        with pytest.raises(UserError, match="no intact checkpoint"):
            checkpoints.restore_params(which=9)


def test_amended_metric_and_meta_are_read_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2)
        checkpoints.amend(1, metric=0.5, loop={"best": {"step": 1}})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 1
        found = checkpoints.restore(abstract(state_of(1)), step=1)
        assert found.meta["loop"] == {"best": {"step": 1}}
    path = tmp_path / "1" / "amendment.json"
    path.write_text(path.read_text()[:20])  # killed while writing
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() is None
        assert checkpoints.restore(abstract(state_of(1)), step=1).meta["loop"] == META["loop"]


# R13 of the promises: what is not finite is not saved


def test_a_state_that_is_not_finite_is_refused_and_evicts_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2, 3)
        bad = state_of(4)
        bad["params"]["bias"] = bad["params"]["bias"].at[1].set(jnp.nan)
        with pytest.raises(UserError, match=r"step 4 .*params/bias.*step 3 is intact"):
            checkpoints.save(bad, META)
        assert checkpoints.steps() == [1, 2, 3]
        save(checkpoints, 5)
        assert checkpoints.steps() == [2, 3, 5]


# R8 and R9 of the promises: damage


def test_any_damaged_file_gives_the_same_bits_or_the_step_before(tmp_path):
    pristine = tmp_path / "pristine"
    with Checkpoints(pristine) as checkpoints:
        save(checkpoints, 1, 2)
    target = abstract(state_of(1))
    rng = np.random.default_rng(0)
    fell_back = 0
    for file in files_of(pristine / "2"):
        for damage in ("truncate", "delete", "flip", "flip", "garbage"):
            work = tmp_path / "work"
            shutil.copytree(pristine, work)
            damaged = work / file.relative_to(pristine)
            content = bytearray(damaged.read_bytes())
            if damage == "delete":
                damaged.unlink()
            elif damage == "truncate":
                damaged.write_bytes(content[: len(content) // 2])
            elif damage == "flip":
                content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
                damaged.write_bytes(content)
            else:
                damaged.write_bytes(rng.bytes(len(content)))
            lines = []
            with Checkpoints(work, log=lines.append) as checkpoints:
                found = checkpoints.restore(target)
                step = int(found.state["step"])
                assert equal(found.state, state_of(step)), (file, damage)
            if step == 1:
                fell_back += 1
                # A step without its commit file does not count and is not reported.
                if (work / "2").exists() and lines:
                    assert "step 2" in lines[0], (file, damage)
                    assert (work / "2" / "bad").exists(), (file, damage)
            else:
                assert not lines
            shutil.rmtree(work)
    assert fell_back > 20


def test_a_bad_step_stays_bad_until_training_saves_it_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2, 3)
    flip_an_array(tmp_path / "3")
    lines = []
    with Checkpoints(tmp_path, log=lines.append) as checkpoints:
        assert int(checkpoints.restore(abstract(state_of(1))).state["step"]) == 2
        assert len(lines) == 1
        assert "Warning: " in lines[0]
        assert checkpoints.steps() == [1, 2]
    with Checkpoints(tmp_path, log=lines.append) as checkpoints:
        assert int(checkpoints.restore(abstract(state_of(1))).state["step"]) == 2
        assert len(lines) == 1, "told once"
        save(checkpoints, 3)
        assert checkpoints.steps() == [1, 2, 3]
        assert int(checkpoints.restore(abstract(state_of(1))).state["step"]) == 3


def test_bad_steps_do_not_count_towards_keep_last(tmp_path):
    with Checkpoints(tmp_path, log=lambda line: None) as checkpoints:
        save(checkpoints, 1, 2, 3)
        flip_an_array(tmp_path / "3")
        checkpoints.restore(abstract(state_of(1)))
        save(checkpoints, 4)
        assert checkpoints.steps() == [1, 2, 4]
        save(checkpoints, 5, 6)
        assert checkpoints.steps() == [4, 5, 6]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5", "6"]


def test_bad_steps_are_deleted_even_if_the_best_is_older(tmp_path):
    with Checkpoints(tmp_path, log=lambda line: None) as checkpoints:
        save(checkpoints, 1, 2, 3, metrics={1: 0.0})
        flip_an_array(tmp_path / "3")
        checkpoints.restore(abstract(state_of(1)))
        save(checkpoints, 4, 5)
        assert (tmp_path / "3" / "bad").exists()
        save(checkpoints, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4", "5", "6"]


def test_a_run_with_only_damaged_steps_is_refused_and_not_restarted(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2)
    flip_an_array(tmp_path / "1")
    flip_an_array(tmp_path / "2")
    for _ in range(2):  # the second time all steps are marked; it is still no new run
        with (
            Checkpoints(tmp_path, log=lambda line: None) as checkpoints,
            pytest.raises(UserError, match=r"step 2, 1.*`fresh`"),
        ):
            checkpoints.restore(abstract(state_of(1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def flip_an_array(step_directory):
    """Flips a bit of the largest data file; Orbax does not detect it in array data."""
    file = max(
        (f for f in files_of(step_directory) if f.parent.name == "d"),
        key=lambda f: f.stat().st_size,
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_flip_that_orbax_misses_is_detected(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**32, 5000, np.uint32)
    state = {"step": jnp.int32(1), "noise": jnp.asarray(noise)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META, wait=True)
        step = tmp_path / "1"
        # Search for the content: the flip must lie in array data, not in an index.
        needle = noise[:64].tobytes()
        compressed = [f for f in files_of(step) if needle in f.read_bytes()]
        for file in compressed:
            content = bytearray(file.read_bytes())
            content[content.index(needle) + 77] ^= 16
            file.write_bytes(content)
        assert compressed, "random bits are stored as they are"
        with pytest.raises(UserError, match="damaged"):
            checkpoints.restore(abstract(state))
    assert "not the bits that were saved: noise" in (step / "bad").read_text()


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        OSError(24, "Too many open files"),
        PermissionError(13, "Permission denied"),
        OSError("503 Service Unavailable"),
        MemoryError(),
        ValueError('UNAVAILABLE: Error reading "w/0": HTTP response code: 503'),
        ValueError("PERMISSION_DENIED: Failed to open [os_error_code='13']"),
        ValueError("Error reading \"w/0\": Input/output error [os_error_code='5']"),
    ],
    ids=str,
)
def test_a_failed_read_is_no_damage(tmp_path, monkeypatch, error):
    def failing(*_, **__):
        try:
            raise error
        except ValueError as cause:  # Orbax wraps TensorStore's errors like this
            raise Exception("Encountered error while reading array index") from cause

    with Checkpoints(tmp_path, log=pytest.fail) as checkpoints:
        save(checkpoints, 1)
        with monkeypatch.context() as patch:
            patch.setattr(PyTreeCheckpointHandler, "restore", failing)
            with pytest.raises(Exception) as caught:
                checkpoints.restore(abstract(state_of(1)))
        assert error in (caught.value, caught.value.__cause__)
        assert checkpoints.steps() == [1]
        assert equal(checkpoints.restore(abstract(state_of(1))).state, state_of(1))


# R16 of the promises: another dtype or shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["params"].update(bias=s["params"]["bias"].astype(jnp.bfloat16)), "bfloat16"),
        (lambda s: s["params"].update(bias=jnp.zeros(5)), r"float32\[4\] there and float32\[5\]"),
        (lambda s: s["params"].update(extra=jnp.zeros(5)), "params/extra is absent there"),
        (lambda s: s["params"].pop("bias"), "params/bias is .* and absent here"),
    ],
)
def test_another_state_is_refused_by_name_and_is_not_damage(tmp_path, change, message):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        other = state_of(1)
        change(other)
        with pytest.raises(UserError, match=message):
            checkpoints.restore(abstract(other))
        assert checkpoints.steps() == [1]


def test_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.train.checkpoint.manager.FORMAT_VERSION", 99)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 99"):
        Checkpoints(tmp_path)


# R6 and R7 of the promises: interrupted saves and full disks


def test_remains_of_interrupted_saves_do_not_count_and_are_removed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1]
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists(), "read_only cleans nothing"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        save(checkpoints, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_full_disk_is_reported_with_its_step_and_older_steps_stay(tmp_path):
    def big(step):
        noise = jax.random.normal(jax.random.key(step), (300, 1000))
        return {"step": jnp.int32(step), "noise": noise}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(big(1), META, wait=True)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        checkpoints.save(big(2), META)
        with pytest.raises(UserError, match=r"step 2 could not be written.*step 1 is intact"):
            checkpoints.save(big(3), META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.steps() == [1]
    assert checkpoints.save(big(2), META, wait=True), "the same object can go on"
    checkpoints.close()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert equal(checkpoints.restore(abstract(big(1))).state, big(2))


def test_poll_reports_a_failed_save_without_another_save(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        noise = jax.random.normal(jax.random.key(0), (300, 1000))
        checkpoints.save({"step": jnp.int32(1), "noise": noise}, META)
        with pytest.raises(UserError, match="no earlier checkpoint"):
            while True:  # the time limit of the test ends the loop
                checkpoints.poll()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.close()


# R10 of the promises: other topologies

_TOPOLOGIES = """
import sys
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from bertjax.train.checkpoint.manager import Checkpoints
from bertjax.train.checkpoint.fingerprint import describe
from bertjax.train.checkpoint.restore import abstract

def place(state, devices):
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(-1, 2 if devices > 1 else 1), ("a", "b"))
    specs = {"step": P(), "w": P("a", "b"), "v": P(("a", "b")), "u": P()}
    return {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in state.items()}

def bits(state):
    return {k: np.asarray(x).tobytes() for k, x in state.items()}

assert len(jax.devices()) == 8
start = {
    "step": jnp.int32(0),
    "w": jax.random.normal(jax.random.key(0), (16, 6)),
    "v": jax.random.normal(jax.random.key(1), (24,)).astype(jnp.bfloat16),
    "u": jnp.arange(5),
}
state = place(start, 8)
plain = describe(start)
with Checkpoints(sys.argv[1]) as checkpoints:
    for count, devices in enumerate((4, 1, 8, 4)):
        assert describe(state) == describe({**start, "step": jnp.int32(count)})
        checkpoints.save(state, {})
        target = abstract(place(start, devices))
        state = checkpoints.restore(target).state
        assert all(state[name].sharding == target[name].sharding for name in target)
        assert bits({**state, "step": start["step"]}) == bits(start)
        state = {**state, "step": state["step"] + 1}
print("equal")
"""


def test_restores_onto_8_4_1_and_8_devices_with_equal_bits(tmp_path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[3]),
    }
    command = [sys.executable, "-c", _TOPOLOGIES, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "equal\n", done.stderr


def test_meta_is_plain_json_with_versions(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    meta = json.loads((tmp_path / "1" / "meta" / "metadata").read_text())
    assert meta["format"] == 1
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["arrays"]["params/layer_0/kernel"][:2] == ["float32", [6, 4]]

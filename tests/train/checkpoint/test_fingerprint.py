"""Fingerprints: every change of an array changes them, on any topology."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.train.checkpoint import fingerprint as fingerprints
from bertjax.train.checkpoint.fingerprint import describe

fingerprint = jax.jit(fingerprints.fingerprint)

MANY_SHARDED_ARRAYS = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bertjax.train.checkpoint.fingerprint import describe

rows = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
shapes = {n: (128 + 2 * (n % 6), 256) for n in range(60)}
arrays = {n: jax.device_put(jnp.full(shape, n), rows) for n, shape in shapes.items()}
whole = {n: jnp.full(shape, n) for n, shape in shapes.items()}
for _ in range(20):
    assert describe(arrays) == describe(whole)
print(jax.device_count())
"""


def test_two_devices_on_two_threads_do_not_wait_for_each_other(run_python):
    # 60 concurrent programs that sum over devices hung here until XLA gave up.
    assert run_python("-c", MANY_SHARDED_ARRAYS, devices=2, timeout=200, NPROC="2") == "2\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "bool", "uint16"])
def test_every_single_bit_changes_the_fingerprint(dtype):
    array = np.asarray(jax.random.normal(jax.random.key(0), (5, 7)) * 100).astype(dtype)
    before = int(fingerprint(jnp.asarray(array)))
    bits = [0] if dtype == "bool" else range(8 * array.dtype.itemsize)
    seen = {before}
    for element in range(0, array.size, 6):
        for bit in bits:
            raw = bytearray(array.tobytes())
            raw[element * array.dtype.itemsize + bit // 8] ^= 1 << (bit % 8)
            flipped = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
            seen.add(int(fingerprint(jnp.asarray(flipped))))
    assert len(seen) == 1 + len(range(0, array.size, 6)) * len(bits)


def test_swapped_elements_and_zeroed_ranges_change_the_fingerprint():
    array = np.array(jax.random.normal(jax.random.key(1), (300,)))
    values = {int(fingerprint(jnp.asarray(array)))}
    for i in range(50):
        swapped = array.copy()
        swapped[[i, i + 100]] = swapped[[i + 100, i]]
        zeroed = array.copy()
        zeroed[i : i + 20] = 0
        values |= {int(fingerprint(jnp.asarray(swapped))), int(fingerprint(jnp.asarray(zeroed)))}
    assert len(values) == 101


def test_describe_names_arrays_that_are_not_finite():
    arrays = {"a": jnp.ones(3), "b": jnp.array([1.0, jnp.inf]), "c": jnp.arange(3)}
    described, poisoned = describe(arrays)
    assert poisoned == ["b"]
    assert described["c"][:2] == ["int32", [3]]

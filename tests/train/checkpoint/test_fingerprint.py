MANY_SHARDED_ARRAYS = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bertjax.train.checkpoint.fingerprint import describe

rows = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
arrays = {n: jax.device_put(jnp.full((128 + 2 * n, 256), n), rows) for n in range(60)}
whole = {n: jnp.full((128 + 2 * n, 256), n) for n in range(60)}
for _ in range(20):
    assert describe(arrays) == describe(whole)
print(jax.device_count())
"""


def test_two_devices_on_two_threads_do_not_wait_for_each_other(run_python):
    # Side by side, 60 programs that sum over devices hung here until XLA gave up.
    assert run_python("-c", MANY_SHARDED_ARRAYS, devices=2, timeout=200, NPROC="2") == "2\n"

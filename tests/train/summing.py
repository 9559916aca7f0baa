"""Adds float32 arrays over processes or over the devices of one, in both ways of a training step.

Arguments: address of the coordinator, number of processes, rank. Prints, as JSON, the digest of the
sums of an all-reduce and of a reduce-scatter, how many differ from those in the order of the
devices, and by how many units of rounding of the sum of the magnitudes at most.
"""

import hashlib
import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

SIZE = 100_000


def main(address: str, count: int, rank: int) -> None:
    if count > 1:
        jax.distributed.initialize(address, count, rank, coordinator_bind_address=address)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    parts = np.random.default_rng(0).standard_normal((mesh.size, SIZE), np.float32)
    rows = NamedSharding(mesh, P("data"))
    arrays = jax.make_array_from_callback(parts.shape, rows, lambda index: parts[index])

    def reduced(part):
        return jax.lax.psum(part[0], "data")

    def scattered(part):
        own = jax.lax.psum_scatter(part[0], "data", tiled=True)
        return jax.lax.all_gather(own, "data", tiled=True)

    ordered = np.add.accumulate(parts)[-1]
    bound = np.finfo(np.float32).eps * np.abs(parts).sum(0)
    found = {"digests": [], "other_bits": [], "units": []}
    for function in (reduced, scattered):
        how = {"mesh": mesh, "in_specs": P("data"), "out_specs": P(), "check_vma": False}
        sums = jax.jit(jax.shard_map(function, **how))(arrays).addressable_data(0)
        sums = np.asarray(sums)
        found["digests"].append(hashlib.sha256(sums.tobytes()).hexdigest())
        found["other_bits"].append(int((sums != ordered).sum()))
        found["units"].append(float((np.abs(sums - ordered) / bound).max()))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

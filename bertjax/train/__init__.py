"""The training step, the loop, optimizers and sharding."""

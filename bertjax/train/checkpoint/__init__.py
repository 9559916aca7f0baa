"""Checkpoints: saving, verifying and restoring training state."""

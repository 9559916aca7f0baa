"""Prepared examples: their files and the batches that training reads."""

"""Pre-training objectives and losses."""

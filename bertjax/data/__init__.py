"""Examples: how they are drawn and stored, and the batches that training reads."""

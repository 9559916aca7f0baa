"""The encoder, its heads, and pure functions over their parameters."""

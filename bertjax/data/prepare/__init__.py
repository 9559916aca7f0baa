"""`bertjax prepare`: raw text to shards."""

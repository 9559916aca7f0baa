"""`bertjax demo`: the whole pipeline in minutes."""

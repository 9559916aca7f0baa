"""`bertjax convert`: models from one layout into another."""

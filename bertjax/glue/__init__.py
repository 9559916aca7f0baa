"""`bertjax glue`: the tasks of the GLUE benchmark as one run."""

"""`bertjax report`: HTML reports of runs."""

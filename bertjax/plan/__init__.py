"""`bertjax plan`: what a training step needs on TPUs, before any is rented."""

"""`bertjax plan`: what a pre-training step needs on TPUs, before any is rented."""

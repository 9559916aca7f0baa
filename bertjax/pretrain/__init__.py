"""`bertjax pretrain`: masked-LM pre-training runs."""

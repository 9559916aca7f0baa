"""`bertjax finetune`: training a task head and its encoder."""

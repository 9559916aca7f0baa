"""GLUE by one setting for all tasks, that of Hugging Face's run_glue.py.

    bertjax glue glue_data --model bert-base-cased --workdir runs/glue --seeds 0 1 2 3 4 \\
      --warmup-proportion 0

The paper's grid is `--grid` instead. docs/glue.md says what is written.

Hardware: one accelerator; MNLI and QQP are too large for two cores. Result: not run.
"""

from bertjax.glue.config import GlueConfig

config = GlueConfig(
    "glue_data",
    model="bert-base-cased",
    workdir="runs/glue",
    seeds=(0, 1, 2, 3, 4),
    warmup_proportion=0.0,
)

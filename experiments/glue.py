"""GLUE by one setting for all tasks, that of Hugging Face's run_glue.py, with five seeds.

    python experiments/glue.py glue_data bert-base-cased runs/glue

It is `bertjax glue` with `--seeds 0 1 2 3 4 --warmup-proportion 0`; `--grid` would try the paper's
grid instead. docs/glue.md says what is written.

Hardware: one accelerator, or four chips of TPU v5e (topology 2x2). MNLI and QQP are too large for
two cores. Result: not run. The plan of rows of 128 tokens (jax 0.10.2, libtpu 0.0.42):

    bertjax plan experiments/glue.py --topology v5e:2x2
    fits: 0.61 of 15.75 GiB HBM, 8.2 ms a step
"""

import sys

import bertjax as bj

config = bj.GlueConfig(
    "glue_data",
    model="bert-base-cased",
    seeds=(0, 1, 2, 3, 4),
    warmup_proportion=0.0,
    execution=bj.Execution(dtype="bfloat16"),
    optimizer=bj.OptimizerConfig(
        name="adamw", learning_rate=2e-5, schedule="linear", weight_decay=0.0, clip_norm=1.0
    ),
)

if __name__ == "__main__":
    directory, model, workdir = sys.argv[1:]
    bj.fit(
        bj.GlueConfig(
            **{**vars(config), "directory": directory, "model": model, "workdir": workdir}
        )
    )

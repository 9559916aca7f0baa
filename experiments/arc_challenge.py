"""ARC challenge, questions of science with up to five answers, by the recipe of run_swag.py.

    bertjax finetune experiments/arc_challenge.py --model all-MiniLM-L6-v2 \\
      --train arc_challenge_train.csv --dev arc_challenge_dev.csv

The files have a question, four choices and the letter of the answer in a row, and no header. Rows
whose choices were lost, or whose answer is a fifth choice, are left out and counted. The model is a
directory in Hugging Face's layout. `benchmarks/tasks.py` runs the same recipe in PyTorch.

Hardware: two CPU cores. Result: not run to its end; docs/multiple_choice.md has a run of 20 steps.
"""

import bertjax as bj

config = bj.FinetuneConfig(
    model="all-MiniLM-L6-v2",
    train="arc_challenge_train.csv",
    dev="arc_challenge_dev.csv",
    workdir="runs/arc-challenge",
    task=bj.MultipleChoiceConfig(
        choice_columns=("a", "b", "c", "d"),
        column_names=("question", "a", "b", "c", "d", "answer"),
        drop_incomplete=True,
    ),
    seeds=(0, 1, 2),
    epochs=3,
    batch_size=16,
    warmup_proportion=0.0,
    optimizer=bj.OptimizerConfig(
        name="adamw", learning_rate=5e-5, schedule="linear", weight_decay=0.01, clip_norm=1.0
    ),
)

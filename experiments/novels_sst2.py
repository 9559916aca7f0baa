"""The small SST-2 (6,920 sentences, 872 dev) by the L-4_H-256 of novels_l4_h256.py, and by the same
network from the first values that it started from.

    bertjax finetune experiments/novels_sst2.py
    bertjax finetune experiments/novels_sst2.py --from-scratch --workdir runs/novels-sst2-scratch

Each tries three learning rates on its first seed and keeps the best one for all three seeds.

Hardware: two CPU cores.
Result: not run.
"""

from bertjax.model.starts import StartConfig
from bertjax.runs.finetune import FinetuneConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="runs/novels",
    train="sst2/train.tsv",
    dev="sst2/dev.tsv",
    workdir="runs/novels-sst2",
    column_names=("text", "label"),
    start=StartConfig(mlm_bias="unigram", positions="waves", attention="neighbours"),
    seeds=(0, 1, 2),
    epochs=4,
    batch_size=32,
    group_by_length=True,
    max_seq_length=64,
    learning_rates=(1e-4, 3e-4, 1e-3),
    optimizer=OptimizerConfig(name="adamw", schedule="linear"),
)

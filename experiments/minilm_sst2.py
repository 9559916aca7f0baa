"""all-MiniLM-L6-v2 on the small SST-2 (6,920 sentences, 872 dev): Hugging Face's usual recipe.

    bertjax finetune experiments/minilm_sst2.py --model all-MiniLM-L6-v2 --train sst2/train.tsv \\
      --dev sst2/dev.tsv --workdir runs/minilm-sst2

The model is a directory in Hugging Face's layout; the files hold sentence<TAB>label, no header.
tests/parity/finetuning.py (with the extra parity) runs the same recipe in PyTorch beside it.

Hardware: two CPU cores.
Result: not run.
"""

from bertjax.runs.finetune import FinetuneConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="all-MiniLM-L6-v2",
    train="sst2/train.tsv",
    dev="sst2/dev.tsv",
    workdir="runs/minilm-sst2",
    column_names=("text", "label"),
    seeds=(0, 1, 2, 3, 4),
    epochs=3,
    batch_size=32,
    warmup_proportion=0.1,
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=5e-5, schedule="linear", weight_decay=0.01, clip_norm=1.0
    ),
)

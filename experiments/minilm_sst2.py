"""all-MiniLM-L6-v2 on the small SST-2 (6,920 sentences, 872 dev), by Hugging Face's usual recipe.

    bertjax finetune experiments/minilm_sst2.py --model all-MiniLM-L6-v2 --train sst2/train.tsv \\
      --dev sst2/dev.tsv --workdir runs/minilm-sst2

The model is a directory in Hugging Face's layout. The files hold sentence<TAB>label without a
header. tests/parity/finetuning.py (extra parity) runs the same recipe in PyTorch.

Hardware: two CPU cores.
Result (2026-11-24 to 26, one seed at a time on a shared machine): accuracy on dev for seeds 0 to 4:

    bertjax                                   0.8819 0.8819 0.8727 0.8750 0.8739   mean 0.8771
    PyTorch 2.14 with transformers 5.24       0.8761 0.8704 0.8761 0.8830 0.8796   mean 0.8770

Two standard errors of the difference are 0.0058.
"""

from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="all-MiniLM-L6-v2",
    train="sst2/train.tsv",
    dev="sst2/dev.tsv",
    workdir="runs/minilm-sst2",
    task=ClassificationConfig(column_names=("text", "label")),
    seeds=(0, 1, 2, 3, 4),
    epochs=3,
    batch_size=32,
    warmup_proportion=0.1,
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=5e-5, schedule="linear", weight_decay=0.01, clip_norm=1.0
    ),
)

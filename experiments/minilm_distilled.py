"""all-MiniLM-L6-v2 fine-tuned on the small SST-2 into three of its six layers.

    bertjax finetune experiments/minilm_sst2.py --model all-MiniLM-L6-v2 --train sst2/train.tsv \\
      --dev sst2/dev.tsv --group-by-length --epochs 2 --seeds 0 --workdir runs/minilm-sst2
    bertjax finetune experiments/minilm_distilled.py --model runs/minilm-sst2 \\
      --teacher runs/minilm-sst2 --train sst2/train.tsv --dev sst2/dev.tsv \\
      --workdir runs/minilm-sst2-3-layers

The first command trains the teacher. The student starts from three of its layers and from its head,
and learns the labels and the outputs of the teacher at equal weights. benchmarks/distillation.py
trains it with and without the teacher.

Hardware: two CPU cores. Result: not run on all rows. On the first 1,000 (2026-11-30), accuracy
0.802 on the dev rows, 0.805 without the teacher, which has 0.883; docs/finetuning.md has the table.
"""

from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="runs/minilm-sst2",
    keep_head=True,
    layers_to_keep=(1, 3, 5),
    teacher="runs/minilm-sst2",
    teacher_weight=0.5,
    teacher_temperature=2.0,
    train="sst2/train.tsv",
    dev="sst2/dev.tsv",
    workdir="runs/minilm-sst2-3-layers",
    task=ClassificationConfig(column_names=("text", "label")),
    seeds=(0, 1, 2),
    epochs=2,
    batch_size=32,
    group_by_length=True,
    warmup_proportion=0.1,
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=5e-5, schedule="linear", weight_decay=0.01, clip_norm=1.0
    ),
)

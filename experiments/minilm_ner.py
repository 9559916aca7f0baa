"""all-MiniLM-L6-v2 on named entities: WNUT17 (3,394 sentences, 1,009 dev), wikigold, BTC.

    bertjax finetune experiments/minilm_ner.py --model all-MiniLM-L6-v2 \\
      --train wnut17train.conll --dev emerging.dev.conll --workdir runs/minilm-wnut17

The model is a directory in Hugging Face's layout. tests/parity/tagging.py (extra parity) runs the
same recipe in PyTorch, on wikigold (the last fifth of its documents is dev) and on the Broad
Twitter Corpus (train a, b, e and g; dev h) too.

Hardware: two CPU cores.
Result: on the first 800 sentences, F1 on dev 0.388 ± 0.032, ten seeds (docs/tagging.md); not run
on all.
"""

from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="all-MiniLM-L6-v2",
    train="wnut17train.conll",
    dev="emerging.dev.conll",
    workdir="runs/minilm-wnut17",
    task=TokenClassificationConfig(),
    seeds=(0, 1, 2),
    epochs=3,
    batch_size=16,
    warmup_proportion=0.1,
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=2e-4, schedule="linear", weight_decay=0.01, clip_norm=1.0
    ),
)

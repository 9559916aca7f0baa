"""BERT-large by LAMB (arXiv 1904.00962), following NVIDIA's recipe (DeepLearningExamples, PyTorch).

    bertjax tokenizer train --input corpus --output tokenizer --vocab-size 30522
    bertjax prepare --input corpus --tokenizer tokenizer --output shards \\
      --max-seq-length 128 512 --dupe-factor 5
    bertjax pretrain experiments/bert_large_lamb.py --workdir gs://bucket/bert-large

It takes 7,038 steps of 65,536 rows of 128 tokens, then 1,563 steps of 32,768 rows of 512 tokens.
Each phase has its own schedule. The moments carry over to the second phase, as in NVIDIA's code.
NVIDIA's code restarts their bias correction; bertjax does not.

Hardware: 256 chips of TPU v5e (topology 16x16) with 32 rows of 128 or 8 rows of 512 tokens a chip.
Result: not run. For phase 1 with 16 chips and their share of the rows, the TPU's compiler predicts
1.48 times the time of the matrix products and 5.19 GiB of HBM (docs/performance.md).
"""

from bertjax.config import Execution
from bertjax.pretrain.config import ModelConfig, PretrainConfig, SecondPhase
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards/128",
    workdir="runs/bert-large-lamb",
    model=ModelConfig(size="large"),
    optimizer=OptimizerConfig(
        name="lamb",
        learning_rate=6e-3,
        schedule="polynomial",
        warmup_steps=2_000,  # 28.43%
    ),
    loop=LoopConfig(train_steps=7_038 + 1_563, log_every=10, eval_every=500, save_every=200),
    second=SecondPhase(
        data="shards/512",
        after_steps=7_038,
        batch_size=32_768,
        accumulation=16,
        learning_rate=4e-3,
        warmup_steps=200,  # 12.8%
    ),
    execution=Execution(dtype="bfloat16"),
    batch_size=65_536,
    accumulation=8,
)

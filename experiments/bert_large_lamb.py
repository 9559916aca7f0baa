"""BERT-large by LAMB (arXiv 1904.00962), following NVIDIA's recipe (DeepLearningExamples, PyTorch).

    bertjax tokenizer train --input corpus --output tokenizer --vocab-size 30522
    bertjax prepare --input corpus --tokenizer tokenizer --output shards \\
      --max-seq-length 128 512 --dupe-factor 5
    bertjax pretrain experiments/bert_large_lamb.py --workdir gs://bucket/bert-large

It takes 7,038 steps of 65,536 rows of 128 tokens, then 1,563 steps of 32,768 rows of 512 tokens.
Each phase has its own schedule. The moments carry over to the second phase, as in NVIDIA's code.
NVIDIA's code restarts their bias correction; bertjax does not.

Hardware: 256 chips of TPU v5e (topology 16x16) with 32 rows of 128 or 8 rows of 512 tokens a chip
at a time. The same recipe runs on 64 chips of v5p (4x4x4) or v6e (8x8), which hold four times the
rows at a time.
Result: not run. Plans of both phases, and of phase 1 elsewhere (jax 0.10.2, libtpu 0.0.42):

    bertjax plan experiments/bert_large_lamb.py --topology v5e:16x16 --max-seq-length 128 \\
      --vocab-size 30522
    fits: 4.97 of 15.75 GiB HBM, 474.0 ms a step, 7,038 steps in 0.9 hours

    bertjax plan experiments/bert_large_lamb.py --phase 2 --topology v5e:16x16 \\
      --max-seq-length 512 --vocab-size 30522
    fits: 5.33 of 15.75 GiB HBM, 1,194.2 ms a step, 1,563 steps in 0.5 hours

    bertjax plan experiments/bert_large_lamb.py --topology v6e:8x8 --max-seq-length 128 \\
      --vocab-size 30522
    fits: 14.15 of 31.20 GiB HBM, 928.4 ms a step, 7,038 steps in 1.8 hours

    bertjax plan experiments/bert_large_lamb.py --topology v5p:4x4x4 --max-seq-length 128 \\
      --vocab-size 30522
    fits: 11.26 of 95.70 GiB HBM, 978.1 ms a step, 7,038 steps in 1.9 hours
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

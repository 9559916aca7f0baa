"""BERT-base, phase 1 of the paper (arXiv 1810.04805, A.2): batch 256, Adam 1e-4, 128 tokens.

    bertjax tokenizer train --input corpus/*.txt --output tokenizer --kind wordpiece \\
      --vocab-size 30522
    bertjax prepare --input corpus/*.txt --tokenizer tokenizer --output shards --dupe-factor 10
    bertjax pretrain experiments/bert_base_v5e.py --data shards --workdir gs://bucket/bert-base

Hardware: four chips of TPU v5e (topology 2x2), one host.
Result: not run. Its plan (jax 0.10.2, libtpu 0.0.42):

    bertjax plan experiments/bert_base_v5e.py --topology v5e:2x2 --max-seq-length 128 \\
      --vocab-size 30522
    fits: 2.39 of 15.75 GiB HBM, 39.5 ms a step, 900,000 steps in 9.9 hours
"""

from bertjax.config import Execution
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards",
    workdir="runs/bert-base",
    model=ModelConfig(size="base"),
    optimizer=OptimizerConfig(name="adamw_google", learning_rate=1e-4, warmup_steps=10_000),
    loop=LoopConfig(train_steps=900_000, log_every=100, eval_every=10_000, save_every=5_000),
    execution=Execution(dtype="bfloat16"),
    batch_size=256,
)

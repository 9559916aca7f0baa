"""BERT-base as in the paper (arXiv 1810.04805, A.2).

    bertjax tokenizer train --input corpus --output tokenizer --vocab-size 30522
    bertjax prepare --input corpus --tokenizer tokenizer --output shards \\
      --max-seq-length 128 512 --dupe-factor 10
    bertjax pretrain experiments/bert_base_paper.py --workdir gs://bucket/bert-base

It takes 1,000,000 steps of 256 rows with Adam at 1e-4 and one linear schedule. The rows have 128
tokens in the first 90% of the steps and 512 in the rest, which take two microbatches because that
is faster (docs/performance.md). The paper's corpus is BooksCorpus and the English Wikipedia (3.3
billion words).

Hardware: 16 chips of TPU v5e (topology 4x4). The paper used 16 chips of Cloud TPU for four days.
Result: not run. The paper reports an average of 79.6 on GLUE, and F1 88.5 on SQuAD 1.1 dev.
The plans of both phases (jax 0.10.2, libtpu 0.0.42):

    bertjax plan experiments/bert_base_paper.py --topology v5e:4x4 --max-seq-length 128 \\
      --vocab-size 30522
    fits: 0.75 of 15.75 GiB HBM, 14.3 ms a step, 900,000 steps in 3.6 hours

    bertjax plan experiments/bert_base_paper.py --phase 2 --topology v5e:4x4 --max-seq-length 512 \\
      --vocab-size 30522
    fits: 1.97 of 15.75 GiB HBM, 53.0 ms a step, 100,000 steps in 1.5 hours
"""

from bertjax.config import Execution
from bertjax.pretrain.config import ModelConfig, PretrainConfig, SecondPhase
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards/128",
    workdir="runs/bert-base-paper",
    model=ModelConfig(size="base"),
    optimizer=OptimizerConfig(name="adamw_google", learning_rate=1e-4, warmup_steps=10_000),
    loop=LoopConfig(train_steps=1_000_000, log_every=100, eval_every=10_000, save_every=5_000),
    second=SecondPhase(data="shards/512", after_steps=900_000, accumulation=2),
    execution=Execution(dtype="bfloat16"),
    batch_size=256,
)

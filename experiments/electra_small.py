"""ELECTRA-small (Clark et al., 2020, table 6) with embeddings of the model's own width.

    bertjax tokenizer train --input corpus --output tokenizer --vocab-size 30522
    bertjax prepare --input corpus --tokenizer tokenizer --output shards --segments single
    bertjax pretrain experiments/electra_small.py

A generator of a quarter of the width replaces 15% of the tokens, and the model learns which ones
were replaced. As in google-research/electra, 85% of the chosen tokens are [MASK] in the generator's
input and the rest are kept. The export is an encoder without a pooler, which `bertjax finetune`
reads.

Hardware: one GPU.
Result: not run.
"""

from bertjax.config import Execution
from bertjax.objectives.masking import MaskingConfig
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards",
    workdir="runs/electra-small",
    objective="rtd",
    model=ModelConfig(size="L-12_H-256"),
    masking=MaskingConfig(mask_prob=0.85, random_prob=0.0),
    optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=10_000),
    loop=LoopConfig(train_steps=1_000_000, eval_every=20_000, save_every=10_000),
    execution=Execution(dtype="bfloat16"),
    batch_size=128,
)

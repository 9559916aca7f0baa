"""BERT-base compressed into 6 layers of 384, with the settings of MiniLMv2 (arXiv 2012.15828).

    bertjax prepare --input corpus --tokenizer bert-base-uncased --output shards \\
      --segments single --max-seq-length 512
    bertjax pretrain experiments/minilm_l6_h384.py --workdir gs://bucket/minilm

The corpus of the paper is Wikipedia and BookCorpus, and bert-base-uncased is a directory with that
model. The student reads rows of 512 tokens with 12 attention heads and learns the relations of the
teacher's last layer in 48 heads. Another teacher needs its own vocabulary in `bertjax prepare`; for
BERT-large the defaults are layer 21 and 64 relation heads.

Hardware: eight chips of TPU v5e (topology 2x4).
Result: not run. tests/tpu/test_minilm.py compiles the step ahead of time for v5e:2x4 and prints the
peak memory of a device.
"""

from bertjax.config import Execution
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards",
    workdir="runs/minilm",
    teacher="bert-base-uncased",
    model=ModelConfig(size="base", hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    optimizer=OptimizerConfig(
        name="adamw", eps=1e-6, learning_rate=6e-4, schedule="linear", warmup_steps=4_000
    ),
    loop=LoopConfig(train_steps=400_000, log_every=100, eval_every=10_000, save_every=5_000),
    execution=Execution(dtype="bfloat16"),
    batch_size=256,
)

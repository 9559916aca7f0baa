"""all-MiniLM-L6-v2 compressed into 3 layers of 192, on a little text: how the relation loss falls.

    bertjax prepare --input novels/train --tokenizer all-MiniLM-L6-v2 --output shards \\
      --segments single --max-seq-length 64 --dupe-factor 1
    bertjax pretrain experiments/minilm_novels.py

The teacher is a directory of sentence-transformers, and the text that of novels_l4_h256.py.

Hardware: two CPU cores.
Result (2026-11-30, 11 minutes, other work shared the cores): held-out relation loss 0.598 nats
(queries 0.193, keys 0.246, values 0.158). The first step, with initial weights, had 1.416 on its
rows. The loss on the way:

    step    100    200    300    400
    loss  0.760  0.670  0.618  0.598

These are 6,400 rows of 64 tokens; the paper trains on 102 million of 512. Whether a task gains from
it was not measured.
"""

from bertjax.objectives.options import MiniLMOptions, ObjectiveOptions
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

config = PretrainConfig(
    data="shards",
    workdir="runs/minilm-novels",
    teacher="all-MiniLM-L6-v2",
    objective_options=ObjectiveOptions(minilm=MiniLMOptions(relation_heads=24)),
    model=ModelConfig(
        size="mini",
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=768,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
    ),
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=40),
    loop=LoopConfig(train_steps=400, log_every=50, eval_every=100, save_every=400),
    batch_size=16,
    eval_examples=256,
)

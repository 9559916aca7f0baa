"""BERT-base on SQuAD 1.1 as in the paper (arXiv 1810.04805, 4.2): 3 epochs, 32 windows, 5e-5.

    bertjax finetune experiments/squad_base.py --train train-v1.1.json --dev dev-v1.1.json

Windows of 384 tokens with a stride of 128 are those of Google's run_squad.py.

Hardware: four chips of TPU v5e (topology 2x2).
Result: not run. The paper reports an F1 of 88.5 on the dev file. The plan (jax 0.10.2, libtpu
0.0.42), for windows of 384 tokens:

    bertjax plan experiments/squad_base.py --topology v5e:2x2
    fits: 1.36 of 15.75 GiB HBM, 18.9 ms a step
"""

from bertjax.config import Execution
from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="bert-base-uncased",
    train="train-v1.1.json",
    dev="dev-v1.1.json",
    workdir="runs/squad-base",
    task=QuestionAnsweringConfig(),
    epochs=3,
    batch_size=32,
    max_seq_length=384,
    optimizer=OptimizerConfig(learning_rate=5e-5),
    execution=Execution(dtype="bfloat16"),
)

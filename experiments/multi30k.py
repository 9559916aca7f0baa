"""German to English from scratch on the 29,000 captions of Multi30k, by 4 + 4 layers of 128.

    bertjax tokenizer train --input multi30k/train.de multi30k/train.en --no-lowercase \\
      --model-type bpe --vocab-size 10000 --output multi30k/bpe
    bertjax finetune experiments/multi30k.py
    bertjax finetune experiments/multi30k.py --source-column en --target-column de \\
      --workdir runs/multi30k-en-de

multi30k/ holds the parallel files train.de, train.en, val.de and val.en
(https://github.com/multi30k/dataset). The shape and the recipe are those of "transformer tiny" of
Wu et al. 2021 (arXiv 2105.14462): joint BPE, tied embeddings, dropout 0.3, label smoothing 0.1, a
learning rate of 5e-3 after 2,000 warm-up steps and then falling with the inverse square root of the
step, 4,096 tokens a step, the mean of the last ten checkpoints (one an epoch) and a beam of five.
They train for 8,000 steps and report BLEU 41.0 for English to German on test2016; this recipe
trains for 3,960. This network is a BERT: learned positions (they begin as sinusoids), token types,
and a dense layer before the output.

Hardware: two CPU cores, with other work beside it.
Result: on the 1,014 dev pairs, cased BLEU of sacreBLEU 2.6.0 with its tokenization 13a (with intl):
German to English 41.0 (41.2) in 45 minutes, 30 epochs. English to German with --epochs 20: 35.9 in
37 minutes. BLEU of the first 200 dev pairs during training:

| step | German to English, minutes | English to German, minutes |
|---|---|---|
| 660 | 15.2, 6 | 14.9, 12 |
| 1,320 | 33.6, 11 | 30.7, 20 |
| 1,980 | 37.2, 20 | 35.3, 28 |
| 2,640 | 39.3, 28 | 36.2, 36 |
| 3,300 | 40.9, 36 | |
| 3,960 | 41.6, 45 | |
"""

from bertjax.finetune.config import FinetuneConfig
from bertjax.model.generation_config import GenerationConfig
from bertjax.model.initializers import InitializationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="experiments/multi30k.json",
    tokenizer="multi30k/bpe",
    from_scratch=True,
    initialization=InitializationConfig(positions="sinusoidal"),
    train="multi30k/train",
    dev="multi30k/val",
    workdir="runs/multi30k",
    task=Seq2SeqConfig(
        source_column="de",
        target_column="en",
        share="embeddings",
        max_target_length=64,
        label_smoothing=0.1,
        scoring="bleu",
        eval_rows=200,
        generation=GenerationConfig(max_length=64, num_beams=5),
    ),
    epochs=30,
    batch_tokens=4096,
    max_seq_length=64,
    average_last=10,
    save_every=132,
    eval_every=660,
    optimizer=OptimizerConfig(
        name="adamw",
        learning_rate=5e-3,
        schedule="inverse_sqrt",
        warmup_steps=2000,
        beta2=0.98,
        weight_decay=0.0,
    ),
)

"""Vectors of sentences from the documentation of the installed packages, with in-batch negatives.

    python experiments/documentation_pairs.py pairs.tsv 6000
    bertjax evaluate all-MiniLM-L6-v2 dev.tsv --text-column sentence1 --pair-column sentence2 \\
      --score-column score --score-range 0 5
    bertjax finetune experiments/documentation_pairs.py --model all-MiniLM-L6-v2

The first command writes pairs of the summary line of a docstring and the sentence after it, of
6,000 docstrings drawn at random. dev.tsv are the scored pairs of STS-B that minilm_stsb.py holds
out: what is learned from documentation is measured on news, captions and forum posts.

Hardware: one CPU core.
Result (2026-12-01): spearman 0.8319 before training, 0.8158 after it. With --model runs/novels,
which novels_l4_h256.py made in 1,350 steps (held-out loss 4.280), it is 0.5136 after 2 minutes;
before, the cosines of the vectors of `bertjax embed runs/novels` have 0.4551.
"""

import itertools
import random
import sys

from etils import epath

from bertjax.demo.documentation import installed_documentation
from bertjax.finetune.config import FinetuneConfig
from bertjax.tasks.embedding.config import EmbeddingConfig
from bertjax.text.sentences import split_sentences
from bertjax.train.optimizer import OptimizerConfig

config = FinetuneConfig(
    model="all-MiniLM-L6-v2",
    train="pairs.tsv",
    dev="dev.tsv",
    workdir="runs/documentation-pairs",
    task=EmbeddingConfig(
        text_column="summary",
        pair_column="next",
        score_column="score",
        score_range=(0, 5),
        dev_text_column="sentence1",
        dev_pair_column="sentence2",
        loss="in_batch_negatives",
    ),
    epochs=1,
    batch_size=64,
    max_seq_length=48,
    group_by_length=True,
    optimizer=OptimizerConfig(learning_rate=5e-5),
)


def write(path: str, count: int) -> None:
    """Writes the summary lines of docstrings and the sentences after them, each pair once."""
    pairs = set()
    for passage in installed_documentation():
        sentences = itertools.chain(*map(split_sentences, passage.text.split("\n\n")))
        pair = tuple(itertools.islice(sentences, 2))
        if len(pair) == 2 and not any("\t" in each for each in pair):
            pairs.add(pair)
    chosen = random.Random(0).sample(sorted(pairs), count)
    lines = ["summary\tnext", *map("\t".join, chosen)]
    epath.Path(path).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))

"""The demo's hyperparameters, and the configurations that they make.

All were chosen on the dev passages, never on the test passages.
"""

import dataclasses
import json

from etils import epath

from bertjax.config import BertConfig
from bertjax.files import write_atomically
from bertjax.finetune.config import FinetuneConfig
from bertjax.model.initializers import InitializationConfig
from bertjax.objectives.masking import MaskingConfig
from bertjax.pretrain.config import ModelConfig, PretrainConfig
from bertjax.tasks.embedding.config import EmbeddingConfig
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig

INITIALIZATION = InitializationConfig(
    mlm_bias="unigram", positions="sinusoidal", attention="averaging"
)
"""Pre-training starts from it, and so does the network from scratch that it is compared with."""
_NEVER = 10**9  # steps


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Sizes, rates and numbers of steps."""

    size: str = "tiny"
    # Most words are whole: a passage's topic lies in its words, not in their pieces.
    vocab_size: int = 8192
    max_seq_length: int = 64
    batch_size: int = 32  # small, for more updates from the same text
    # More predictions than BERT's 0.15 and fewer neighbors to guess from teach the model more of
    # what a passage is about.
    masking_rate: float = 0.3
    learning_rate: float = 2e-3
    beta2: float = 0.98  # 0.999 would average over a thousand steps, more than there are
    # BERT's 0.02 suits a width of 768; a narrow model starts learning sooner from this.
    initializer_range: float = 0.05
    warmup_share: float = 0.1
    # Pre-training takes these steps even if they exceed the time: without it, pairs of passages
    # teach little.
    min_steps: int = 600
    max_epochs: float = 40.0  # more epochs only memorize the text
    finetune_rate: float = 1e-3
    finetune_batch_size: int = 32
    epochs: int = 4
    epochs_few: int = 10
    epochs_fewest: int = 30
    embedding_batch_size: int = 64
    embedding_rate: float = 2e-3
    seeds: int = 3
    held_out: float = 0.03
    eval_examples: int = 256

    @classmethod
    def of(cls, minutes: float) -> "Hyperparameters":
        """The hyperparameters for a budget of time."""
        if minutes < 20:
            return cls()
        return cls(
            size="mini",
            learning_rate=1e-3,
            # 0.02 * sqrt(768 / 256): activations have the same size as in BERT-base.
            initializer_range=0.035,
            min_steps=1500,
            finetune_rate=5e-4,
            embedding_rate=1e-3,
        )

    def label_epochs(self, rows: str) -> int:
        """Epochs of fine-tuning on "train", "few" or "fewest"."""
        epochs = {"train": self.epochs, "few": self.epochs_few, "fewest": self.epochs_fewest}
        return epochs[rows]

    def model(self) -> BertConfig:
        """The model. Minutes of training are too short to overfit, so it has no dropout."""
        return BertConfig.named(
            self.size,
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_seq_length,
            initializer_range=self.initializer_range,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def pretraining(self, workdir: epath.Path, steps: int, seed: int) -> PretrainConfig:
        """The configuration of pre-training; writes the shape of the model to `workdir`."""
        shape = workdir / "model.json"
        write_atomically(shape, (json.dumps(self.model().to_dict(), indent=2) + "\n").encode())
        return PretrainConfig(
            data=str(workdir / "data"),
            workdir=str(workdir / "pretrain"),
            model=ModelConfig(size=str(shape)),
            initialization=INITIALIZATION,
            masking=MaskingConfig(rate=self.masking_rate),
            optimizer=OptimizerConfig(
                name="muon",
                learning_rate=self.learning_rate,
                schedule="linear",
                warmup_steps=int(self.warmup_share * steps),
                beta2=self.beta2,
            ),
            loop=LoopConfig(
                train_steps=steps,
                log_every=max(10, steps // 40),
                eval_every=steps // 10,
                save_every=max(100, steps // 3),
                keep_best=0,
            ),
            batch_size=self.batch_size,
            eval_examples=self.eval_examples,
            seed=seed,
        )

    def embedding(self, workdir: epath.Path, seed: int) -> FinetuneConfig:
        """The configuration of training [CLS] on pairs of passages of one source file."""
        corpus = workdir / "corpus"
        return FinetuneConfig(
            model=str(workdir / "pretrain"),
            train=str(corpus / "pairs.jsonl"),
            dev=str(corpus / "dev_pairs.jsonl"),
            workdir=str(workdir / "embedding"),
            task=EmbeddingConfig(pooling="cls"),
            seeds=(seed,),
            epochs=1,
            batch_size=self.embedding_batch_size,
            max_seq_length=self.max_seq_length,
            eval_every=_NEVER,
            save_every=_NEVER,
            optimizer=OptimizerConfig(
                name="adamw", learning_rate=self.embedding_rate, schedule="linear"
            ),
        )

    def finetuning(
        self, workdir: epath.Path, arm: str, rows: str, seeds: tuple[int, ...]
    ) -> FinetuneConfig:
        """The configuration of fine-tuning the "pretrained" or "scratch" `arm` on the split `rows`.

        `workdir` is the directory of the demo. `rows` is "train", "few" or "fewest".
        """
        corpus = workdir / "corpus"
        return FinetuneConfig(
            model=str(workdir / "embedding"),
            train=str(corpus / f"{rows}.jsonl"),
            dev=str(corpus / "dev.jsonl"),
            test=str(corpus / "test.jsonl"),
            workdir=str(workdir / "finetune" / f"{arm}-{rows}"),
            from_scratch=arm == "scratch",
            initialization=INITIALIZATION,
            seeds=seeds,
            epochs=self.label_epochs(rows),
            batch_size=self.finetune_batch_size,
            max_seq_length=self.max_seq_length,
            eval_every=_NEVER,  # the last step is evaluated anyway, and only that is used
            save_every=_NEVER,
            log_every=_NEVER,
            optimizer=OptimizerConfig(
                name="adamw", learning_rate=self.finetune_rate, schedule="linear"
            ),
        )

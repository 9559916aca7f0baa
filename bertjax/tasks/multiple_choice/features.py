"""Questions as rows of one sequence per choice."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertjax.tasks import batches
from bertjax.tasks.multiple_choice.questions import Question
from bertjax.tasks.texts import TextFeatures, tokenize

if TYPE_CHECKING:
    from bertjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ChoiceFeatures:
    """N rows, each with a sequence [CLS] first text [SEP] second text [SEP] per choice."""

    sequences: TextFeatures
    """The sequences of all rows."""
    starts: np.ndarray
    """int64 [N + 1]: first sequence of each row, and one past the last of all."""
    answers: np.ndarray
    """int32 [N]: the right choice."""
    choices: int
    """Choices of a padded row."""

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of the longest choice of each row."""
        return np.maximum.reduceat(self.sequences.lengths, self.starts[:-1])

    @property
    def counts(self) -> np.ndarray:
        """int64 [N]: choices of each row."""
        return np.diff(self.starts)

    def batch(self, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """Pads rows to C choices of `width` tokens; the index -1 is a row of weight 0.

        A padding choice is one [PAD] token.

        Returns:
            input_ids, attention_mask, token_type_ids int32 [B, C, T]; choice_mask int32 [B, C];
            label int32 [B]; example_weight float32 [B].
        """
        indices = np.asarray(indices)
        rows, places = np.maximum(indices, 0), np.arange(self.choices)
        mask = places < self.counts[rows][:, None]  # [B, C]
        chosen = np.where(mask & (indices >= 0)[:, None], self.starts[rows][:, None] + places, -1)
        texts = self.sequences
        flat = batches.padded(
            texts.input_ids, texts.token_type_ids, chosen.reshape(-1), width, texts.pad_id
        )
        shape = (len(rows), self.choices, width)
        arrays = {
            name: flat[name].reshape(shape)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        arrays["input_ids"][~mask] = texts.pad_id
        arrays["token_type_ids"][~mask] = 0
        arrays["attention_mask"][~mask] = np.arange(width) == 0
        return {
            **arrays,
            "choice_mask": mask.astype(np.int32),
            "label": self.answers[rows],
            "example_weight": (indices >= 0).astype(np.float32),
        }


def make_features(
    questions: Sequence[Question],
    tokenizer: "Tokenizer",
    max_length: int,
    choices: int,
    answers: np.ndarray | None = None,
) -> ChoiceFeatures:
    """Tokenizes questions; of the two texts of a choice the longer one is truncated at its end.

    Args:
        questions: N questions, each with at least one choice.
        tokenizer: gives the ids.
        max_length: maximum tokens of a sequence.
        choices: choices of a padded row.
        answers: int32 [N]; None, for prediction: zeros.
    """
    pairs = [pair for question in questions for pair in question.pairs()]
    firsts, seconds = zip(*pairs, strict=True)
    counts = [len(question.choices) for question in questions]
    if answers is None:
        answers = np.zeros(len(questions), np.int32)
    sequences = tokenize(firsts, seconds, tokenizer, max_length)
    return ChoiceFeatures(sequences, np.cumsum([0, *counts]), answers, choices)

"""The configuration of generation: greedy, beam search or sampling."""

import dataclasses
import math
from typing import Literal

from bertjax.errors import UserError, refuse_unknown

# The minima of the fields that are whole numbers.
_MINIMUM = dict.fromkeys(("max_length", "num_beams", "n_best"), 1)
_MINIMUM |= dict.fromkeys(("min_length", "no_repeat_ngram_size", "top_k", "sample_seed"), 0)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How texts are written. The names are Hugging Face's if they are not explained here."""

    max_length: int = 128
    """Maximum number of tokens to generate, with the end token (Hugging Face's max_new_tokens)."""
    min_length: int = 0
    """Minimum number of tokens before the end token (Hugging Face's min_new_tokens)."""
    num_beams: int = 4
    """Beams, K. 1: greedy search, or sampling with `do_sample`."""
    length_penalty: float = 1.0
    """Exponent of the length penalty. A larger value favors longer sequences; 0: no penalty."""
    length_penalty_kind: Literal["huggingface", "gnmt"] = "huggingface"
    """The divisor of a sequence's log probability, whose length counts the end token. huggingface:
    length ** length_penalty. gnmt: ((5 + length) / 6) ** length_penalty (Wu et al. 2016)."""
    early_stopping: bool | Literal["never"] = False
    """When a row is finished that has `num_beams` finished sequences. True: at once. False: when
    the best running beam, with the penalty of its length, has no better score than the worst of
    them. never: when that beam has no better score even with the most favorable penalty."""
    no_repeat_ngram_size: int = 0
    """Length n of n-grams that occur at most once. 0: no limit."""
    do_sample: bool = False
    """Draw tokens at random. It needs `num_beams` 1."""
    temperature: float = 1.0
    """Divisor of the logits before tokens are drawn."""
    top_k: int = 0
    """Draw from the k most probable tokens. 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest most probable tokens whose probability reaches this sum, after
    `top_k`."""
    n_best: int = 1
    """Texts for each input: those of the best beams, or independent samples (Hugging
    Face's num_return_sequences)."""
    sample_seed: int = 0
    """Seed of the draws. A source determines its draws too, whatever is read beside it."""

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if not (type(value) is int and value >= minimum):
                raise UserError(
                    f"`{name}` is {value!r}: give a whole number of at least {minimum}."
                )
        if not (_is_number(self.length_penalty) and abs(self.length_penalty) <= 10):
            raise UserError(
                f"`length_penalty` is {self.length_penalty!r}: give a number from -10 to 10."
            )
        refuse_unknown("`length_penalty_kind`", self.length_penalty_kind, ("huggingface", "gnmt"))
        if not (type(self.early_stopping) is bool or self.early_stopping == "never"):
            raise UserError(
                f'`early_stopping` is {self.early_stopping!r}: give True, False or "never".'
            )
        if not (_is_number(self.temperature) and self.temperature > 0):
            raise UserError(
                f"`temperature` is {self.temperature!r}: give a number above 0; greedy "
                "search is `do_sample` False with `num_beams` 1."
            )
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise UserError(f"`top_p` is {self.top_p!r}: give a number above 0 and at most 1.")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.min_length > self.max_length:
            raise UserError(
                f"`min_length` {self.min_length} exceeds `max_length` {self.max_length}: lower it."
            )
        if self.do_sample and self.num_beams > 1:
            raise UserError(
                f"`do_sample` does not work with `num_beams` {self.num_beams}: give 1 beam, or do "
                "not sample."
            )
        if not self.do_sample and self.n_best > self.num_beams:
            raise UserError(
                f"`n_best` {self.n_best} exceeds `num_beams` {self.num_beams}: a search returns at "
                "most as many sequences as it has beams."
            )
        drawing = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        for name, default in drawing.items():
            if not self.do_sample and getattr(self, name) != default:
                raise UserError(
                    f"`{name}` has no effect on a search: set `do_sample`, or leave it out."
                )


def _is_number(value: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value)

"""The kinds of segments that an example can hold: how they are drawn and what their label means.

Data knows segments only. `bertjax.objectives` says which objectives can be trained on a kind.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from bertjax.data.pairs import SPECIALS_PER_PAIR, FlatDocuments, Spans, pair_spans
from bertjax.data.sequences import SPECIALS_PER_SINGLE, ordered_spans, single_spans

SegmentsName = Literal["next_sentence", "single", "sentence_order"]
"""The keys of `SEGMENTS`, as a type."""
DEFAULT_SEGMENTS: SegmentsName = "next_sentence"


@dataclasses.dataclass(frozen=True)
class SegmentKind:
    """How the segments of an example are drawn, and the words for them in reports."""

    name: str
    """The value of `segments` in a manifest."""
    draw: Callable[[FlatDocuments, int, float, np.random.Generator], Spans]
    """(documents, max_seq_length, short_seq_prob, rng) -> the examples of one pass, in document
    order. It raises ValueError if max_seq_length is below 5."""
    special_tokens: int
    """Number of special tokens in an example."""
    why_not_one_sentence: str
    """Why a document should have more than one sentence."""
    label: str = ""
    """Meaning of label 1; empty if examples have no label."""
    label_share: str = ""
    """Words after the share of examples with label 1."""
    label_margin: float = 0.0
    """Accepted distance between that share and one half."""
    min_documents: int = 1
    """Number of documents that must be drawn from together."""

    @property
    def is_pair(self) -> bool:
        """Whether an example has a second segment, and so a label."""
        return bool(self.label)

    @property
    def draws_other_documents(self) -> bool:
        """Whether the second segment may come from another document."""
        return self.min_documents > 1


_KINDS = (
    SegmentKind(
        "next_sentence",
        pair_spans,
        SPECIALS_PER_PAIR,
        why_not_one_sentence="a document of one sentence gives only pairs with a random B",
        label="B is random",
        label_share="random next sentences",
        # Google's algorithm gives more than half, because a chunk of one sentence always takes a
        # random B: 53% at 128 tokens of English novels, and more where examples are shorter.
        label_margin=0.25,
        min_documents=2,
    ),
    SegmentKind(
        "single",
        single_spans,
        SPECIALS_PER_SINGLE,
        why_not_one_sentence="an example ends with its document; the rest of its row is padding",
    ),
    SegmentKind(
        "sentence_order",
        ordered_spans,
        SPECIALS_PER_PAIR,
        why_not_one_sentence="a document of one sentence has no order to learn",
        label="A and B are swapped",
        label_share="in the wrong order",
        label_margin=0.05,  # a fair coin decides whether two segments are swapped
    ),
)
SEGMENTS: dict[str, SegmentKind] = {kind.name: kind for kind in _KINDS}
"""All kinds by their names."""

"""The pre-training objectives and the segments that each is trained on."""

from typing import Literal

ObjectiveName = Literal["nsp", "sop", "mlm"]

SEGMENTS: dict[str, str] = {"nsp": "next_sentence", "sop": "sentence_order", "mlm": "single"}
"""The segments that each objective is trained on by default."""


def objective_for(segments: str) -> str:
    """Returns the name of the objective that trains on these segments by default."""
    return next(name for name, kind in SEGMENTS.items() if kind == segments)

"""The dev rows on which a classifier or a regressor is most wrong."""

from collections.abc import Mapping, Sequence

import numpy as np

from bertjax.tasks.classification.targets import Targets
from bertjax.tasks.report_tables import MAX_ROWS, ReportTable, examples


def largest_errors(
    targets: Targets, logits: np.ndarray, values: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> list[ReportTable]:
    """Returns a table of wrong answers, the most certain ones or the largest differences first.

    Args:
        targets: what the logits mean.
        logits: [N, C].
        values: the targets, [N] or [N, C].
        columns: the texts and the labels, as the file has them.

    Returns:
        One table, or none if no answer is wrong.
    """
    errors = targets.errors(logits, values)
    order = [int(row) for row in np.argsort(-errors, kind="stable")[:MAX_ROWS] if errors[row] > 0]
    if not order:
        return []
    given = {name: [texts[row] for row in order] for name, texts in columns.items()}
    answers = [_words(targets.answer(logits[row])) for row in order]
    return [examples("Largest errors on the dev rows", given, {"predicted": answers})]


def _words(answer: Mapping) -> str:
    if "label" in answer:
        return answer["label"]
    return ", ".join(answer["labels"]) if "labels" in answer else f"{answer['score']:.4g}"

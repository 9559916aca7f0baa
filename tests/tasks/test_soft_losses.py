"""The losses against a teacher's outputs of all kinds, beside sums over rows by hand."""

import numpy as np
import pytest

from bertjax.tasks import kinds

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(scale=2, size=(2, 3, 4, 2)).astype(np.float32)  # [B, T, C]
WEIGHTS = np.float32([1.0, 0.5, 0.0])  # the last row is padding
T = 3.0


def divergence(student, teacher):
    """T^2 * KL(teacher || student) of two lists of logits."""
    p, q = (np.exp(np.float64(logits) / T) for logits in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    return T**2 * (p * np.log(p / q)).sum()


def classification():
    student, teacher = STUDENT[:, 0], TEACHER[:, 0]
    return student, teacher, {}, map(divergence, student, teacher)


def multi_label():
    student, teacher = STUDENT[:, 0], TEACHER[:, 0]
    rows = zip(student, teacher, strict=True)
    each = (
        np.mean([divergence([a, 0], [b, 0]) for a, b in zip(*row, strict=True)]) for row in rows
    )
    return student, teacher, {"label": np.zeros((3, 2))}, each


def regression():
    student, teacher = STUDENT[:, 0, :1], TEACHER[:, 0, :1]
    return student, teacher, {}, np.square(student - teacher)[:, 0]


def multiple_choice():
    """Two choices, three and four."""
    mask = np.arange(4) < np.array([[2], [3], [4]])
    student, teacher = (np.where(mask, each[..., 0], -1e9) for each in (STUDENT, TEACHER))
    each = (divergence(s[m], t[m]) for s, t, m in zip(student, teacher, mask, strict=True))
    return student.astype(np.float32), teacher.astype(np.float32), {}, each


def token_classification():
    weights = np.float32([[0, 1, 0, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    each = (
        sum(divergence(STUDENT[row, at], TEACHER[row, at]) * weights[row, at] for at in range(4))
        for row in range(3)
    )
    return STUDENT, TEACHER, {"label_weight": weights}, each


def question_answering():
    """Rows of 4, 2 and 3 tokens; the logits of padding differ as all others do."""
    lengths = (4, 2, 3)
    mask = (np.arange(4) < np.array(lengths)[:, None]).astype(np.int32)
    each = (
        np.mean([divergence(STUDENT[row, :n, place], TEACHER[row, :n, place]) for place in (0, 1)])
        for row, n in enumerate(lengths)
    )
    return STUDENT, TEACHER, {"attention_mask": mask}, each


CASES = {
    "sequence_classification": classification,
    "multi_label_classification": multi_label,
    "regression": regression,
    "multiple_choice": multiple_choice,
    "token_classification": token_classification,
    "question_answering": question_answering,
}
SOFT_LOSSES = {
    head: loss for name in kinds.names() for head, loss in kinds.get(name).soft_losses.items()
}


def test_every_head_with_a_soft_loss_has_a_case():
    assert SOFT_LOSSES.keys() == CASES.keys()


@pytest.mark.parametrize("head", CASES)
def test_the_soft_loss_is_the_weighted_sum_over_rows(head):
    student, teacher, more, each = CASES[head]()
    batch = {"label": np.zeros(3), "start_position": np.zeros(3), "example_weight": WEIGHTS}
    batch = {**batch, **more, "teacher_logits": teacher}
    expected = np.dot(WEIGHTS, list(each))
    assert expected > 0.1
    np.testing.assert_allclose(SOFT_LOSSES[head](student, batch, T), expected, rtol=1e-5)
    own = {**batch, "teacher_logits": student}
    assert float(SOFT_LOSSES[head](student, own, T)) == 0.0

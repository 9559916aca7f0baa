import numpy as np
import pytest
from scipy import stats

from bertjax.tasks.embedding.metrics import cosines, pair_metrics

DRAW = np.random.default_rng(0)


def test_correlations_are_those_of_scipy():
    vectors, scores = DRAW.normal(size=(30, 2, 8)), DRAW.uniform(size=30)
    ids = np.arange(60).reshape(30, 2)
    found = pair_metrics(vectors, scores, ids, sizes=(3,))
    expected = [
        np.dot(one, two) / np.linalg.norm(one) / np.linalg.norm(two) for one, two in vectors
    ]
    np.testing.assert_allclose(cosines(vectors), expected, atol=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(expected, scores)[0], abs=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(expected, scores)[0], abs=1e-12)
    short = stats.spearmanr(cosines(vectors[..., :3]), scores)[0]
    assert found["spearman_3"] == pytest.approx(short, abs=1e-12)


def test_ranks_leave_out_other_right_texts():
    # The second text of row 0 is nearest to its first text; that of row 1 comes after row 0's.
    vectors = np.array([[[1, 0], [1, 0.1]], [[1, 0.2], [0, 1]], [[-1, 0], [-1, 0.1]]], float)
    ids = np.arange(6).reshape(3, 2)
    expected = {"mrr": pytest.approx((1 + 1 / 2 + 1) / 3), "accuracy": pytest.approx(2 / 3)}
    assert pair_metrics(vectors, None, ids) == expected
    same = ids.copy()
    same[1, 0] = ids[0, 0]  # the text of row 0 is right for row 1 too
    assert pair_metrics(vectors, None, same) == {"mrr": 1.0, "accuracy": 1.0}
    # Vectors that are all equal find nothing.
    assert pair_metrics(np.ones((3, 2, 2)), None, ids)["accuracy"] == 0

"""GLUE's metrics beside scikit-learn's and SciPy's, to 1e-12."""

import numpy as np
import pytest

from bertjax.glue.benchmark import TASKS
from bertjax.tasks.metrics import classification_metrics, regression_metrics

stats = pytest.importorskip("scipy.stats")
sklearn = pytest.importorskip("sklearn.metrics")

REFERENCES = {
    "accuracy": sklearn.accuracy_score,
    "f1": sklearn.f1_score,
    "mcc": sklearn.matthews_corrcoef,
}


def test_every_metric_of_a_task_has_a_reference():
    for task in TASKS.values():
        known = REFERENCES if task.labels else ("spearman", "pearson")
        assert set(task.metrics) <= set(known)


@pytest.mark.parametrize("classes", [2, 3])
def test_classifiers(classes):
    rng = np.random.default_rng(classes)
    for rows in range(3, 200):
        labels = np.append(rng.integers(0, classes, rows - 2), [0, 1])
        logits = rng.normal(size=(rows, classes)).astype(np.float32)
        logits[np.arange(rows), labels] += rng.uniform(-1, 2)
        found = classification_metrics(logits, labels)
        for name, reference in REFERENCES.items():
            if name in found:
                wanted = reference(labels, logits.argmax(1))
                assert found[name] == pytest.approx(wanted, rel=0, abs=1e-12), (name, rows)


def test_regressors():
    rng = np.random.default_rng(0)
    for rows in range(3, 200):
        targets = np.append(rng.integers(0, 26, rows - 2) / 5, [0.0, 5.0])  # with ties
        outputs = (targets + rng.normal(size=rows)).astype(np.float32)
        outputs[: rows // 4] = outputs[0]
        found = regression_metrics(outputs[:, None], targets)
        exact = outputs.astype(np.float64)
        for name in ("pearson", "spearman"):
            wanted = getattr(stats, f"{name}r")(exact, targets)[0]
            assert found[name] == pytest.approx(wanted, rel=0, abs=1e-12), (name, rows)

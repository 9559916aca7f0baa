"""The loss of token classification against a definition in NumPy."""

import jax.numpy as jnp
import numpy as np

from bertjax.tasks.token_classification.losses import (
    token_classification,
    token_classification_normalizers,
)


def test_the_loss_is_the_weighted_mean_over_tagged_tokens():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    label = rng.integers(0, 5, (3, 4)).astype(np.int32)
    weight = np.array([[0, 1, 2, 0], [0, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    batch = {"label": label, "label_weight": weight, "example_weight": np.float32([1, 1, 0])}
    metrics = token_classification(jnp.asarray(logits), batch)
    weight[2] = 0
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    each = -np.log(np.take_along_axis(shares, label[..., None], -1)[..., 0])
    np.testing.assert_allclose(metrics["loss"][0], (each * weight).sum(), rtol=1e-5)
    right = (logits.argmax(-1) == label) * weight
    np.testing.assert_allclose(metrics["accuracy"], (right.sum(), 4.0), rtol=1e-6)
    assert token_classification_normalizers(batch)["tokens"] == 4

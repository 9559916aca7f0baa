"""The loss: sums over sentences, whatever the padding and the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.tasks.summarization_extractive.losses import (
    sentence_extraction,
    sentence_extraction_normalizers,
)


def test_padding_weighs_nothing_and_parts_add_up():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    batch = {
        "label": jnp.asarray(rng.integers(0, 2, (3, 4))),
        "sentence_mask": jnp.asarray([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),
        "example_weight": jnp.asarray([1.0, 1.0, 0.0]),
    }
    whole = sentence_extraction(logits, batch)
    assert sentence_extraction_normalizers(batch)["sentences"] == 4 == whole["loss"][1]
    probability = np.asarray(jax.nn.sigmoid(logits), np.float64)
    likelihood = np.where(batch["label"] == 1, probability, 1 - probability)
    real = [(0, 0), (0, 1), (0, 2), (1, 0)]
    by_hand = -sum(np.log(likelihood[place]) for place in real)
    assert float(whole["loss"][0]) == pytest.approx(by_hand, rel=1e-5)  # float32
    assert whole["accuracy"][0] == sum(likelihood[place] > 0.5 for place in real)
    parts = [
        sentence_extraction(logits[row : row + 1], {k: v[row : row + 1] for k, v in batch.items()})
        for row in range(3)
    ]
    for name in whole:
        for at in (0, 1):
            total = sum(float(part[name][at]) for part in parts)
            assert float(whole[name][at]) == pytest.approx(total, rel=1e-6)  # another order

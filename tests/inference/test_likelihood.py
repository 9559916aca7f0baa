import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference.likelihood import pseudo_log_likelihood
from bertjax.inference.predict import predict_lines
from bertjax.model import bert

TEXTS = ["the film was good", "bad", "", "[MASK] very not a film ,", "a film is not one , two ."]

mlm_logits = jax.jit(bert.mlm_logits, static_argnums=2)


def one_mask_at_a_time(model, text):
    """Returns log p of each token of a text, each in its own row without padding."""
    ids = model.tokenizer.encode(text).ids
    scores = []
    for place in range(1, len(ids) - 1):
        masked = np.array([ids], np.int32)
        masked[0, place] = model.tokenizer.mask_id
        logits = mlm_logits(model.params, {"input_ids": masked}, model.config)[0, place]
        scores.append(float(jax.nn.log_softmax(logits)[ids[place]]))
    return scores


def test_a_likelihood_is_that_of_every_token_masked_alone(tiny_model):
    results = pseudo_log_likelihood(tiny_model, TEXTS, batch_size=4)
    assert [result["text"] for result in results] == TEXTS
    for text, result in zip(TEXTS, results, strict=True):
        scores = one_mask_at_a_time(tiny_model, text)
        assert result["tokens"] == len(scores)
        # Padding changes the order of float32 sums.
        assert result["pseudo_log_likelihood"] == pytest.approx(sum(scores), rel=1e-5)
        if scores:
            perplexity = math.exp(-np.mean(scores))
            assert result["pseudo_perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert results[2]["pseudo_perplexity"] is None and results[2]["pseudo_log_likelihood"] == 0


def test_a_text_cannot_write_a_mask(tiny_model):
    """Otherwise its score would be p([MASK]). The vocabulary does not have "[" and "]"."""
    (result,) = pseudo_log_likelihood(tiny_model, ["[MASK]"])
    assert result["tokens"] == 3


def test_the_copies_of_all_texts_share_few_programs_and_small_batches(tiny_model, monkeypatch):
    shapes = []

    def scores(params, inputs, positions, targets, *_):
        shapes.append(inputs["input_ids"].shape)
        assert positions.shape == targets.shape == (len(inputs["input_ids"]), 1)
        return np.full(positions.shape, -1.0, np.float32)

    monkeypatch.setattr("bertjax.inference.programs.token_log_likelihoods", scores)
    texts = ["very " * (n % 38 + 1) for n in range(200)]
    results = pseudo_log_likelihood(tiny_model, texts, batch_size=16)
    assert [-result["pseudo_log_likelihood"] for result in results] == [
        n % 38 + 1 for n in range(200)
    ]
    assert set(shapes) == {(16, 16), (16, 24), (16, 32), (16, 40)}
    assert len(shapes) == -(-sum(result["tokens"] for result in results) // 16)


def test_what_has_no_likelihood(tiny_model):
    assert pseudo_log_likelihood(tiny_model, []) == []
    long = "very " * 39
    for texts, sentence in (
        ("good", "texts is one string"),
        (["good", "a\0"], "Text 2: holds a NUL"),
        (["good", long], "Text 2 has 39 tokens, more than the 38 that the model reads"),
    ):
        with pytest.raises(UserError, match=sentence):
            pseudo_log_likelihood(tiny_model, texts)
    with pytest.raises(UserError, match="`batch_size` is 0"):
        pseudo_log_likelihood(tiny_model, ["good"], batch_size=0)
    encoder = {n: v for n, v in tiny_model.params.items() if n != "mlm"}
    model = dataclasses.replace(tiny_model, params=encoder, task=None)
    with pytest.raises(UserError, match="has no masked-LM head"):
        pseudo_log_likelihood(model, ["good"])
    with pytest.raises(UserError, match="has no masked-LM head"):
        pseudo_log_likelihood(model, [])
    with pytest.raises(UserError, match="does next_sentence, which predict can't"):
        list(predict_lines(model, [], pseudo_log_likelihood=True))


def test_lines_have_likelihoods(tiny_model):
    texts = [text for text in TEXTS if text]
    results = pseudo_log_likelihood(tiny_model, texts, batch_size=4)
    lines = predict_lines(
        tiny_model, [f"{text}\n" for text in texts], pseudo_log_likelihood=True, batch_size=4
    )
    assert [json.loads(line) for line in lines] == results
    with pytest.raises(UserError, match="leave out `top_k`"):
        list(predict_lines(tiny_model, TEXTS, top_k=5, pseudo_log_likelihood=True))
    lines = ["good"] * 70 + ["very " * 39, "bad"]
    told = predict_lines(tiny_model, lines, pseudo_log_likelihood=True, batch_size=4)
    answers = [json.loads(next(told)) for _ in lines]
    assert answers[70]["error"].startswith("Line 71 has 39 tokens")
    assert answers[71]["text"] == "bad"
    with pytest.raises(UserError, match="1 of 72 lines"):
        next(told)

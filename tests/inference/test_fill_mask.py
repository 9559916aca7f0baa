import dataclasses

import jax
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference.fill_mask import fill_mask
from bertjax.model import bert

mlm_logits = jax.jit(bert.mlm_logits, static_argnums=2)


def test_fill_mask_gives_the_likeliest_tokens_of_every_blank(tiny_model):
    texts = ["the film was [MASK] .", "[MASK] [MASK] [MASK] plot", "very " * 15 + "[MASK]"]
    results = fill_mask(tiny_model, texts, top_k=3, batch_size=2)
    tokenizer = tiny_model.tokenizer
    for text, result in zip(texts, results, strict=True):
        batch = tokenizer.batch([text], max_length=40, parse_mask=True)
        logits = mlm_logits(tiny_model.params, batch, tiny_model.config)[0]
        places = np.flatnonzero(batch["input_ids"][0] == tokenizer.mask_id)
        assert result["text"] == text and len(result["masks"]) == len(places)
        for place, guesses in zip(places, result["masks"], strict=True):
            probabilities = np.asarray(jax.nn.softmax(logits[place]))
            best = np.argsort(-probabilities)[:3]
            assert [guess["token"] for guess in guesses] == best.tolist()
            assert [guess["token_str"] for guess in guesses] == [
                tokenizer.decode([token], skip_special=False) for token in best
            ]
            np.testing.assert_allclose(
                [guess["score"] for guess in guesses], probabilities[best], rtol=1e-5
            )


def test_a_sequence_has_one_blank_filled(tiny_model):
    (result,) = fill_mask(tiny_model, ["the [MASK] was [MASK] ."], top_k=2)
    for mask, text in zip(
        result["masks"], ("the {} was [MASK].", "the [MASK] was {}."), strict=True
    ):
        for guess in mask:
            assert guess["sequence"].replace(" ", "") == text.format(guess["token_str"]).replace(
                " ", ""
            )


def test_a_masked_lm_without_the_other_heads_fills_too(tiny_model):
    parts = {n: v for n, v in tiny_model.params.items() if n not in ("nsp", "pooler")}
    model = dataclasses.replace(tiny_model, params=parts, task=None)
    assert model.kind == "masked_lm"
    text = ["the film was [MASK] ."]
    assert fill_mask(model, text) == fill_mask(tiny_model, text)


def test_what_fill_mask_refuses(tiny_model):
    for texts, sentence in (
        (["the [MASK]", "no blank"], "Text 2 has no \\[MASK\\]"),
        (["very " * 40 + "[MASK]"], "beyond the 40 tokens"),
    ):
        with pytest.raises(UserError, match=sentence):
            fill_mask(tiny_model, texts)
    with pytest.raises(UserError, match="`top_k` is 0"):
        fill_mask(tiny_model, ["[MASK]"], top_k=0)
    encoder = {n: v for n, v in tiny_model.params.items() if n != "mlm"}
    with pytest.raises(UserError, match="has no masked-LM head"):
        fill_mask(dataclasses.replace(tiny_model, params=encoder), ["[MASK]"])

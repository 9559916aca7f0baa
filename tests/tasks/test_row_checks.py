import dataclasses
import logging

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference import embed, fill_mask, predict
from bertjax.tasks import row_checks
from bertjax.tasks.texts import tokenize


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(row_checks, "_told", set())


def warning(texts, model, *, pairs=None, config=None, **options):
    features = tokenize(texts, pairs, model.tokenizer, 32)
    return row_checks.warning("f", features, model.tokenizer, config or model.config, **options)


def test_the_share_of_unknown_tokens_is_that_of_the_text(tiny_model):
    known, strange = "the film was good", "日 本 京 都"
    assert warning([known] * 9, tiny_model) is None
    told = warning([known, strange], tiny_model)
    assert told is not None
    assert told.startswith("Warning: 50% of the tokens of f are [UNK], because the model's voc")
    assert warning([known, strange], tiny_model, limit=0.5) is None
    # Of many rows, some are read that lie evenly.
    told = warning([known] * 1500 + [strange] * 500, tiny_model)
    assert told is not None and told.startswith("Warning: 25% of")
    assert warning([], tiny_model) is None and warning([""], tiny_model) is None


def test_a_second_text_needs_a_second_token_type(tiny_model):
    config = dataclasses.replace(tiny_model.config, type_vocab_size=1)
    assert warning(["the film"], tiny_model, config=config) is None
    assert warning(["the film"], tiny_model, pairs=["good"]) is None
    with pytest.raises(UserError, match="type_vocab_size is 1, so it can't tell the second text"):
        warning(["the film"], tiny_model, pairs=["good"], config=config)
    model = dataclasses.replace(tiny_model, config=config)
    with pytest.raises(UserError, match="type_vocab_size is 1"):
        embed.embed(model, [("the film", "good")])


@pytest.mark.parametrize(
    "answer",
    [
        lambda model, text: embed.embed(model, [text]),
        lambda model, text: fill_mask.fill_mask(model, [f"{text} [MASK]"]),
        lambda model, text: [*predict.predict_lines(model, [f"{text} [MASK]"])],
    ],
)
def test_inputs_of_unknown_tokens_are_said_once(tiny_model, caplog, answer):
    with caplog.at_level(logging.WARNING, "bertjax"):
        answer(tiny_model, "the film was good")
        assert caplog.text == ""
        answer(tiny_model, "日 本 京 都")
        answer(tiny_model, "日 本 京 都")
    (record,) = caplog.records
    assert "100% of the tokens of the input are [UNK]" in record.getMessage() or (
        "80% of the tokens of the input are [UNK]" in record.getMessage()
    )


def test_rows_of_several_sequences(tiny_model):
    class Several:
        lengths = np.array([[3, 2], [2, 4]])

        def __len__(self):
            return 2

        def batch(self, indices, width):
            assert indices.tolist() == [0, 1] and width == (3, 4)
            ids = np.full((2, 3), tiny_model.tokenizer.unk_id)
            mask = np.array([[1, 1, 1], [1, 1, 0]])
            return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}

    told = row_checks.warning("f", Several(), tiny_model.tokenizer, tiny_model.config)
    assert told is not None and told.startswith("Warning: 100%")

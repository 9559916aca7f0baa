"""Answers and scores of a model that writes; the model is a function here."""

import dataclasses
import json

import numpy as np
import pytest

from bertjax.config import EncoderDecoderConfig
from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.predictions import (
    ScoringOptions,
    Seq2SeqPredictor,
    WritingOptions,
    defaults,
    recorded_config,
)
from bertjax.tasks.seq2seq.reading import recorded_options

TRAINED = Seq2SeqConfig(
    source_column="en",
    target_column="de",
    max_target_length=6,
    generation=GenerationConfig(max_length=6, num_beams=3, early_stopping="never"),
)


@pytest.fixture
def make(tiny_config, tiny_tokenizer):
    """Makes a model without weights, and its predictor."""

    def model(kind="encoder_decoder", options=TRAINED, **more):
        config = tiny_config
        if kind == "encoder_decoder":
            config = EncoderDecoderConfig(tiny_config, tiny_config)
        # A record is JSON on disk.
        task = json.loads(json.dumps({"kind": kind, "max_seq_length": 12, **more}))
        if options is not None:
            task |= {"task": "seq2seq", **json.loads(json.dumps(recorded_options(options)))}
        return Pretrained(config, {}, tiny_tokenizer, task)

    return model


def predictor_of(model, options=WritingOptions, **given):
    return Seq2SeqPredictor(model, dataclasses.replace(defaults(options, model), **given))


def writes(tokenizer, texts):
    """A `Run` that writes these texts for every row; None is a text that was not found."""

    def run(features):
        rows, count = len(features), len(texts)
        tokens = np.full((rows, count, 9), tokenizer.pad_id, np.int32)
        scores = np.full((rows, count), -np.inf, np.float32)
        for place, text in enumerate(texts):
            if text is not None:
                ids = tokenizer.encode(text).ids[1:]
                tokens[:, place, : len(ids)], scores[:, place] = ids, -0.5 * (place + 1)
        lengths = (tokens != tokenizer.pad_id).sum(-1)
        yield np.arange(rows), {"tokens": tokens, "scores": scores, "lengths": lengths}

    return run


def test_an_answer_has_all_texts_that_were_found(make, tiny_tokenizer):
    predictor = predictor_of(make(), n_best=3)
    run = writes(tiny_tokenizer, ["a good film", "a film", None])
    first, second = predictor.predict(["one", "two"], run)
    n_best = [{"text": "a good film", "score": -0.5}, {"text": "a film", "score": -1.0}]
    assert first == {"source": "one", **n_best[0], "n_best": n_best}
    assert second == {**first, "source": "two"}
    (nothing,) = predictor.predict(["one"], writes(tiny_tokenizer, [None]))
    assert nothing["text"] == "" and nothing["score"] is None
    json.dumps([first, nothing], allow_nan=False)
    with pytest.raises(UserError, match="texts is one string"):
        predictor.predict("one", run)


def test_options_default_to_those_of_training(make):
    model = make()
    assert recorded_config(model) == TRAINED
    assert defaults(WritingOptions, model) == WritingOptions(**vars(TRAINED.generation))
    predictor = predictor_of(model, max_length=4, length_penalty=2.0)
    assert predictor.options.generation == dataclasses.replace(
        TRAINED.generation, max_length=4, length_penalty=2.0
    )
    assert predictor.max_source_length == predictor.max_seq_length == 12
    assert 2 in predictor.forward.vocabulary.suppressed_ids  # [CLS]


def test_an_encoder_decoder_from_elsewhere_has_the_defaults_that_its_positions_allow(make):
    model = make(options=None)
    generation = GenerationConfig(max_length=40)
    assert recorded_config(model) == Seq2SeqConfig(max_target_length=40, generation=generation)
    assert predictor_of(model).forward.vocabulary.suppressed_ids == ()


def test_evaluation_reads_and_scores_as_it_is_told(make, tiny_tokenizer, tmp_path):
    (tmp_path / "test.tsv").write_text("en\tde\tx\none two\ta good film\tbad\n")
    run = writes(tiny_tokenizer, ["a good film", None])
    model = make()

    def evaluate(**given):
        return predictor_of(model, ScoringOptions, **given).evaluate(tmp_path / "test.tsv", run)

    scores = evaluate()
    assert scores["examples"] == 1 and scores["rouge1"] == 100 and scores["length"] == 4
    assert evaluate(target_column="x")["rouge1"] == 0
    assert evaluate(scoring="bleu", tokenize="char")["bleu"] == pytest.approx(100)
    with pytest.raises(UserError, match="`tokenize` is 'char', which ROUGE does not have"):
        evaluate(tokenize="char")
    cut = make(options=dataclasses.replace(TRAINED, max_target_length=3))
    told = predictor_of(cut, ScoringOptions).evaluate(tmp_path / "test.tsv", run)["notes"]
    assert told["nll_loss"] == "1 of 1 targets truncated to 3 tokens"
    assert "nll_loss" not in evaluate()["notes"]
    # A way of scoring brings its own tokenization.
    words = make(options=dataclasses.replace(TRAINED, tokenize="words"))
    predictor = predictor_of(words, ScoringOptions, scoring="bleu")
    assert predictor.evaluate(tmp_path / "test.tsv", run)["chrf"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        ("encoder_decoder", {"max_length": 41}, "`max_length` is 41, and the decoder has 40 po"),
        ("masked_lm", {"max_length": 10}, "`max_length` is 10, which leaves 2 of the 12 tok"),
        ("encoder_decoder", {"num_beams": 28}, "`num_beams` 28 exceeds the 27 entries of the vo"),
    ],
)
def test_what_the_model_can_not_write_is_refused(make, kind, given, sentence):
    with pytest.raises(UserError, match=sentence):
        predictor_of(make(kind), **given)


def test_a_prefix_model_keeps_room_for_what_it_writes(make):
    assert predictor_of(make("masked_lm")).max_source_length == 6
    assert predictor_of(make("masked_lm"), max_length=8).max_source_length == 4
    # Shorter texts leave the sources as they were in training.
    assert predictor_of(make("masked_lm"), max_length=2).max_source_length == 6

import dataclasses

import pytest

import bertjax as bj
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.reading import recorded_options


def test_the_texts_are_those_of_predict(tiny_model):
    written = bj.GenerationConfig(max_length=3, min_length=3, num_beams=2, n_best=2)
    options = Seq2SeqConfig(architecture="prefix", max_target_length=3, generation=written)
    task = {"kind": "masked_lm", "task": "seq2seq", "max_seq_length": 12}
    model = dataclasses.replace(tiny_model, task={**task, **recorded_options(options)})
    texts = ["the film was good", "bad plot"]
    answers = bj.predict(model, texts)
    assert len({each["text"] for answer in answers for each in answer["n_best"]}) > 1
    assert bj.generate(model, texts) == [answer["text"] for answer in answers]
    both = [[each["text"] for each in answer["n_best"]] for answer in answers]
    assert bj.generate(model, texts, n_best=2) == both
    assert bj.generate(model, []) == []


@pytest.mark.parametrize("kind", ["pretraining", "question_answering", "sequence_classification"])
def test_a_model_that_does_not_write_is_refused(tiny_model, kind):
    model = dataclasses.replace(tiny_model, task={"kind": kind, "labels": []})
    with pytest.raises(bj.UserError, match=f"does {kind}, which writes no text"):
        bj.generate(model, ["one"])

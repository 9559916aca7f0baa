import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference import embed, fill_mask, predict
from bertjax.interop.huggingface import Pretrained
from bertjax.model import bert

# Three lengths, as the reference compiles a program for each.
TEXTS = ["the film was good", "bad plot is awful", "", "very " * 20 + "poor", "a film , two"]


@pytest.fixture(scope="module")
def classifier(tiny_model):
    rng = np.random.default_rng(0)
    head = {"kernel": rng.normal(size=(16, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    task = {"kind": "sequence_classification", "labels": ["a", "b", "c"], "pair_column": None}
    task |= {"text_column": "text", "label_column": "label", "max_seq_length": 32}
    params = {**tiny_model.params, "classifier": head}
    return Pretrained(tiny_model.config, params, tiny_model.tokenizer, task)


@pytest.fixture(scope="module")
def pair_classifier(classifier):
    return dataclasses.replace(classifier, task={**classifier.task, "pair_column": "second"})


task_logits = jax.jit(bert.task_logits, static_argnums=2)


def one_by_one(model, text, pair=None):
    """The model's probabilities of one text alone, without padding."""
    batch = model.tokenizer.batch([text], None if pair is None else [pair], max_length=32)
    return jax.nn.softmax(task_logits(model.params, batch, model.config))[0]


def test_predictions_come_in_order_and_as_if_every_text_were_alone(classifier):
    results = predict.predict(classifier, TEXTS, batch_size=2)
    assert [result["text"] for result in results] == TEXTS
    for text, result in zip(TEXTS, results, strict=True):
        expected = one_by_one(classifier, text)
        # Padding changes the order of float32 sums.
        np.testing.assert_allclose(list(result["scores"].values()), expected, rtol=1e-5)
        assert list(result["scores"]) == ["a", "b", "c"]
        assert result["label"] == "abc"[int(expected.argmax())]
        assert result["score"] == max(result["scores"].values())


def test_a_line_after_the_first_one_compiles_nothing(classifier, caplog):
    def compiled(lines):
        caplog.clear()
        with jax.log_compiles():
            assert len(list(predict.predict_lines(classifier, lines, batch_size=3))) == len(lines)
        return [each.message for each in caplog.records if "XLA compilation" in each.message]

    assert compiled(["the film was good"])
    assert not compiled(["a plot"])
    assert not compiled(["bad", "two poor films"])


def test_pairs(pair_classifier):
    pairs = [("good film", "bad plot"), ("bad", "very " * 30)]
    results = predict.predict(pair_classifier, pairs)
    for (text, second), result in zip(pairs, results, strict=True):
        assert (result["text"], result["pair"]) == (text, second)
        expected = one_by_one(pair_classifier, text, second)
        np.testing.assert_allclose(list(result["scores"].values()), expected, rtol=1e-5)
    with pytest.raises(UserError, match="was trained on \\(text, pair\\)"):
        predict.predict(pair_classifier, ["good"])


def test_texts_of_the_wrong_form(classifier, tiny_model):
    for texts, sentence in (
        ("good", "texts is one string"),
        ([("good", "bad")], "was trained on one text"),
        (["a", "b\0"], "Text 2: holds a NUL"),
        (["a\udc80"], "Text 1: holds half of a surrogate pair"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict.predict(classifier, texts)
    with pytest.raises(UserError, match="does pretraining, which predict can't"):
        predict.predict(tiny_model, ["good"])
    with pytest.raises(UserError, match="give one form for all"):
        embed.embed(tiny_model, ["a", ("b", "c")])
    assert predict.predict(classifier, []) == []


def test_what_predict_and_evaluate_cannot_do(classifier, tmp_path):
    parts = {name: tree for name, tree in classifier.params.items() if name != "mlm"}
    model = dataclasses.replace(classifier, params=parts, task={"kind": "next_sentence"})
    sentence = "The model does next_sentence, which predict can't: fine-tune it first"
    with pytest.raises(UserError, match=sentence):
        predict.predict(model, ["good"])
    with pytest.raises(UserError, match=sentence):
        list(predict.predict_lines(model, ["good"]))
    with pytest.raises(UserError, match=sentence.replace("predict", "evaluate")):
        predict.evaluate(model, tmp_path / "dev.tsv")
    with pytest.raises(UserError, match="does next_sentence and has no masked-LM head"):
        fill_mask.fill_mask(model, ["[MASK]"])


def test_lines_in_json_lines_out(classifier, pair_classifier, tiny_model):
    lines = ["the film was good\n", "bad\r\n", "naïve"]
    answers = [json.loads(line) for line in predict.predict_lines(classifier, lines)]
    assert [answer["text"] for answer in answers] == ["the film was good", "bad", "naïve"]
    assert set(answers[0]) == {"text", "label", "score", "scores"}
    assert "naïve" in list(predict.predict_lines(classifier, lines))[2]  # readable, not \\u00ef

    (answer,) = map(json.loads, predict.predict_lines(pair_classifier, ["good\tbad\n"]))
    assert (answer["text"], answer["pair"]) == ("good", "bad")
    (answer,) = map(json.loads, predict.predict_lines(tiny_model, ["a [MASK]"], top_k=2))
    assert len(answer["masks"][0]) == 2
    with pytest.raises(UserError, match="`top_k` is no option of this verb for a classific"):
        list(predict.predict_lines(classifier, lines, top_k=2))


@pytest.fixture(scope="module")
def elsewhere(classifier):
    """A classifier whose export does not tell whether it reads pairs."""
    task = {"kind": "sequence_classification", "labels": ["a", "b", "c"]}
    return dataclasses.replace(classifier, task=task)


def answers(model, *lines, **options):
    return [json.loads(line) for line in predict.predict_lines(model, lines, **options)]


def test_pairs_for_a_model_from_elsewhere(elsewhere, pair_classifier):
    (expected,) = answers(pair_classifier, "good film\tbad plot")
    for line, options in (
        ("good film\tbad plot", {"pair": True}),
        ('{"text": "good film", "pair": "bad plot"}', {"pair": True}),
        ('{"b": "bad plot", "a": "good film", "c": 1}', {"text_column": "a", "pair_column": "b"}),
    ):
        (answer,) = answers(elsewhere, line, **{"pair": True, **options})
        assert (answer["text"], answer["pair"]) == ("good film", "bad plot")
        np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-5)
    (answer,) = answers(pair_classifier, '{"text": "good film", "second": "bad plot"}')
    assert answer == expected
    (answer,) = answers(elsewhere, '{"text": "good film"}')
    assert answer["text"] == "good film" and "pair" not in answer
    assert answers(elsewhere, "{good} film")[0]["text"] == "{good} film"


def test_a_tab_is_a_space_for_models_that_read_single_texts_alone(elsewhere, classifier):
    told, end = answers_and_end(predict.predict_lines(elsewhere, ["good film\tbad plot", "good\t"]))
    assert told[0]["error"].startswith("Line 1 has a tab: set `pair` if it separates the two texts")
    assert told[1]["label"] and end.startswith("1 of 2 lines")
    assert answers(classifier, "good film\tbad plot")[0]["text"] == "good film\tbad plot"
    with pytest.raises(UserError, match="trained on one text per row: leave out `pair`"):
        answers(classifier, "good\tbad", pair=True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            '{"text": "good"}',
            "Line 1: the object has no text 'pair'; write one, or name its key by",
        ),
        ('{"txt": "good"}', "has no text 'text'; write one, or name its key by `text_column`"),
        ('{"text": 3, "pair": "a"}', "has no text 'text'"),
        ('{"text": "a", "pair": " "}', "has no text 'pair'"),
        ('{"text": "a", "pair": "\\u0000"}', "Line 1: holds a NUL"),
        ('["a", "b"]', "write two texts with a tab between"),
    ],
)
def test_objects_that_are_no_pairs(elsewhere, line, says):
    told, _ = answers_and_end(predict.predict_lines(elsewhere, [line], pair=True))
    assert says in told[0]["error"]


def answers_and_end(told):
    """Returns the answers, and the error that is raised after them."""
    answers = []
    with pytest.raises(UserError) as caught:
        for line in told:
            answers.append(json.loads(line))
    return answers, str(caught.value)


def test_after_a_bad_line_the_others_are_answered(classifier, pair_classifier, tiny_model):
    lines = [b"good\n", b"  \t\n", b"na\xefve\n", b"a\0b", "naïve\n".encode()]
    answers, end = answers_and_end(predict.predict_lines(classifier, lines))
    assert [answer["text"] for answer in answers[::4]] == ["good", "naïve"]
    assert answers[0] == predict.predict(classifier, ["good", "naïve"])[0]
    assert [list(answer) for answer in answers[1:4]] == [["error"]] * 3
    assert [answer["error"].split(";")[0] for answer in answers[1:4]] == [
        "Line 2 is blank: write an input, or remove the line.",
        "Line 3: byte 0xef is not UTF-8",
        "Line 4: holds a NUL character",
    ]
    assert end.startswith("3 of 5 lines have an error instead of an answer. Line 2 is blank")

    answers, end = answers_and_end(predict.predict_lines(pair_classifier, ["good\tbad", "good"]))
    assert answers[0]["pair"] == "bad"
    assert "Line 2: the model was trained on pairs; write two texts" in answers[1]["error"]

    lines = ["none", "a [MASK]", "very " * 40 + "[MASK]"]
    answers, end = answers_and_end(predict.predict_lines(tiny_model, lines))
    assert answers[0]["error"].startswith("Line 1 has no [MASK]")
    assert answers[1]["text"] == "a [MASK]" and len(answers[1]["masks"]) == 1
    assert answers[2]["error"].startswith("Line 3 has a [MASK] beyond the 40 tokens")

    assert answers_and_end(predict.predict_lines(classifier, [" "])) == (
        [{"error": "Line 1 is blank: write an input, or remove the line."}],
        "1 of 1 lines have an error instead of an answer. Line 1 is blank: write an input, or "
        "remove the line.",
    )


@pytest.mark.parametrize("lines", [["\ufeffgood", "\ufeffbad"], [b"\xef\xbb\xbfgood", "bad"]])
def test_a_byte_order_mark_is_left_out_of_the_first_line_alone(classifier, lines):
    answers = [json.loads(line) for line in predict.predict_lines(classifier, lines)]
    assert [answer["text"] for answer in answers] == ["good", lines[1]]


def test_an_empty_input_is_said(classifier):
    for told in (predict.predict_lines(classifier, []), embed.embed_lines(classifier, iter(()))):
        with pytest.raises(UserError, match="The input is empty: write at least one line"):
            list(told)


@pytest.mark.parametrize("line", ["good\t", "\tbad", "good\t \n"])
def test_half_a_pair_is_blank(pair_classifier, line):
    answers, _ = answers_and_end(predict.predict_lines(pair_classifier, [line]))
    assert "write two texts" in answers[0]["error"]


def test_lines_are_numbered_through_all_chunks(classifier, monkeypatch):
    monkeypatch.setattr("bertjax.inference.texts.CHUNK", 3)
    lines = [f"{'very ' * (n % 5)}good" for n in range(7)]
    answers = [json.loads(line)["text"] for line in predict.predict_lines(classifier, lines)]
    assert answers == lines
    vectors = list(embed.embed_lines(classifier, lines))
    np.testing.assert_allclose(vectors, embed.embed(classifier, lines), atol=1e-5)
    with pytest.raises(UserError, match=r"1 of 9 lines .* Line 8: holds a NUL"):
        list(predict.predict_lines(classifier, [*lines, "a\0", "good"]))
    with pytest.raises(UserError, match="Line 8: holds a NUL"):
        list(embed.embed_lines(classifier, [*lines, "a\0"]))


def test_evaluate_counts_every_row(classifier, tmp_path):
    path = tmp_path / "dev.jsonl"
    said = [result["label"] for result in predict.predict(classifier, TEXTS)]
    gold = [*said[:4], "abc"[("abc".index(said[4]) + 1) % 3]]
    rows = [{"text": t, "label": g} for t, g in zip(TEXTS, gold, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    scores = predict.evaluate(classifier, path, batch_size=2)
    assert scores["examples"] == 5 and scores["accuracy"] == pytest.approx(0.8)
    path.write_text('{"body": "good", "gold": "a"}\n{"body": "bad", "gold": "d"}')
    with pytest.raises(UserError, match=f"{path}:1: no column 'text'"):
        predict.evaluate(classifier, path)
    with pytest.raises(UserError, match=f"{path}:2: label 'd' was not seen in training"):
        predict.evaluate(classifier, path, text_column="body", label_column="gold")


def test_regression_gives_a_score(classifier, tmp_path):
    head = {"kernel": jnp.ones((16, 1)), "bias": jnp.ones(1)}
    task = {**classifier.task, "kind": "regression", "labels": []}
    model = dataclasses.replace(
        classifier, params={**classifier.params, "classifier": head}, task=task
    )
    results = predict.predict(model, TEXTS)
    assert [set(result) for result in results] == [{"text", "score"}] * 5
    batch = model.tokenizer.batch(TEXTS[:1])
    expected = task_logits(model.params, batch, model.config)[0, 0]
    assert results[0]["score"] == pytest.approx(float(expected), rel=1e-5)

"""Search in the lines of a text, and the vectors that are kept beside it."""

import dataclasses
import json

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.inference import search
from bertjax.inference.config import SearchConfig
from bertjax.inference.search import nearest, search_file
from bertjax.interop.huggingface import save_pretrained

TEXTS = ["the film was good", "", "bad plot is awful", "very very poor", "a film , two"]


@pytest.fixture
def place(tmp_path, tiny_model):
    save_pretrained(tmp_path / "model", tiny_model)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "queries.txt").write_text("bad plot is awful\na film , two\n")
    return tmp_path


def run(place, **options):
    """Returns the answers, and the notes."""
    answers, notes = [], []
    config = SearchConfig(str(place / "texts.txt"), str(place / "queries.txt"), **options)
    search_file(config, answers.append, notes.append)
    return [json.loads(line) for line in answers], notes


def test_the_nearest_lines_are_found_and_vectors_are_kept(place, tiny_model):
    with pytest.raises(UserError, match=r"texts.txt: has no vectors yet: give a `model`"):
        run(place)
    answers, notes = run(place, model=str(place / "model"), top_k=2)
    assert notes[0] == "Computing the vectors of 4 lines ..." and len(notes) == 2
    assert [each["query"] for each in answers] == ["bad plot is awful", "a film , two"]
    for each, line in zip(answers, (3, 5), strict=True):
        first, second = each["results"]
        assert (first["line"], first["text"]) == (line, each["query"])
        assert first["score"] == pytest.approx(1) and second["score"] < 1
    assert len(np.load(place / "texts.txt.vectors.npy")) == 4
    # Without a model, by that of the vectors; and no vector is computed again.
    assert run(place, top_k=2) == (answers, [])
    more, _ = run(place, top_k=9)
    assert [len(each["results"]) for each in more] == [4, 4]


def test_vectors_are_made_again_if_the_text_the_model_or_the_file_changed(place, tiny_model):
    run(place, model=str(place / "model"))
    (place / "texts.txt").write_text("\n".join([*TEXTS, "one plot"]))
    assert "of 5 lines" in run(place)[1][0]
    vectors = place / "texts.txt.vectors.npy"
    kept = vectors.read_bytes()
    vectors.write_bytes(kept[:-1])
    assert "of 5 lines" in run(place)[1][0] and vectors.read_bytes() == kept
    params = {**tiny_model.params, "encoder": tiny_model.params["encoder"]}
    params["embeddings"] = {
        name: {part: 2 * array for part, array in each.items()}
        for name, each in params["embeddings"].items()
    }
    save_pretrained(place / "model", dataclasses.replace(tiny_model, params=params))
    assert "of 5 lines" in run(place)[1][0] and vectors.read_bytes() != kept
    (place / "texts.txt.vectors.json").write_text("[" * 9)
    assert "of 5 lines" in run(place, model=str(place / "model"))[1][0]


def test_a_bad_query_has_an_error_and_the_others_have_answers(place):
    (place / "queries.txt").write_bytes(b"good film\n\n\xff\nbad\n")
    answers = []
    config = SearchConfig(str(place / "texts.txt"), str(place / "queries.txt"))
    config = dataclasses.replace(config, model=str(place / "model"))
    with pytest.raises(UserError, match=r"2 of 4 lines have an error"):
        search_file(config, answers.append, lambda line: None)
    assert ["error" in json.loads(line) for line in answers] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"\n \n", "texts.txt: has only blank lines"),
        (b"a\n\xff\n", "texts.txt:2: byte 0xff is not UTF-8"),
        (b"", "The input is empty"),
    ],
)
def test_texts_that_can_not_be_searched(place, text, sentence):
    (place / "texts.txt").write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        run(place, model=str(place / "model"))
    with pytest.raises(UserError, match="`top_k` is 0"):
        SearchConfig("texts.txt", top_k=0)


def test_blocks_find_what_one_comparison_finds(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(50, 4)).astype(np.float32)
    vectors[40] = vectors[3]  # equal products: the first comes first
    queries = np.concatenate([draw.normal(size=(6, 4)), vectors[3:4]]).astype(np.float32)
    monkeypatch.setattr(search, "_BLOCK", 7)
    numbers, scores = nearest(vectors, queries, 5)
    products = queries @ vectors.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(numbers[-1][:1], [3])
    np.testing.assert_allclose(scores, np.take_along_axis(products, expected, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(numbers[:-1], expected[:-1])

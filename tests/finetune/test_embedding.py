"""Runs of sentence embeddings: from files to a directory of sentence-transformers."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.finetune.run import finetune, read_task
from bertjax.inference.embed import embed
from bertjax.inference.predict import evaluate, predict_lines
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.interop.sentence_transformers import Dense, make_modules
from bertjax.tasks.embedding.config import EmbeddingConfig
from bertjax.train.lora import LoraConfig

MODULES = make_modules("mean", True, False, 16, 16)
GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")


def text(words, draw):
    return " ".join(["the film was", *draw.choices(words, k=draw.randint(1, 3))])


def write(path, rows):
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def pair_files(tmp_path_factory):
    """Pairs are similar, score 5, if both films are good or both are bad."""
    directory, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    scored, triplets = [], []
    for _ in range(96):
        first, other = draw.sample([GOOD, BAD], 2)
        second = draw.choice([first, other])
        scored.append((text(first, draw), text(second, draw), 5 if first == second else 0))
        triplets.append((text(first, draw), text(first, draw), text(other, draw)))
    return {
        "scored": write(directory / "scored.tsv", [("text", "pair", "score"), *scored[:64]]),
        "dev": write(directory / "dev.tsv", [("one", "two", "score"), *scored[64:]]),
        "triplets": write(directory / "triplets.tsv", [("text", "pair", "not"), *triplets[:64]]),
        "pairs": write(
            directory / "pairs.tsv", [("text", "pair"), *(row[:2] for row in triplets[64:])]
        ),
    }


@pytest.fixture
def make(short, pair_files, tmp_path):
    """Makes the configuration of a run on scored dev pairs."""

    def make(train, **options):
        columns = {"dev_text_column": "one", "dev_pair_column": "two", "score_column": "score"}
        task = EmbeddingConfig(**{**columns, "score_range": (0, 5), **options})
        workdir = str(tmp_path / "run")
        files_of = {"train": pair_files[train], "dev": pair_files["dev"]}
        return dataclasses.replace(
            short,
            task=task,
            epochs=4,
            workdir=workdir,
            hidden_dropout_prob=0.0,  # dropout doubles the time to compile a step
            attention_probs_dropout_prob=0.0,
            **files_of,
        )

    return make


def quiet(line):
    del line


def test_scored_pairs_become_vectors_of_that_similarity(make, pair_files, tmp_path):
    config = make("scored", dev_text_column=None, dev_pair_column=None, embedding_sizes=(8,))
    config = dataclasses.replace(config, dev=pair_files["scored"], max_seq_length=12)
    lines = []
    result = finetune(config, lines.append, progress=False)
    assert result.metric == "spearman" and result.mean > 0.8 > result.baseline.scores["spearman"]
    assert any("the loss cosine, evaluating on 64 pairs" in line for line in lines)
    scores = result.seeds[0].metrics
    # Evaluation, prediction and vectors of the export follow what was trained.
    model = from_pretrained(result.workdir)
    found = evaluate(model, pair_files["scored"])
    assert found["spearman"] == pytest.approx(scores["spearman"], abs=1e-6)
    assert found["spearman_8"] == pytest.approx(scores["spearman_8"], abs=1e-6)
    assert model.sentence_modules.max_seq_length == 12
    vectors = embed(model, ["the film was good", "the film was bad " * 9])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(vectors[1], embed(model, ["the film was bad " * 3])[0])
    short = embed(model, "the film was good", size=8)
    np.testing.assert_allclose(short, vectors[0, :8] / np.linalg.norm(vectors[0, :8]), rtol=1e-6)
    with pytest.raises(UserError, match="`size` is 17: the vectors have 16 numbers"):
        embed(model, "a", size=17)
    lines = ["the film was good\tthe film was bad " + 9 * "the film was bad ", '{"text": "a"}']
    answers = predict_lines(model, [*lines, "one text"])
    score = json.loads(next(answers))["score"]
    assert score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert "lacks a text" in json.loads(next(answers))["error"]
    assert "two texts with a tab" in json.loads(next(answers))["error"]
    with pytest.raises(UserError, match="2 of 3 lines"):
        next(answers)
    # As a run that has not ended, its checkpoint makes the same vectors.
    shutil.rmtree(result.export)
    unfinished = from_pretrained(result.workdir)
    np.testing.assert_array_equal(embed(unfinished, ["the film was good"])[0], vectors[0])


def test_in_batch_negatives_resume_and_adapters(make, pair_files):
    config = make("triplets", negative_columns=("not",), pooling="cls", normalize=False)
    plain = finetune(config, quiet, progress=False)
    assert plain.metric == "spearman" and plain.mean > 0.5
    model = from_pretrained(plain.workdir)
    assert model.sentence_modules.pooling == ("cls",) and not model.sentence_modules.after
    other = {"text_column": "text", "pair_column": "pair"}
    with pytest.raises(UserError, match="no column 'score'"):
        evaluate(model, pair_files["pairs"], **other)
    workdir = f"{config.workdir}-2"
    cached = dataclasses.replace(config, accumulation=2, workdir=workdir)
    # Adam divides by the size of the gradients, so that the smallest differences grow.
    assert finetune(cached, quiet, progress=False).mean == pytest.approx(plain.mean, abs=0.05)
    adapted = dataclasses.replace(config, lora=LoraConfig(rank=2), workdir=f"{workdir}-3", epochs=1)
    assert finetune(adapted, quiet, progress=False).export is not None


def test_pairs_without_scores_are_ranked(make, pair_files):
    config = make("pairs", score_column=None, dev_text_column=None, dev_pair_column=None)
    task = dataclasses.replace(config.task, score_column=None, score_range=(0.0, 1.0))
    config = dataclasses.replace(config, task=task, dev=pair_files["pairs"], epochs=1)
    result = finetune(config, quiet, progress=False)
    assert result.metric == "mrr" and 0 < result.seeds[0].metrics["accuracy"] <= result.mean <= 1


def test_a_directory_of_sentence_transformers_goes_on_as_it_is(
    make, pair_files, tiny_model, tmp_path
):
    config = make("triplets", negative_columns=("not",), loss="triplet", pooling="cls")
    config = dataclasses.replace(config, epochs=2)  # after one, rounding swaps ranks of near ties
    first = finetune(config, quiet, progress=False)
    model = from_pretrained(first.export)
    elsewhere = dataclasses.replace(model, task={"kind": "encoder"})
    save_pretrained(tmp_path / "st", elsewhere)
    # It has no record of bertjax, and is known as a model of vectors by modules.json.
    columns = {"text_column": "one", "pair_column": "two", "score_column": "score"}
    found, own = (
        evaluate(each, pair_files["dev"], **columns, score_range=(0, 5))
        for each in (from_pretrained(tmp_path / "st"), model)
    )
    assert found == own
    assert found["spearman"] == pytest.approx(first.mean, abs=1e-6)
    again = dataclasses.replace(config.task, pooling=None)
    again = dataclasses.replace(config, model=str(tmp_path / "st"), task=again)
    assert read_task(again, elsewhere, quiet).vectors["pooling"] == "cls"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "cosine", "score_column": None}, "cosine needs scores: give `score_column`"),
        ({"loss": "cosine", "negative_columns": ("not",)}, "cosine has no `negative_columns`"),
        ({"loss": "triplet"}, "triplet needs one column: give `negative_columns`"),
        ({"loss": "other"}, "`loss` 'other' is unknown"),
        ({"scale": 0.0}, "`scale` is 0.0"),
        ({"score_range": (5, 0)}, "`score_range` is 5 0"),
        ({"pair_column": "text"}, "The column 'text' is two texts of a row"),
        ({"embedding_sizes": (8, 8)}, "`embedding_sizes` are"),
        ({"embedding_sizes": (16,)}, "has 16, and the vectors of the model have 16 numbers"),
    ],
)
def test_options_that_are_refused(make, tiny_model, options, sentence):
    with pytest.raises(UserError, match=sentence):
        read_task(make("scored", **options), tiny_model, quiet)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a film", "", 1)], "bad.tsv:2: column 'pair' is empty; write a text"),
        ([("a film", "a plot", 1), ("a film", "a plot", 5.5)], "bad.tsv:3: '5.5' .* 0 to 5"),
        ([("a film", "a plot", "nan")], "bad.tsv:2: 'nan' in column 'score' is no score"),
    ],
)
def test_rows_that_are_refused(make, tiny_model, tmp_path, rows, sentence):
    bad = write(tmp_path / "bad.tsv", [("text", "pair", "score"), *rows])
    config = dataclasses.replace(make("scored"), train=bad)
    with pytest.raises(UserError, match=sentence):
        read_task(config, tiny_model, quiet)


def test_a_batch_of_one_has_no_negatives(make):
    config = make("scored", loss="in_batch_negatives")
    config = dataclasses.replace(config, batch_size=1)
    with pytest.raises(UserError, match=r"A step has only 1 row, and the loss .* at least 2 rows"):
        finetune(config, quiet, progress=False)


def test_other_layers_than_a_pooling_are_not_trained_in_silence(make, tiny_model):
    dense = Dense(np.ones((16, 4), np.float32), np.ones(4, np.float32), "Tanh")
    modules = dataclasses.replace(MODULES, after=(dense,))
    model = dataclasses.replace(tiny_model, sentence_modules=modules)
    with pytest.raises(UserError, match=r"a dense layer from 16 to 4.*give `pooling`"):
        read_task(make("scored"), model, quiet)
    assert read_task(make("scored", pooling="mean"), model, quiet).vectors["pooling"] == "mean"
    with pytest.raises(UserError, match="with more than a pooling: use embed"):
        evaluate(model, "dev.tsv")

"""Pre-training on several corpora: their shares, their losses, and what a resumed run must share."""

import dataclasses
import json

import numpy as np
import pytest

import bertjax as bj
from bertjax import cli
from bertjax.data.mixture import Corpora
from bertjax.data.prepare import PrepareConfig, prepare
from bertjax.runs import pretrain as runs
from bertjax.runs.pretrain_program import Vocabulary
from bertjax.runs.recipes import ModelConfig, PretrainConfig
from bertjax.runs.report import report
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.loop import LoopConfig

SHAPE = ModelConfig(
    "tiny",
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
)
# The corpora share no word.
WORDS = {"wiki": [f"a{i}" for i in range(20)], "books": [f"b{i}" for i in range(20)]}


def silent(line):
    del line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS["wiki"], *WORDS["books"]]
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    rng = np.random.default_rng(0)
    for name, documents in (("wiki", 60), ("books", 40)):
        text = root / f"{name}.txt"
        lines = [[" ".join(rng.choice(WORDS[name], 6)) for _ in range(6)] for _ in range(documents)]
        text.write_text("\n\n".join("\n".join(document) for document in lines))
        output = str(root / name)
        tokenizer = str(root / "tokenizer")
        prepare(
            PrepareConfig((str(text),), tokenizer, output, max_seq_length=32, held_out=0.2), silent
        )
    return root


@pytest.fixture(scope="module")
def recipe(data):
    def make(workdir, steps=4, names=("wiki", "books"), weights=(3, 1), **changes):
        loop = LoopConfig(train_steps=steps, log_every=1, eval_every=2, save_every=2)
        directories = tuple(str(data / name) for name in names)
        fields = {"model": SHAPE, "loop": loop, "batch_size": 4, "eval_examples": 10, **changes}
        return PretrainConfig(directories, str(workdir), weights, **fields)

    return make


@pytest.fixture(scope="module")
def done(recipe, data):
    lines = []
    return runs.pretrain(recipe(data / "run"), lines.append), lines


def test_every_corpus_has_a_loss_and_the_whole_is_mixed_as_in_training(done, data):
    result, lines = done
    assert result.metrics.keys() == {
        f"{metric}{corpus}"
        for metric in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
        for corpus in ("", ".wiki", ".books")
    }
    # One label an example: the whole is the mean of the corpora, weighed by their shares.
    for metric in ("nsp_loss", "nsp_accuracy"):
        own = [result.metrics[f"{metric}.{corpus}"] for corpus in ("wiki", "books")]
        assert result.metrics[metric] == pytest.approx(0.75 * own[0] + 0.25 * own[1], rel=1e-6)
    entropies = [manifest.unigram_entropy for manifest in corpora(data).manifests]
    wiki, books = (result.metrics[f"mlm_loss.{corpus}"] for corpus in ("wiki", "books"))
    assert min(wiki, books) < result.metrics["mlm_loss"] < max(wiki, books)
    assert (
        f"nats (wiki {wiki:.3f}, unigram entropy {entropies[0]:.3f}; books {books:.3f}, unigram "
        f"entropy {entropies[1]:.3f}), next-sentence accuracy"
    ) in lines[-1]
    shown = next(line for line in lines if line.startswith("eval at 4"))
    assert f"mlm books {books:.3f} (unigram entropy {entropies[1]:.3f})" in shown
    announced = next(line for line in lines if "epochs of wiki (75.0%)" in line)
    assert "epochs of books (25.0%)" in announced
    (page,) = report([result.workdir], silent)
    assert "mlm_loss.books" in page.read_text()


def corpora(data):
    return Corpora.of([data / "wiki", data / "books"], (3, 1))


def test_stopped_and_resumed_it_is_the_same_run(done, recipe, tmp_path):
    runs.pretrain(recipe(tmp_path / "run", steps=2), silent)
    result = runs.pretrain(recipe(tmp_path / "run", optimizer=recipe("").optimizer), silent)
    assert result.history[-1]["step"] == 4
    arrays = [
        json.loads((run / "checkpoints" / "4" / "meta" / "metadata").read_text())["identity"]
        for run in (tmp_path / "run", done[0].workdir)
    ]
    assert arrays[0] == arrays[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": (1, 1)}, r"another data\.weights \(\[3, 1\] there, \[1, 1\] here\)"),
        ({"names": ("books", "wiki"), "weights": (1, 3)}, r"another data\.manifests"),
        ({"names": ("wiki",), "weights": ()}, r"another data \("),
    ],
)
def test_another_mixture_is_refused_by_name(done, recipe, changes, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        runs.pretrain(recipe(done[0].workdir, steps=6, **changes), silent)


def test_the_same_shares_in_other_numbers_go_on(done, recipe):
    lines = []
    runs.pretrain(recipe(done[0].workdir, weights=(0.75, 0.25)), lines.append)
    assert any("The run is complete" in line for line in lines)


def test_a_unigram_start_counts_words_as_they_are_mixed(data):
    mixture = corpora(data)
    vocabulary = Vocabulary.of(load_tokenizer(data / "tokenizer"))
    counts = runs._count(mixture.readers("train"), mixture.shares, vocabulary)
    share = counts[5:25].sum() / counts.sum()
    # 3 of 4 examples, which differ in length: three standard deviations of about 150 of them.
    assert share == pytest.approx(0.75, abs=0.06)


def test_a_corpus_without_held_out_documents_is_not_evaluated(recipe, data, tmp_path):
    text, tokenizer = (str(data / "books.txt"),), str(data / "tokenizer")
    prepare(
        PrepareConfig(text, tokenizer, str(tmp_path / "all"), max_seq_length=32, held_out=0), silent
    )
    config = dataclasses.replace(
        recipe(tmp_path / "run", steps=1), data=(str(data / "wiki"), str(tmp_path / "all"))
    )
    result = runs.pretrain(config, silent)
    assert {name for name in result.metrics if "." in name} == {
        f"{name}.wiki" for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
    }
    assert result.metrics["mlm_loss"] == result.metrics["mlm_loss.wiki"]


def test_the_command_line_takes_several(data, tmp_path, capsys):
    flags = ("--model.size", "tiny", "--model.hidden-size", "16", "--batch-size", "4")
    flags += ("--loop.train-steps", "1", "--eval-examples", "4")
    words = ["pretrain", "--data", str(data / "wiki"), str(data / "books"), *flags]
    code = cli.run([*words, "--data-weights", "0.9", "0.1", "--workdir", str(tmp_path / "run")])
    assert code == 0 and "epochs of books (10.0%)" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data_weights"] == [0.9, 0.1]
    code = cli.run([*words, "--data-weights", "1", "--workdir", str(tmp_path / "other")])
    error = capsys.readouterr().err
    assert code == 2 and "1 data_weights for 2 data directories" in error
    assert not (tmp_path / "other").exists()


def test_no_directory_is_no_data():
    with pytest.raises(bj.UserError, match="No data"):
        PretrainConfig((), "run")

"""Pre-training on several corpora: their shares, their losses, and what resuming refuses."""

import dataclasses
import os
import signal

import numpy as np
import pytest

import bertjax as bj
from bertjax import cli
from bertjax.data.corpora import Corpora
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.objectives import masking
from bertjax.objectives import objective as objectives
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.evaluation import make_evaluator
from bertjax.pretrain.frequency import count_tokens
from bertjax.report.run import report
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.loop import Hooks
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig, make_mesh

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
        config = PrepareConfig(
            (str(text),), tokenizer, output, max_seq_length=32, held_out=0.2, short_seq_prob=0.5
        )
        prepare(config, silent)
    return root


@pytest.fixture(scope="module")
def recipe(data, tiny_shape):
    def make(workdir, steps=4, names=("wiki", "books"), weights=(3, 1), **changes):
        loop = LoopConfig(train_steps=steps, log_every=1, eval_every=2, save_every=2)
        directories = tuple(str(data / name) for name in names)
        fields = {
            "model": tiny_shape,
            "data_weights": weights,
            "loop": loop,
            "batch_size": 4,
            "eval_examples": 10,
            # Unlike others it does not know the number of steps: all runs share a program.
            "optimizer": OptimizerConfig(schedule="constant", warmup_steps=0),
            **changes,
        }
        return PretrainConfig(directories, str(workdir), **fields)

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
    # Every example has one label: the whole is the mean of the corpora, weighted by their shares.
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
    figure = page.read_text().split("masked-LM loss of each corpus, held out</title>")[1]
    assert "<title>wiki</title>" in figure and "books: unigram entropy" in figure


def corpora(data):
    return Corpora.of([data / "wiki", data / "books"], (3, 1))


def test_stopped_and_resumed_it_is_the_same_run(done, recipe, tmp_path):
    config = recipe(tmp_path / "run")

    def stop(step, metrics, state):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.pretrain(config, silent, hooks=Hooks(on_eval=stop)).stopped
    result = runs.pretrain(config, silent)
    assert result.metrics == done[0].metrics
    files = [run.workdir / "export" / "model.safetensors" for run in (result, done[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


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
    vocabulary = masking.Vocabulary.of(load_tokenizer(data / "tokenizer"))
    counts = count_tokens(mixture.readers("train"), mixture.shares, vocabulary)
    share = counts[5:25].sum() / counts.sum()
    # 3 of 4 examples, which differ in length: three standard deviations of about 150 of them.
    assert share == pytest.approx(0.75, abs=0.06)


def test_a_step_of_each_length_is_compiled_once_and_predicts_its_share(
    data, recipe, tmp_path, monkeypatch
):
    traced = []

    def mask_tokens(*arguments, **options):
        masked = masking.mask_tokens(*arguments, **options)
        traced.append((masked["input_ids"].shape[1], masked["masked_labels"].shape[1]))
        return masked

    monkeypatch.setattr(objectives, "mask_tokens", mask_tokens)
    config = recipe(tmp_path / "run", steps=12, length_buckets=(16,))
    config = dataclasses.replace(config, loop=LoopConfig(train_steps=12, log_every=1, eval_every=0))
    lines = []
    done = runs.pretrain(config, lines.append)
    # round(0.15 * T) of each; held-out rows are as long as ever.
    assert sorted(traced) == [(16, 2), (32, 5), (32, 5)]
    assert any(line.startswith("All rows of a step have one length: ") for line in lines)
    assert done.metrics["mlm_loss"] > 0
    longer = dataclasses.replace(config, loop=LoopConfig(train_steps=14, eval_every=0))
    there = r"length_buckets \(\[16, 32\] there"
    with pytest.raises(bj.UserError, match=rf"{there}, \[20, 32\] here\)"):
        runs.pretrain(dataclasses.replace(longer, length_buckets=(20,)), silent)
    with pytest.raises(bj.UserError, match=rf"{there}, absent here\)"):
        runs.pretrain(dataclasses.replace(longer, length_buckets=()), silent)
    with pytest.raises(bj.UserError, match="ascending lengths of up to 32"):
        runs.pretrain(recipe(tmp_path / "other", length_buckets=(64,)), silent)
    assert not (tmp_path / "other").exists()


def test_the_whole_counts_an_example_as_often_as_training_draws_it(data, tmp_path):
    """The step is a fake. Its sums are the number of tokens and 1 for every example."""
    text, tokenizer = (str(data / "books.txt"),), str(data / "tokenizer")
    bare = PrepareConfig(text, tokenizer, str(tmp_path / "bare"), max_seq_length=32, held_out=0)
    prepare(bare, silent)

    def eval_step(params, batch, index):
        weight = np.asarray(batch["example_weight"])
        tokens = np.asarray(batch["attention_mask"]).sum(1)
        sums = np.array([(tokens * weight).sum(), weight.sum()])
        return {"mlm_loss": sums, "mlm_accuracy": sums}

    mesh = make_mesh(MeshConfig())
    directories = (data / "wiki", data / "books", tmp_path / "bare")
    mixture = Corpora.of(directories, (5, 3, 2))
    evaluate = make_evaluator(mixture, eval_step, mesh, batch_size=8, max_examples=9999)
    found = evaluate(None, lambda: False)
    own = {}
    for name, reader in zip(mixture.names, mixture.readers("held_out"), strict=True):
        if len(reader):
            own[name] = reader.rows(np.arange(len(reader)))["attention_mask"].sum(1).mean()
    assert own.keys() == {"wiki", "books"}  # nothing of the third is held out
    assert {name for name in found if name.startswith("mlm_loss.")} == {
        f"mlm_loss.{name}" for name in own
    }
    for name, mean in own.items():
        assert found[f"mlm_loss.{name}"] == pytest.approx(mean)
    assert found["mlm_loss"] == pytest.approx((5 * own["wiki"] + 3 * own["books"]) / 8)
    assert evaluate(None, lambda: True) is None
    # The metrics of a single corpus are its plain means.
    alone = make_evaluator(
        Corpora.of(directories[:1]), eval_step, mesh, batch_size=8, max_examples=9999
    )
    assert alone(None, lambda: False).keys() == {"mlm_loss", "mlm_accuracy"}


def test_the_command_line_takes_several(data, tmp_path, capsys, monkeypatch):
    seen = []
    words = ["pretrain", "--data", str(data / "wiki"), str(data / "books")]
    words += ["--workdir", str(tmp_path / "run"), "--data-weights"]
    with monkeypatch.context() as patch:
        stopped = runs.PretrainResult({}, [], tmp_path / "run", None, True, None, "pretraining")
        patch.setattr(runs, "pretrain", lambda config, log: seen.append(config) or stopped)
        assert cli.run([*words, "0.9", "0.1"]) == 75
    assert seen[0].directories == (str(data / "wiki"), str(data / "books"))
    assert seen[0].data_weights == (0.9, 0.1)
    capsys.readouterr()
    assert cli.run([*words, "1"]) == 2
    assert "1 --data-weights for 2 data directories" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_directory_is_no_data():
    with pytest.raises(bj.UserError, match="No data"):
        PretrainConfig((), "run")

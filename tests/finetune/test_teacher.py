"""Fine-tuning with a teacher, and from some layers of a model."""

import contextlib
import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.errors import UserError
from bertjax.finetune.run import finetune, keep_layers, read_task
from bertjax.finetune.teacher import FILE, Teacher, open_teacher
from bertjax.inference import predict
from bertjax.interop.huggingface import from_pretrained, open_pretrained, save_pretrained
from bertjax.model.bert import init_task_params
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.embedding.config import EmbeddingConfig
from bertjax.tasks.multiple_choice.config import MultipleChoiceConfig
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train import loop


def quiet(line):
    del line


def weights_of(config):
    return pathlib.Path(config.workdir, "export", "model.safetensors").read_bytes()


def train_records(result):
    text = pathlib.Path(result.seeds[0].workdir, "metrics.jsonl").read_text()
    return [each for each in map(json.loads, text.splitlines()) if each["kind"] == "train"]


@pytest.fixture(scope="module")
def make_model(tiny_model):
    """Makes a model with a wide random head, so that its outputs differ from row to row."""

    def make(head, outputs, **record):
        params = jax.tree.map(
            lambda leaf: 50 * np.asarray(leaf),
            init_task_params(tiny_model.config, jax.random.key(2), head, outputs, whole=False),
        )
        parts = {name: params[name] for name in ("classifier", "qa_outputs") if name in params}
        kind = {"kind": head, **record}
        return dataclasses.replace(tiny_model, params={**tiny_model.params, **parts}, task=kind)

    return make


# One teacher and its student --------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(short, straight, tmp_path_factory):
    """(configuration, result, lines) of a student that starts where its teacher did."""
    workdir = str(tmp_path_factory.mktemp("taught") / "run")
    config = dataclasses.replace(
        short, teacher=straight.workdir, workdir=workdir, epochs=2, log_every=1
    )
    lines = []
    return config, finetune(config, lines.append, progress=False), lines


def test_the_teacher_is_told_and_both_losses_are_shown(taught, straight):
    _, result, lines = taught
    score = straight.seeds[0].metrics["accuracy"]
    said = f"The teacher {straight.workdir} (1 layers) has accuracy {score:.4f} on the dev rows. "
    (line,) = (line for line in lines if line.startswith(said))
    assert "Its outputs for these and 60 training rows took " in line
    records = train_records(result)
    assert len(records) == 8
    for record in records:
        mean = 0.5 * record["hard_loss"] + 0.5 * record["soft_loss"]
        assert record["loss"] == pytest.approx(mean, rel=1e-5) and record["soft_loss"] > 0
    assert any("  hard_loss 0." in line and "  soft_loss 0." in line for line in lines)


def test_a_weight_of_0_trains_the_plain_run(short, straight, tmp_path):
    config = dataclasses.replace(
        short, teacher=straight.workdir, teacher_weight=0.0, workdir=str(tmp_path / "run")
    )
    assert finetune(config, quiet, progress=False).seeds[0].metrics == straight.seeds[0].metrics
    assert weights_of(config) == weights_of(short)


@contextlib.contextmanager
def stop_at_the_fifth_question():
    questions = itertools.count(1)
    yield lambda: next(questions) >= 5


def test_a_stopped_run_goes_on_to_the_same_bits(taught, tmp_path, monkeypatch):
    config = dataclasses.replace(taught[0], workdir=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", stop_at_the_fifth_question)
        assert finetune(config, quiet, progress=False).stopped
    lines = []
    assert not finetune(config, lines.append, progress=False).stopped
    path = tmp_path / "run" / FILE
    assert f"The outputs of the teacher are read from {path}." in lines
    assert any(line.startswith("Resumed at step ") for line in lines)
    assert not any(line.startswith("The teacher ") for line in lines)
    assert weights_of(config) == weights_of(taught[0])
    known = path.read_bytes()
    flipped = known[:200] + bytes([known[200] ^ 1]) + known[201:]  # a bit of an output
    for damaged in (known[:-9], flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"teacher.npz: damaged \(.*\); delete it, so that"):
            finetune(config, quiet, progress=False)
    # Those of another teacher, or for other rows, are not read.
    np.savez(path, outputs=np.zeros(3), origin=np.array("another"))
    finetune(config, lines.append, progress=False)
    assert any(line.startswith("The teacher ") for line in lines)
    assert np.load(path)["outputs"].std() > 0


def test_a_resumed_run_has_the_same_teacher(taught, short, tmp_path):
    config = taught[0]
    model = from_pretrained(config.teacher)
    head = {name: leaf + 1 for name, leaf in model.params["classifier"].items()}
    other = dataclasses.replace(model, params={**model.params, "classifier": head})
    save_pretrained(tmp_path / "other", other)
    for change, said in (
        ({"teacher": None}, r"another teacher \(.* there, absent here\)"),
        ({"teacher_weight": 0.9}, r"another teacher.weight \(0.5 there, 0.9 here\)"),
        ({"teacher_temperature": 1.0}, r"another teacher.temperature \(2.0 there, 1.0 here\)"),
        ({"teacher": str(tmp_path / "other")}, r"another teacher.weights"),
        ({"layers_to_keep": (0,)}, r"another layers_to_keep \(absent there, \[0\] here\)"),
    ):
        with pytest.raises(UserError, match=said):
            finetune(dataclasses.replace(config, **change), quiet, progress=False)
    plain = dataclasses.replace(short, teacher=config.teacher)
    with pytest.raises(UserError, match=r"another teacher \(absent there, "):
        finetune(plain, quiet, progress=False)


# Every kind -------------------------------------------------------------------------------------


def write_sentences(path):
    """Sentences of up to 20 words, of which the longer ones have two windows."""
    phrases = ["good B-POS\nfilm O\n", "the O\nbad B-NEG\nplots I-NEG\n", "plot O\nwas O\n"]
    text = "\n".join("".join((phrases * 4)[row : 2 * row + 1]) for row in range(10))
    path.write_text(text)


def write_choices(path):
    """Questions of two to four choices."""
    choices = ["good plot", "bad", "the bad film", "fine"]
    rows = (
        {"question": "the film was", "choices": choices[: 2 + row % 3], "answer": "AB"[row % 2]}
        for row in range(16)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_questions(path):
    """Questions on documents of up to two windows."""
    text = "the film was good and the plot is bad , one film is fine and two films was not"
    words = text.split()
    questions = []
    for row in range(12):
        context = " ".join(words[: 4 + row])
        answer = {"text": "good", "answer_start": context.index("good")}
        question = {"id": f"{row}", "question": "what was good", "answers": [answer]}
        questions.append({"context": context, "qas": [question]})
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": questions}]}))


TAGS = ["I-POS", "B-POS", "I-NEG", "B-NEG", "O"]
KINDS = {
    "sequence_classification": (ClassificationConfig(), None, ["pos", "neg"]),
    "token_classification": (TokenClassificationConfig(), write_sentences, TAGS),
    "multiple_choice": (MultipleChoiceConfig(), write_choices, None),
    "question_answering": (
        QuestionAnsweringConfig(doc_stride=4, max_query_length=4),
        write_questions,
        None,
    ),
}


@pytest.mark.parametrize("head", KINDS)
def test_a_student_that_is_its_teacher_agrees_with_it(head, short, make_model, tmp_path):
    """The first step has no divergence if each row has its own outputs, labels in order."""
    task, write, labels = KINDS[head]
    outputs = 2 if head == "question_answering" else len(labels or "1")
    model = make_model(head, outputs, **({"labels": labels} if labels else {}))
    save_pretrained(tmp_path / "model", model)
    files = {"train": short.train, "dev": short.dev}
    if write:
        write(tmp_path / "rows")
        files = dict.fromkeys(files, str(tmp_path / "rows"))
    config = dataclasses.replace(
        short,
        model=str(tmp_path / "model"),
        teacher=str(tmp_path / "model"),
        workdir=str(tmp_path / "run"),
        task=task,
        keep_head=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        log_every=1,
        eval_every=100,
        **files,
    )
    result = finetune(config, quiet, progress=False)
    first, *_ = train_records(result)
    assert np.load(tmp_path / "run" / FILE)["outputs"].std() > 0.1
    # Different batches and programs round differently.
    assert abs(first["soft_loss"]) < 1e-5 < 0.01 < first["hard_loss"]
    assert from_pretrained(tmp_path / "run").kind == head


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"teacher_weight": 0.5}, "`teacher_weight` needs `teacher`: give it too"),
        ({"teacher_temperature": 2.0}, "`teacher_temperature` needs `teacher`"),
        ({"teacher": "t", "teacher_weight": 1.1}, "`teacher_weight` is 1.1: give a number from 0"),
        ({"teacher": "t", "teacher_weight": -0.1}, "`teacher_weight` is -0.1"),
        ({"teacher": "t", "teacher_weight": float("nan")}, "`teacher_weight` is nan"),
        ({"teacher": "t", "teacher_temperature": 0.0}, "`teacher_temperature` is 0.0: give a numb"),
        (
            {"teacher": "t", "task": EmbeddingConfig()},
            "`teacher` is for the tasks classification, multiple_choice, question_answering, "
            "token_classification, and not for embedding: leave it out",
        ),
        ({"layers_to_keep": ()}, r"`layers_to_keep` is \(\): give numbers from 0, each once"),
        ({"layers_to_keep": (1, 0)}, r"`layers_to_keep` is \(1, 0\)"),
        ({"layers_to_keep": (1, 1)}, r"`layers_to_keep` is \(1, 1\)"),
        ({"layers_to_keep": (-1,)}, r"`layers_to_keep` is \(-1,\)"),
        (
            {"layers_to_keep": (0,), "from_scratch": True},
            "`layers_to_keep` needs a trained model: leave out `from_scratch`",
        ),
    ],
)
def test_options_that_do_not_fit(short, options, says):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(short, **options)


@pytest.fixture(scope="module")
def classifier(make_model):
    return make_model("sequence_classification", 2, labels=["neg", "pos"])


def shortened(model):
    """A model of 8 positions."""
    table = model.params["embeddings"]["position_embeddings"]["embedding"][:8]
    embeddings = {**model.params["embeddings"], "position_embeddings": {"embedding": table}}
    return dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, max_position_embeddings=8),
        params={**model.params, "embeddings": embeddings},
    )


def with_other_words(model, directory):
    """A model with two words exchanged."""
    directory.mkdir()
    model.tokenizer.save(directory)
    *words, first, second = (directory / "vocab.txt").read_text().split()
    (directory / "vocab.txt").write_text("\n".join([*words, second, first]) + "\n")
    return dataclasses.replace(model, tokenizer=load_tokenizer(directory))


def test_teachers_that_do_not_fit(short, tiny_model, classifier, make_model, tmp_path):
    tags = make_model("token_classification", 2, labels=["O", "B-X"])
    cases = {
        "bare": (tiny_model, r"bare has no head of a task \(pretraining\): fine-tune it first"),
        "tags": (tags, "tags was trained for the task token_classification, and this run is for c"),
        "words": (with_other_words(classifier, tmp_path / "w"), "has another vocabulary than `mod"),
        "positions": (shortened(classifier), "has 8 positions, and rows have up to 16 tokens"),
    }
    for name, (model, says) in cases.items():
        save_pretrained(tmp_path / name, model)
        config = dataclasses.replace(short, teacher=str(tmp_path / name))
        with pytest.raises(UserError, match=f"^`teacher`: .*{says}"):
            open_teacher(config, tiny_model)

    task = read_task(short, tiny_model, quiet)
    config = dataclasses.replace(short, teacher="given")
    three = make_model("sequence_classification", 3, labels=["neg", "pos", "other"])
    others = make_model("sequence_classification", 2, labels=["neg", "other"])
    for model, says in (
        (make_model("regression", 1), "given does regression, and this run trains sequence_class"),
        (three, r"has 3 labels \(neg, pos, other\) and the training file 2 \(neg, pos\): give"),
        (others, r"has 2 labels \(neg, other\) and the training file 2 \(neg, pos\)"),
    ):
        with pytest.raises(UserError, match=says):
            Teacher(config, model, task)
    assert Teacher(config, classifier, task).columns == [0, 1]
    numbered = dataclasses.replace(task, labels=("1", "0"))
    assert Teacher(config, make_model(three.kind, 2), numbered).columns == [1, 0]


def test_a_mistake_about_the_teacher_is_one_sentence(short, tmp_path, capsys):
    words = ["finetune", "--model", short.model, "--train", short.train, "--dev", short.dev]
    words += ["--workdir", str(tmp_path / "run"), "--max-seq-length", "16"]
    assert cli.run([*words, "--teacher", short.model]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"bertjax: --teacher: {short.model} has no head of a t")
    assert cli.run([*words, "--teacher-weight", "0.5"]) == 2
    assert "--teacher-weight needs --teacher: give it too." in capsys.readouterr().err


# Some layers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(tiny_model):
    """A model of three layers, the second of which is that of the tiny model."""
    (layer,) = tiny_model.params["encoder"].values()
    twice = jax.tree.map(lambda leaf: 2 * leaf, layer)
    encoder = {"layer_0": twice, "layer_1": layer, "layer_2": twice}
    return dataclasses.replace(
        tiny_model,
        config=dataclasses.replace(tiny_model.config, num_hidden_layers=3),
        params={**tiny_model.params, "encoder": encoder},
    )


def test_a_run_of_one_layer_of_three_is_that_of_the_layer(short, straight, deep, tmp_path):
    save_pretrained(tmp_path / "deep", deep)
    config = dataclasses.replace(
        short, model=str(tmp_path / "deep"), layers_to_keep=(1,), workdir=str(tmp_path / "run")
    )
    assert finetune(config, quiet, progress=False).seeds[0].metrics == straight.seeds[0].metrics
    assert weights_of(config) == weights_of(short)
    model = from_pretrained(config.workdir)
    assert model.config.num_hidden_layers == 1 and predict.predict(model, ["the film was good"])
    with pytest.raises(UserError, match=r"layers_to_keep \(\[1\] there, \[2\] here\)"):
        finetune(dataclasses.replace(config, layers_to_keep=(2,)), quiet, progress=False)


def test_layers_are_kept_in_order_and_read_late(short, deep, tmp_path):
    save_pretrained(tmp_path / "deep", deep)
    opened = open_pretrained(tmp_path / "deep")
    config = dataclasses.replace(short, layers_to_keep=(1, 2))
    kept = keep_layers(config, opened)
    assert kept.config.num_hidden_layers == 2 and list(kept.shapes["encoder"]) == [
        "layer_0",
        "layer_1",
    ]
    assert "params" not in vars(opened)
    for new, old in (("layer_0", "layer_1"), ("layer_1", "layer_2")):
        ours, theirs = kept.params["encoder"][new], deep.params["encoder"][old]
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert kept.kind == opened.kind == "pretraining"
    deeper = dataclasses.replace(config, layers_to_keep=(1, 3))
    with pytest.raises(UserError, match=r"and the model has 3 layers: give numbers from 0 to 2"):
        keep_layers(deeper, opened)

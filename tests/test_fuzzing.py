"""Mutations of every reader's files: each is read, or refused in one sentence, soon and in bounds.

A case is a reader, a file and a seed; the message of a failure names them.
"""

import collections
import json
import os
import pickle
import random
import shutil
from unittest import mock

import flax.serialization
import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from etils import epath

from bertjax.config import BertConfig
from bertjax.data import tfrecords
from bertjax.data.corpora import Corpora
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import read_task
from bertjax.inference import programs
from bertjax.inference.embed import embed
from bertjax.interop import checksums, google
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.report.run import report
from bertjax.rundir import records
from bertjax.rundir.workdir import refuse_changed_run
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.features import add_targets, read_sources
from bertjax.tasks.seq2seq.pairs import read_pairs
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.token_classification.config import TokenClassificationConfig
from bertjax.tasks.token_classification.files import read_tagged
from bertjax.text import corpus
from bertjax.text.tokenizer import load_tokenizer
from bertjax.train.telemetry.logger import Telemetry
from bertjax.train.telemetry.phases import PhaseInfo
from bertjax.train.telemetry.trackers import EventFiles

SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "the film was good and the plot was bad .",
                    "qas": [
                        {
                            "id": "1",
                            "question": "a film ?",
                            "answers": [{"text": "good", "answer_start": 13}],
                        },
                        {"id": "2", "question": "one ?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def quiet(line):
    del line


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_model, load_helper):
    """A directory with a file of every kind that is read."""
    root = tmp_path_factory.mktemp("inputs")
    save_pretrained(root / "model", tiny_model)
    (root / "model" / checksums.FILE).unlink()  # it would refuse all mutations
    shutil.copy(root / "model/config.json", root / "shape.json")
    (root / "rows.csv").write_text("text,label\n" + "good film,pos\nbad plot,neg\n" * 4)
    (root / "rows.tsv").write_text("text\tlabel\n" + "good film\tpos\nbad plot\tneg\n" * 4)
    rows = [{"text": "good film", "label": "pos"}, {"text": "bad plot", "label": "neg"}] * 3
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tags.conll").write_text("-DOCSTART- O\n\n" + "good B-A\nfilm I-A\n. O\n\n" * 4)
    (root / "tags.jsonl").write_text('{"tokens": ["a", "film"], "tags": ["O", "B-A"]}\n' * 4)
    spans = {"text": "a good film", "entities": [{"start": 2, "end": 6, "label": "A"}]}
    (root / "spans.jsonl").write_text(f"{json.dumps(spans)}\n" * 4)
    (root / "squad.json").write_text(json.dumps(SQUAD))
    text = "good film . \n a plot .\n\n" * 30
    (root / "text.txt").write_text(text)
    (root / "text.jsonl").write_text('{"text": "Good film. A plot."}\n' * 8)
    config = PrepareConfig(
        (str(root / "text.txt"),), str(root / "model"), str(root / "shards"), max_seq_length=16
    )
    prepare(config, quiet)
    (root / "run").mkdir()
    lines = [{"step": step, "kind": "train", "time": 1.5, "loss": 0.5} for step in range(1, 9)]
    lines += [{"step": 8, "kind": "eval", "time": 2.0, "loss": 0.25, "accuracy": 0.5}]
    (root / "run/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metric = {"name": "loss", "words": "the loss", "better": "min", "reference": ["noise", 0.1]}
    fields = {"kind": "fine-tuning", "immutable": {"seed": 1}, "metrics": [metric], "epochs": 3}
    (root / "run/config.json").write_text(json.dumps(fields))
    (root / "run/result.json").write_text(json.dumps({"sentence": "Done.", "steps": 8}))
    write_tokenizers(root)
    write_models(root, tiny_model, load_helper)
    write_records(root / "a.tfrecord", load_helper)
    pairs = [{"source": "a good film", "target": "a film"}, {"source": "bad", "target": "poor"}] * 3
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for suffix in ("de", "en"):
        (root / f"parallel.{suffix}").write_text("a good film\nbad plot\n" * 3)
    row = {"document": ["a good film", "a bad plot", "not one"], "summary": "a good film ."}
    (root / "documents.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return root


def write_tokenizers(root):
    """Writes the files of transformers' tokenizers."""
    special = {
        name + "_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
    }
    special["additional_special_tokens"] = ["[E1]"]
    whole = tokenizers.BertWordPieceTokenizer(str(root / "model/vocab.txt"))
    for name in ("alone", "beside"):
        (root / name).mkdir()
        whole.save(str(root / name / "tokenizer.json"))
    shutil.copy(root / "model/vocab.txt", root / "beside/vocab.txt")
    (root / "beside/special_tokens_map.json").write_text(json.dumps(special))


def write_models(root, model, load_helper):
    """Writes the model as TF1, PyTorch, Flax and sentence-transformers have it."""
    params = jax.tree.map(np.asarray, model.params)
    moments = {"mu": params, "nu": params, "step": 7}
    bundles = load_helper("interop/bundle_writer.py")
    bundles.write_google(root / "google", params, model.config, **moments)
    tensors = safetensors.numpy.load_file(root / "model/model.safetensors")
    tree = load_helper("interop/test_weights.py").flax_tree(tensors)
    contents = {
        "torch/pytorch_model.bin": load_helper("interop/torch_writer.py").save(tensors),
        "flax/flax_model.msgpack": flax.serialization.msgpack_serialize(tree),
    }
    for name, content in contents.items():
        path = root / name
        shutil.copytree(root / "model", path.parent)
        (path.parent / "model.safetensors").unlink()
        path.write_bytes(content)
    shutil.copy(root / "model/vocab.txt", root / "google/vocab.txt")
    sentence = shutil.copytree(root / "model", root / "sentence")
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{name}" * bool(at), "type": f"st.models.{name}"}
        for at, name in enumerate(names)
    ]
    width = model.config.hidden_size
    dense = {"in_features": width, "out_features": 4, "activation_function": "torch.nn.Tanh"}
    files = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": True},
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_cls_token": False,
        },
        "2_Dense/config.json": dense,
        "3_Normalize/config.json": {},
    }
    for name, fields in files.items():
        (sentence / name).parent.mkdir(exist_ok=True)
        (sentence / name).write_text(json.dumps(fields))
    kernel = {"linear.weight": np.ones((4, width), np.float32)}
    safetensors.numpy.save_file(kernel, sentence / "2_Dense/model.safetensors")


def write_records(path, load_helper):
    """Writes a TFRecord file of Google's script, with the ids of the tiny vocabulary."""
    examples, writer = (
        load_helper("data/google_examples.py"),
        load_helper("interop/bundle_writer.py"),
    )
    vocabulary, rng = examples.Vocabulary(26, 2, 3, 4), random.Random(0)
    pair = ([5, 6, 7, 8], [9, 10, 11])
    made = [examples.example(*pair, at % 2 == 0, vocabulary, 16, 3, rng) for at in range(6)]
    records = [examples.framed(examples.serialized(each, writer), writer) for each in made]
    path.write_bytes(b"".join(records))


def read_squad(root, model):
    task = QuestionAnsweringConfig(doc_stride=8, max_query_length=8)
    config = FinetuneConfig(
        str(root / "model"), str(root / "squad.json"), str(root / "squad.json"), task=task
    )
    read_task(config, model, quiet)


def read_rows(name):
    def read(root, model):
        task = ClassificationConfig()
        path = str(root / name)
        read_task(FinetuneConfig(str(root / "model"), path, path, task=task), model, quiet)

    return read


def read_tags(name):
    return lambda root, model: read_tagged(root / name, TokenClassificationConfig())


def read_metrics(root, model):
    del model
    trackers = [EventFiles(root / "events")]
    telemetry = Telemetry(root / "run/metrics.jsonl", log=quiet, progress=False, trackers=trackers)
    telemetry.begin(6, [PhaseInfo(9)], log_every=1)
    telemetry.end()


def read_run(root, model):
    del model
    directory = epath.Path(root / "run")
    records.read_settings(directory)
    refuse_changed_run(directory, {"seed": 1})
    report([str(directory)], quiet)


def read_sentence(root, model):
    """Embeds a text; zeros stand for the compiled program."""
    del model

    def vectors(params, inputs, weights, layers, poolings, config, execution):
        return np.zeros((len(inputs["input_ids"]), config.hidden_size * len(poolings)), np.float32)

    with mock.patch.object(programs, "pooled_vectors", vectors):
        embed(from_pretrained(root / "sentence"), ["a Good film"])


def read_targets(name, **columns):
    def read(root, model):
        pairs = read_pairs(root / name, Seq2SeqConfig(**columns))
        sources = read_sources(pairs.sources, model.tokenizer, 8)
        add_targets(sources, pairs.targets, model.tokenizer, 8)

    return read


def read_documents(root, model):
    task, path = ExtractiveSummarizationConfig(), str(root / "documents.jsonl")
    read_task(FinetuneConfig(str(root / "model"), path, path, task=task), model, quiet)


def read_google(root, model):
    del model
    google.read_checkpoint(root / "google")


read_parallel = read_targets("parallel", source_column="de", target_column="en")

READERS = {
    "model/config.json": lambda root, model: from_pretrained(root / "model"),
    "model/model.safetensors": lambda root, model: from_pretrained(root / "model"),
    "beside/tokenizer.json": lambda root, model: load_tokenizer(root / "beside"),
    "alone/tokenizer.json": lambda root, model: load_tokenizer(root / "alone"),
    "model/tokenizer_config.json": lambda root, model: load_tokenizer(root / "model"),
    "beside/special_tokens_map.json": lambda root, model: load_tokenizer(root / "beside"),
    "model/vocab.txt": lambda root, model: load_tokenizer(root / "model"),
    "shape.json": lambda root, model: BertConfig.from_json(epath.Path(root / "shape.json")),
    "shards/manifest.json": lambda root, model: Corpora.of([root / "shards"]).readers("train"),
    "run/metrics.jsonl": read_metrics,
    "run/config.json": read_run,
    "run/result.json": read_run,
    "rows.csv": read_rows("rows.csv"),
    "rows.tsv": read_rows("rows.tsv"),
    "rows.jsonl": read_rows("rows.jsonl"),
    "squad.json": read_squad,
    "tags.conll": read_tags("tags.conll"),
    "tags.jsonl": read_tags("tags.jsonl"),
    "spans.jsonl": read_tags("spans.jsonl"),
    "text.txt": lambda root, model: list(corpus.read_documents(epath.Path(root / "text.txt"))),
    "text.jsonl": lambda root, model: list(corpus.read_documents(epath.Path(root / "text.jsonl"))),
    "google/bert_model.ckpt.index": read_google,
    "google/bert_model.ckpt.data-00000-of-00001": read_google,
    "google/bert_config.json": lambda root, model: from_pretrained(root / "google"),
    "torch/pytorch_model.bin": lambda root, model: from_pretrained(root / "torch"),
    "flax/flax_model.msgpack": lambda root, model: from_pretrained(root / "flax"),
    "sentence/modules.json": read_sentence,
    "sentence/1_Pooling/config.json": read_sentence,
    "sentence/2_Dense/config.json": read_sentence,
    "sentence/2_Dense/model.safetensors": read_sentence,
    "sentence/sentence_bert_config.json": read_sentence,
    "a.tfrecord": lambda root, model: list(
        tfrecords.read_examples(root / "a.tfrecord", model.tokenizer)
    ),
    "pairs.jsonl": read_targets("pairs.jsonl"),
    "parallel.de": read_parallel,
    "parallel.en": read_parallel,
    "documents.jsonl": read_documents,
}


def faults_of(name, seeds, inputs, model, root, fuzzing):
    """Reads mutations of a file; returns the faults, each with the first seed that shows it."""
    shutil.copytree(inputs, root, dirs_exist_ok=True)
    path = root / name
    whole, found = path.read_bytes(), collections.OrderedDict()
    READERS[name](root, model)
    for seed in seeds:
        path.write_bytes(fuzzing.mutated(random.Random(f"{name} {seed}"), whole, name))
        with fuzzing.right_checksums():
            fault = fuzzing.fault_of(lambda: READERS[name](root, model))
        if fault:
            found.setdefault(
                fault.partition(":")[0] + fault[fault.rfind("(") :], f"{seed}: {fault}"
            )
    return "\n".join(found.values())


@pytest.fixture(scope="module")
def fuzzing(load_helper):
    return load_helper("fuzzing.py")


@pytest.fixture(autouse=True)
def marker(tmp_path, monkeypatch, fuzzing):
    """The file that a program in a pickle makes; no reader runs one."""
    path = tmp_path / "marker"
    monkeypatch.setenv(fuzzing.MARKER, str(path))
    yield path
    assert not path.exists()


def test_what_unpickles_runs_the_program(marker, fuzzing):
    pickle.loads(fuzzing.PROGRAM + b".")
    marker.unlink()


@pytest.mark.parametrize("name", READERS)
def test_a_few_mutations_of_each_file(name, inputs, tiny_model, tmp_path, fuzzing):
    assert faults_of(name, range(8), inputs, tiny_model, tmp_path, fuzzing) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_three_hundred_mutations_of_each_file(name, inputs, tiny_model, tmp_path, fuzzing):
    count = int(os.environ.get("BERTJAX_MUTATIONS", "300"))
    assert faults_of(name, range(100, 100 + count), inputs, tiny_model, tmp_path, fuzzing) == ""

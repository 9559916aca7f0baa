"""Mutations of every reader's files: each is read, or refused in one sentence, soon and in bounds.

A case is a reader, a file and a seed; the message of a failure names them.
"""

import collections
import json
import os
import random
import shutil

import pytest
from etils import epath

from bertjax.config import BertConfig
from bertjax.data.corpora import Corpora
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import read_task
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.report.run import report
from bertjax.rundir import records
from bertjax.rundir.workdir import refuse_changed_run
from bertjax.tasks.classification.config import ClassificationConfig
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
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
def inputs(tmp_path_factory, tiny_model):
    """A directory with a file of every kind that is read."""
    root = tmp_path_factory.mktemp("inputs")
    save_pretrained(root / "model", tiny_model)
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
    return root


def read_squad(root, model):
    task = QuestionAnsweringConfig()
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


READERS = {
    "model/config.json": lambda root, model: from_pretrained(root / "model"),
    "model/model.safetensors": lambda root, model: from_pretrained(root / "model"),
    "model/tokenizer.json": lambda root, model: load_tokenizer(root / "model"),
    "model/tokenizer_config.json": lambda root, model: load_tokenizer(root / "model"),
    "model/special_tokens_map.json": lambda root, model: load_tokenizer(root / "model"),
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
}


def faults_of(name, seeds, inputs, model, root, fuzzing):
    """Reads mutations of a file; returns the faults, each with the first seed that shows it."""
    shutil.copytree(inputs, root, dirs_exist_ok=True)
    path = root / name
    if not path.exists():
        shutil.copy(inputs / "model/config.json", root / "shape.json")
    if not path.exists():
        path.write_text("{}")
    whole, found = path.read_bytes(), collections.OrderedDict()
    assert not fuzzing.fault_of(lambda: READERS[name](root, model)), "the file itself"
    for seed in seeds:
        path.write_bytes(fuzzing.mutated(random.Random(f"{name} {seed}"), whole, name))
        if fault := fuzzing.fault_of(lambda: READERS[name](root, model)):
            found.setdefault(
                fault.partition(":")[0] + fault[fault.rfind("(") :], f"{seed}: {fault}"
            )
    return "\n".join(found.values())


@pytest.fixture(scope="module")
def fuzzing(load_helper):
    return load_helper("fuzzing.py")


@pytest.mark.parametrize("name", READERS)
def test_a_few_mutations_of_each_file(name, inputs, tiny_model, tmp_path, fuzzing):
    assert faults_of(name, range(8), inputs, tiny_model, tmp_path, fuzzing) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_three_hundred_mutations_of_each_file(name, inputs, tiny_model, tmp_path, fuzzing):
    count = int(os.environ.get("BERTJAX_MUTATIONS", "300"))
    assert faults_of(name, range(100, 100 + count), inputs, tiny_model, tmp_path, fuzzing) == ""

"""RoBERTa in Hugging Face's layout; tests/parity/test_families.py compares with transformers."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

import bertjax as bj
from bertjax.cli import run
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.features import make_windows
from bertjax.tasks.question_answering.squad import Answer, Question

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = ["the film was great .", "the film was awful .", "a plot"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A RoBERTa with all heads."""
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(
        TEXTS * 2, vocab_size=280, special_tokens=SPECIALS, show_progress=False
    )
    directory = tmp_path_factory.mktemp("tokenizer")
    library.save_model(str(directory))
    tokenizer = bj.load_tokenizer(directory)
    config = bj.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        type_vocab_size=1,
        position_offset=2,
    )
    heads = ("mlm", "nsp", "classifier", "qa_outputs")
    params = jax.jit(lambda key: bj.init_params(config, key, heads=heads))(jax.random.key(0))
    return Pretrained(config, params, tokenizer)


def saved(model, path, kind):
    """Writes the model as one of a kind."""
    bj.save_pretrained(path, dataclasses.replace(model, task={"kind": kind}))
    return path


def fields_of(path):
    return json.loads((path / "config.json").read_text())


@pytest.mark.parametrize(
    ("kind", "architecture", "held", "absent"),
    [
        ("masked_lm", "ForMaskedLM", "lm_head.layer_norm.weight", "roberta.pooler"),
        ("sequence_classification", "ForSequenceClassification", "classifier.out_proj.bias", "lm_"),
        ("token_classification", "ForTokenClassification", "classifier.weight", "roberta.pooler"),
        ("question_answering", "ForQuestionAnswering", "qa_outputs.weight", "roberta.pooler"),
        ("encoder", "Model", "pooler.dense.bias", "roberta."),
    ],
)  # fmt: skip
def test_it_is_written_as_a_roberta(roberta, tmp_path, kind, architecture, held, absent):
    path = saved(roberta, tmp_path / "model", kind)
    fields = fields_of(path)
    assert fields["architectures"] == [f"Roberta{architecture}"]
    assert fields["model_type"] == "roberta" and fields["max_position_embeddings"] == 18
    assert fields["pad_token_id"] == 1 and "position_offset" not in fields
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    assert held in tensors and not any(name.startswith(absent) for name in tensors)
    read = bj.from_pretrained(path)
    assert (read.config, read.kind) == (roberta.config, kind)
    for part, tree in read.params.items():
        jax.tree.map(np.testing.assert_array_equal, tree, roberta.params[part])
    assert read.tokenizer.sha256 == roberta.tokenizer.sha256


def test_the_first_token_has_the_position_after_the_padding(roberta):
    inputs = roberta.tokenizer.batch(TEXTS)
    state = bj.encode(roberta.params, inputs, roberta.config).last_hidden_state
    plain = dataclasses.replace(roberta.config, position_offset=0)
    embeddings = dict(roberta.params["embeddings"])
    table = embeddings["position_embeddings"]["embedding"]
    assert table.shape == (18, 16)
    embeddings["position_embeddings"] = {"embedding": table[2:]}
    same = bj.encode({**roberta.params, "embeddings": embeddings}, inputs, plain)
    np.testing.assert_array_equal(same.last_hidden_state, state)


def test_an_old_pooler_beside_a_classifier_is_left_out(roberta, tmp_path):
    path = saved(roberta, tmp_path / "model", "sequence_classification")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    more = {
        f"roberta.pooler.dense.{n}": -tensors[f"classifier.dense.{n}"] for n in ("weight", "bias")
    }
    safetensors.numpy.save_file({**tensors, **more}, path / "model.safetensors")
    read = bj.from_pretrained(path)
    jax.tree.map(np.testing.assert_array_equal, read.params["pooler"], roberta.params["pooler"])


def refusal(function, *arguments):
    with pytest.raises(bj.UserError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["pretraining", "next_sentence"])
def test_a_head_that_no_roberta_has_is_refused_by_name(roberta, tmp_path, kind):
    said = refusal(saved, roberta, tmp_path / "model", kind)
    assert "no RoBERTa has a next-sentence head" in said
    assert not (tmp_path / "model").exists()


def test_a_roberta_with_the_vocabulary_of_a_bert_is_one_sentence(
    roberta, tiny_tokenizer, tmp_path, capsys
):
    path = saved(roberta, tmp_path / "model", "masked_lm")
    for name in ("tokenizer.json", "tokenizer_config.json", "bertjax_sha256.json"):
        (path / name).unlink()
    tiny_tokenizer.save(path)
    (tmp_path / "lines.txt").write_text("a [MASK]\n")
    assert run(["predict", str(path), str(tmp_path / "lines.txt")]) == 2
    error = capsys.readouterr().err
    assert "a RoBERTa reads byte-level BPE, and this vocabulary is wordpiece" in error
    other = dataclasses.replace(roberta, tokenizer=tiny_tokenizer)
    assert "reads byte-level BPE" in refusal(saved, other, tmp_path / "other", "masked_lm")


def test_what_no_roberta_is_is_refused(roberta, tmp_path):
    tanh = dataclasses.replace(
        roberta, config=dataclasses.replace(roberta.config, hidden_act="relu")
    )
    said = refusal(saved, tanh, tmp_path / "model", "masked_lm")
    assert "no RoBERTa has hidden_act 'relu' in the head of a masked LM" in said
    path = saved(roberta, tmp_path / "model", "encoder")
    (path / "bertjax_sha256.json").unlink()
    original = fields_of(path)
    for change, sentence in (
        ({"pad_token_id": 3}, "pads with the id 1 and the model with 3"),
        ({"pad_token_id": None}, "pad_token_id is None"),
        ({"max_position_embeddings": 1}, "max_position_embeddings 1"),
    ):
        (path / "config.json").write_text(json.dumps({**original, **change}))
        assert sentence in refusal(bj.from_pretrained, path), change
        (path / "config.json").write_text(json.dumps(original))


def test_the_command_line_fine_tunes_predicts_and_converts_one(roberta, tmp_path, capsys):
    source = saved(roberta, tmp_path / "model", "masked_lm")
    rows = "text\tpair\tlabel\n" + "the film\tgreat\tpos\nthe plot\tawful\tneg\n" * 8
    (tmp_path / "train.tsv").write_text(rows)
    files = [f"--{name}={tmp_path}/train.tsv" for name in ("train", "dev")]
    options = ["--max_seq_length=16", "--epochs=1", "--batch_size=8", f"--workdir={tmp_path}/run"]
    assert run(["finetune", f"--model={source}", *files, *options]) == 0
    assert fields_of(tmp_path / "run/export")["architectures"] == [
        "RobertaForSequenceClassification"
    ]
    for model, line in ((tmp_path / "run", "the film\tgreat"), (source, "the [MASK] was")):
        (tmp_path / "lines.txt").write_text(line + "\n")
        assert run(["predict", str(model), str(tmp_path / "lines.txt")]) == 0
    assert run(["convert", str(source), str(tmp_path / "copy")]) == 0
    files = [path / "model.safetensors" for path in (source, tmp_path / "copy")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert run(["convert", str(source), str(tmp_path / "tf1"), "--to=tf1"]) == 2
    assert "needs a BERT with position_offset 0" in capsys.readouterr().err


def test_questions_and_documents_are_separated_as_pairs_are(roberta):
    tokenizer = roberta.tokenizer
    question = Question("q", "the plot", "the film was great .", (Answer("great", 13),))
    options = QuestionAnsweringConfig()
    windows = make_windows(
        [question], tokenizer, options, max_seq_length=40, has_unanswerable=False
    )
    expected = tokenizer.encode(question.question, question.context)
    batch = windows.batch(np.arange(1), int(windows.lengths[0]))
    assert batch["input_ids"][0].tolist() == expected.ids
    assert not batch["token_type_ids"].any() and windows.lengths[0] == len(expected.ids)
    place = expected.offsets[batch["start_position"][0]]
    assert question.context[slice(*place)].startswith("g")

"""Mistakes in commands of sequence-to-sequence tasks: one sentence, exit code 2, no training."""

import contextlib
import dataclasses
import json
import pathlib

import jax
import pytest

from bertjax import cli
from bertjax.config import EncoderDecoderConfig
from bertjax.interop.huggingface import save_pretrained
from bertjax.model import bert, encoder_decoder
from bertjax.model.generation_config import GenerationConfig
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.reading import recorded_options

PAIRS = [("a good film", "good"), ("a film", "one two three ."), ("the plot", "bad")]


def write_pairs(path, pairs):
    rows = ({"source": source, "target": target} for source, target in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory, tiny_model):
    """What commands name: files, models of 27 tokens and 40 positions, a run that must not be."""
    directory = tmp_path_factory.mktemp("mistakes")
    for suffix, lines in (("de", "eins\nzwei\n"), ("en", "one\n")):
        (directory / f"parallel.{suffix}").write_text(lines)
    save_pretrained(directory / "model", tiny_model)
    shape = dataclasses.replace(tiny_model.config, vocab_size=28)
    wide = dataclasses.replace(
        tiny_model, config=shape, params=bert.init_params(shape, jax.random.key(0))
    )
    save_pretrained(directory / "wide", wide)
    options = Seq2SeqConfig(max_target_length=8, generation=GenerationConfig(8, num_beams=2))
    for architecture, kind in (("encoder_decoder", "encoder_decoder"), ("prefix", "masked_lm")):
        record = {"kind": kind, "task": "seq2seq", "max_seq_length": 16}
        model = dataclasses.replace(tiny_model, task={**record, **recorded_options(options)})
        if architecture == "encoder_decoder":
            config = EncoderDecoderConfig(tiny_model.config, tiny_model.config)
            params = encoder_decoder.init_params(config, jax.random.key(0))
            model = dataclasses.replace(model, config=config, params=params)
        save_pretrained(directory / architecture, model)
    return {
        "train": write_pairs(directory / "train.jsonl", PAIRS),
        "empty": write_pairs(directory / "empty.jsonl", [*PAIRS, ("one", " ")]),
        **{
            name: str(directory / name)
            for name in ("parallel", "model", "wide", "encoder_decoder", "prefix", "run")
        },
    }


def told(words, paths, capsys):
    """Runs a command with a mistake; returns the sentence."""
    words = [word.format(**paths) for word in words.split()]
    with contextlib.suppress(SystemExit):
        assert cli.run(words) == 2
    return capsys.readouterr().err


MISTAKES = {
    "--train {empty}": "empty.jsonl:4: the target is empty; write it, or remove the row",
    "--target-column summary": "train.jsonl:1: no column 'summary'; the columns are 'source', 'ta",
    "--max-target-length 4": "train.jsonl:2: the target has more than --max-target-length 4 "
    "tokens, like 1 of 3 targets: raise it, or set --truncate-targets",
    "--max-target-length 41": "--max-target-length is 41, and the decoder has 40 positions: lower",
    "--max-length 41": "--max-length is 41, and the decoder has 40 positions: lower it",
    "--max-length 14 --architecture prefix": "--max-length is 14, which leaves 2 of the 16 tokens",
    "--num-beams 28": "--num-beams 28 exceeds the 27 entries of the vocabulary: give fewer beams",
    "--min-length 9": "--min-length 9 exceeds --max-length 8: lower it",
    "--temperature 2": "--temperature has no effect on a search: set --do-sample, or leave it out",
    "--decoder {wide} --share embeddings": "The encoder has the vocab_size 27 and the decoder 28: "
    "they can't share weights",
    "--decoder {wide} --share all": "--decoder names another model, and with --share all the dec",
    "--decoder {run}": "run: holds no config.json with model.safetensors",  # its own workdir
    "--architecture prefix --decoder {wide}": "and the architecture prefix has one BERT for both",
    "--model {encoder_decoder} --share all": "The model is an encoder-decoder already, and --share",
    "--model {encoder_decoder} --architecture prefix": "--architecture is prefix, and the model is",
    "--lora.rank 2": "--lora.rank adapts a BERT and not an encoder-decoder",
    "--train {parallel} --source-column de --target-column en": "parallel.de has 2 lines and",
    "--tokenize 13a": "--tokenize is '13a', which ROUGE does not have: give one of english, words",
    "--text-column source": "--text-column is an option of the tasks classification, embedding,",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_in_training(paths, words, capsys):
    command = (
        "finetune --task seq2seq --model {model} --train {train} --dev {train} --workdir {run} "
        "--max-seq-length 16 --max-target-length 8 --max-length 8 "
    )
    sentence = told(command + words, paths, capsys).strip().split("\n")[-1]
    assert sentence.startswith("bertjax: ") and MISTAKES[words] in sentence
    assert not pathlib.Path(paths["run"]).exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("predict {encoder_decoder} --max-length 41", "--max-length is 41, and the decoder has 40"),
        ("predict {prefix} --max-length 14", "--max-length is 14, which leaves 2 of the 16 tokens"),
        ("predict {prefix} --num-beams 28", "--num-beams 28 exceeds the 27 entries of the vocabul"),
        ("predict {prefix} --n-best 3", "--n-best 3 exceeds --num-beams 2"),
        ("predict {prefix} --regression", "predict has no --regression"),
        ("predict {model} --num-beams 2", "--num-beams is an option of the task seq2seq, and the"),
        ("evaluate {prefix} {train} --target-column x", "train.jsonl:1: no column 'x'"),
        ("evaluate {prefix} {train} --label-column x", "--label-column is an option of the task"),
        ("evaluate {model} {train}", "The model does pretraining, which evaluate can't"),
    ],
)
def test_a_mistake_in_prediction_or_evaluation(paths, words, sentence, capsys):
    assert sentence in told(words, paths, capsys)


def test_an_encoder_decoder_classifies_nothing(paths, capsys):
    command = (
        "finetune --task classification --model {encoder_decoder} --train {train} --dev {train} "
        "--workdir {run} --text-column source --label-column target"
    )
    sentence = "The model is an encoder-decoder, and the task classification needs a BERT: give one"
    assert sentence in told(command, paths, capsys)

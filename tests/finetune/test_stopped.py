"""A fine-tuning run that has not ended is the model of its newest checkpoint."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from bertjax import cli
from bertjax.convert.run import ConvertConfig, convert
from bertjax.errors import UserError
from bertjax.finetune.run import finetune
from bertjax.interop.huggingface import from_pretrained, save_pretrained
from bertjax.train.lora import LoraConfig


def quiet(line):
    del line


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def stopped(finished, tmp_path):
    """The run of one epoch as it is before its end, and its export beside it."""
    shutil.move(tmp_path / "run" / "export", tmp_path / "export")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


def test_it_is_what_its_export_will_be(stopped, tmp_path, straight):
    told = []
    model, exported = (
        from_pretrained(stopped, log=told.append),
        from_pretrained(tmp_path / "export"),
    )
    assert told == [f"{stopped}: the run has not ended; the model of step 4 of seed-0 is read."]
    assert (model.config, model.task) == (exported.config, exported.task)
    assert model.tokenizer.sha256 == exported.tokenizer.sha256
    assert same({name: model.params[name] for name in exported.params}, exported.params)


def test_every_verb_reads_it(stopped, tmp_path, straight, files, capsys, caplog):
    (tmp_path / "lines.txt").write_text("the film was good .\n")
    lines = str(tmp_path / "lines.txt")
    assert cli.run(["predict", str(stopped), lines]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["label"] in ("neg", "pos")
    assert cli.run(["evaluate", str(stopped), files["dev"]]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[0])
    assert scores == pytest.approx({"examples": 21, **straight.seeds[0].metrics}, rel=1e-5)
    assert cli.run(["embed", str(stopped), lines]) == 0
    assert cli.run(["convert", str(stopped), str(tmp_path / "out")]) == 0
    assert "the model of step 4 of seed-0 is read" in capsys.readouterr().out
    assert caplog.text.count("the model of step 4 of seed-0 is read") == 3
    assert same(from_pretrained(tmp_path / "out").params, from_pretrained(stopped).params)
    with pytest.raises(UserError, match="is a run, and no other implementation has its weights"):
        convert(ConvertConfig(str(stopped), str(tmp_path / "new"), verify=True), quiet)


def test_a_finished_run_that_goes_on_is_read_where_it_is(finished, tmp_path):
    def log(line):
        if line.startswith("step  6/12"):
            os.kill(os.getpid(), signal.SIGTERM)

    more = dataclasses.replace(finished, epochs=3, log_every=1)
    assert finetune(more, log, progress=False).stopped
    notes = []
    model = from_pretrained(finished.workdir, log=notes.append)
    step = int(max((tmp_path / "run/seed-0/checkpoints").iterdir(), key=lambda p: int(p.name)).name)
    assert step > 4
    assert notes == [
        f"{finished.workdir}: the run has not ended; the model of step {step} of seed-0, which is "
        "newer than export/, is read."
    ]
    assert not same(model.params, from_pretrained(tmp_path / "run" / "export").params)
    finetune(more, quiet, progress=False)
    assert from_pretrained(finished.workdir, log=pytest.fail).task["task"] == "classification"


def test_of_several_seeds_the_first_with_the_most_steps_is_read(stopped, short, tmp_path):
    seeds = [tmp_path / f"run/seed-{seed}/checkpoints" for seed in range(3)]
    for other in seeds[1:]:
        shutil.copytree(seeds[0], other)
    for name, wanted in ((None, "seed-0"), (seeds[0], "seed-1"), (seeds[1], "seed-2")):
        if name:
            shutil.rmtree(name / "4")
        told = []
        from_pretrained(stopped, log=told.append)
        assert told[-1].endswith(f"the model of step 4 of {wanted} is read.")
    for file in (seeds[2] / "4").rglob("d/*"):
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"step 4 in .* is damaged"):
        from_pretrained(stopped, log=quiet)


def test_a_changed_label_or_vocabulary_is_told(stopped):
    for name, said in (
        ("task.json", r"task.json: damaged \(task.json does not have the checksum"),
        ("tokenizer/vocab.txt", "tokenizer: not the vocabulary that the run was trained with"),
    ):
        file = stopped / name
        text = file.read_text()
        file.write_text(text.replace('"pos"', '"sop"') if "json" in name else text + "new\n")
        with pytest.raises(UserError, match=said):
            from_pretrained(stopped)
        file.write_text(text)
    from_pretrained(stopped)


def test_adapters_are_merged_into_the_model_that_they_were_trained_on(short, tmp_path, tiny_model):
    save_pretrained(tmp_path / "model", tiny_model)
    config = dataclasses.replace(
        short, model=str(tmp_path / "model"), workdir=str(tmp_path / "run"), lora=LoraConfig(rank=4)
    )
    exported = from_pretrained(finetune(config, quiet, progress=False).export)
    shutil.rmtree(tmp_path / "run" / "export")
    params = from_pretrained(tmp_path / "run").params
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: params[name] for name in exported.params},
        exported.params,
    )
    other = dataclasses.replace(tiny_model, params=jax.tree.map(lambda x: x + 1, tiny_model.params))
    save_pretrained(tmp_path / "model", other)
    with pytest.raises(UserError, match=r"hold adapters of .*model, whose weights have changed"):
        from_pretrained(tmp_path / "run")


def test_a_run_without_a_checkpoint_is_none(stopped):
    shutil.rmtree(stopped / "seed-0" / "checkpoints" / "4")
    with pytest.raises(UserError, match="a run that has saved neither a checkpoint nor export/"):
        from_pretrained(stopped)

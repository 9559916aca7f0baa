"""The steps that fine-tuning recipes are planned by, against those that runs compile."""

import dataclasses

import jax
import pytest

import bertjax as bj
from bertjax import cli
from bertjax.finetune.run import read_task
from bertjax.finetune.trainer import Trainer
from bertjax.model import bert
from bertjax.plan import run
from bertjax.plan.config import FinetunePlan, GluePlan
from bertjax.plan.finetuning import finetuning_step, glue_step
from bertjax.train import sharding

ROWS = "a good film , a good film\tpos\n" * 11 + "the film was bad\tneg\n" * 10


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory):
    """A model, 21 rows of two lengths, and these as GLUE's SST-2."""
    root = tmp_path_factory.mktemp("planned")
    bj.save_pretrained(root / "model", tiny_model)
    (root / "rows.tsv").write_text("text\tlabel\n" + ROWS)
    (root / "glue" / "SST-2").mkdir(parents=True)
    rows = ROWS.replace("\tpos", "\t1").replace("\tneg", "\t0")
    for name in ("train.tsv", "dev.tsv"):
        (root / "glue" / "SST-2" / name).write_text("sentence\tlabel\n" + rows)
    return root


@pytest.fixture
def config(files):
    rows = str(files / "rows.tsv")
    fields = {"batch_size": 8, "accumulation": 2, "epochs": 2, "max_seq_length": 32}
    return FinetunePlan(str(files / "model"), rows, rows, **fields)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


def test_the_step_is_that_of_a_run_and_its_largest_batch(config, mesh, tiny_model):
    step = finetuning_step(config, mesh)
    task = read_task(config, tiny_model, str)
    trainer = Trainer(config, tiny_model, task, str, False, mesh=mesh)
    assert step.function is trainer.programs.train_step  # programs are cached by all they depend on
    schedule = trainer.schedule(trainer.settings[0])
    batches = [trainer.batch(0, schedule, at) for at in range(schedule.epoch_steps)]
    widest = max(batches, key=lambda batch: batch["input_ids"].shape[1])
    state, batch, hyperparameters = step.arguments
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), widest
    )
    taken = trainer.hyperparameters(0, schedule)
    assert [each.dtype for each in hyperparameters[:4]] == [each.dtype for each in taken[:4]]
    assert state is trainer.programs.abstract_state
    assert (step.facts["rows"], step.facts["length"]) == (8, widest["input_ids"].shape[1])
    assert step.facts["steps"] == schedule.steps == 6


def test_a_grid_and_seeds_add_their_steps(config, mesh):
    grid = dataclasses.replace(config, seeds=(0, 1, 2), epoch_counts=(1, 3))
    assert finetuning_step(grid, mesh).facts["steps"] == (3 + 9) + 2 * 9


def test_the_base_of_adapters_is_an_argument(config, mesh):
    adapted = dataclasses.replace(config, lora=bj.LoraConfig(rank=2))
    step = finetuning_step(adapted, mesh)
    assert set(step.arguments[0].params) == {"pooler", "classifier", "lora"}
    assert set(step.arguments[2].base) == {"embeddings", "encoder"}
    step.function.trace(*step.arguments)


def test_the_outputs_of_a_teacher_are_in_the_batch(config, files, mesh, tiny_model):
    params = bert.init_task_params(
        tiny_model.config, jax.random.key(0), "sequence_classification", 2, whole=True
    )
    task = {"kind": "sequence_classification", "labels": ["neg", "pos"]}
    teacher = dataclasses.replace(tiny_model, params=params, task=task)
    bj.save_pretrained(files / "teacher", teacher)
    taught = dataclasses.replace(config, teacher=str(files / "teacher"))
    step = finetuning_step(taught, mesh)
    assert step.arguments[1]["teacher_logits"].shape == (8, 2)
    step.function.trace(*step.arguments)


def test_glue_counts_the_steps_of_all_tasks(files, mesh):
    glue = GluePlan(str(files / "glue"), str(files / "model"), seeds=(0, 1), batch_size=8)
    step = glue_step(dataclasses.replace(glue, max_seq_length=32), mesh)
    assert step.facts["steps"] == 2 * 3 * 3
    with pytest.raises(bj.UserError, match="no task can be trained"):
        glue_step(dataclasses.replace(glue, tasks=("RTE",)), mesh)


RECIPES = {
    "finetuning": "config = bj.FinetuneConfig('nowhere', 'a.csv', 'b.csv', batch_size=6)\n",
    "glue": "config = bj.GlueConfig('glue', 'nowhere')\n",
}


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("finetuning", ["--batch-size", "0"], "--batch-size is 0: give at least 1."),
        ("finetuning", ["--phase", "2"], "has no --phase"),
        ("finetuning", ["--doc-stride", "2"], "--doc-stride is an option of the task question"),
        ("finetuning", ["--slices", "0"], "--mesh.slices is 0: give at least 1."),
        ("glue", ["--search"], "--search tries microbatches, which GLUE's runs lack"),
        ("glue", ["--json"], "glue: no such directory; give that of GLUE"),
        ("finetuning", ["--json"], "nowhere"),
    ],
)
def test_mistakes_are_sentences(recipe, words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "require_libtpu", lambda: None)
    monkeypatch.setattr("bertjax.plan.compile.topology_devices", lambda _: jax.devices()[:1])
    path = tmp_path / "recipe.py"
    path.write_text("import bertjax as bj\n" + RECIPES[recipe])
    assert cli.run(["plan", str(path), "--topology", "v5e:1x1", *words]) == 2
    assert told in capsys.readouterr().err


def test_help_is_that_of_the_recipe(tmp_path, capsys):
    path = tmp_path / "recipe.py"
    path.write_text("import bertjax as bj\n" + RECIPES["finetuning"])
    with pytest.raises(SystemExit):
        cli.run(["plan", str(path), "--help"])
    told = capsys.readouterr().out
    assert "--topology" in told and "--accumulation" in told
    assert "--phase" not in told

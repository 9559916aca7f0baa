"""Two phases in one run: short rows, then long ones."""

import dataclasses
import json
import runpy
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax import parsing
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.pretrain import run as runs
from bertjax.pretrain.config import ModelConfig, PretrainConfig, SecondPhase
from bertjax.pretrain.phases import run_schedule
from bertjax.pretrain.program import build
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.loop_config import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.schedules import make_schedule

FIRST, STEPS = 5, 9
LOOP = LoopConfig(train_steps=STEPS, log_every=1, eval_every=0, save_every=2, keep_last=9)


def silent(line):
    del line


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of 16 and of 32 tokens of the same text."""
    root = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]
    documents = [
        "\n".join(" ".join(rng.choice(words, 6)) + "." for _ in range(8)) for _ in range(60)
    ]
    (root / "text.txt").write_text("\n\n".join(documents))
    text, tokenizer = (str(root / "text.txt"),), str(root / "tokenizer")
    train_tokenizer(TokenizerConfig(text, tokenizer, vocab_size=150), silent)
    prepare(
        PrepareConfig(text, tokenizer, str(root), max_seq_length=(16, 32), held_out=0.1), silent
    )
    return root


@pytest.fixture(scope="module")
def recipe(data, tiny_shape):
    def make(workdir, **changes):
        fields = {
            "data": str(data / "16"),
            "workdir": str(workdir),
            "model": tiny_shape,
            "batch_size": 8,
            "eval_examples": 8,
            "loop": LOOP,
            "optimizer": OptimizerConfig(
                learning_rate=3e-3,
                schedule="constant",
                warmup_steps=0,
                weight_decay=0.0,  # so that what no row reaches stays as it is
            ),
            "second": SecondPhase(
                data=str(data / "32"),
                after_steps=FIRST,
                batch_size=4,
                accumulation=2,
                learning_rate=1e-3,
                warmup_steps=0,
            ),
        }
        return PretrainConfig(**{**fields, **changes})

    return make


class Watched:
    """Builds programs as a run does, and sees what becomes of their steps."""

    def __init__(self):
        self.programs, self.donated = [], []

    def __call__(self, *arguments, **named):
        program = build(*arguments, **named)
        self.programs.append(program)

        def step(state, *inputs):
            before = jax.tree.leaves(state)
            done = program.step(state, *inputs)
            self.donated.append(all(leaf.is_deleted() for leaf in before))
            return done

        return program._replace(step=step)

    def compiled(self):
        """How often each phase's step and its evaluation were compiled."""
        return [(made.step._cache_size(), made.eval_step._cache_size()) for made in self.programs]


@pytest.fixture(scope="module")
def watched():
    return Watched()


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory, watched):
    """(run directory, its lines, its result) of a run that nothing interrupted."""
    workdir, lines = tmp_path_factory.mktemp("straight") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build", watched)
        return workdir, lines, runs.pretrain(recipe(workdir), lines.append)


def test_each_phase_is_compiled_once_and_donates_its_state(straight, watched):
    assert watched.compiled() == [(1, 1), (1, 1)]
    # On a CPU a checkpoint is written from the very arrays, which the step after it has to leave.
    saved = {2, 4, FIRST, 6, 8}
    assert all(given for step, given in enumerate(watched.donated) if step not in saved)
    assert len(watched.donated) == STEPS


def arrays(workdir):
    meta = workdir / "checkpoints" / str(STEPS) / "meta" / "metadata"
    return json.loads(meta.read_text())["arrays"]


def positions(path):
    params = bj.from_pretrained(str(path)).params
    return np.asarray(params["embeddings"]["position_embeddings"]["embedding"])


def test_lines_and_records_say_the_phase(straight):
    _, lines, result = straight
    assert any(
        line.startswith("Phase 1: ") and f" of 16 tokens: {FIRST} steps of 8 " in line
        for line in lines
    )
    assert any(
        line.startswith("Phase 2: ") and f" of 32 tokens: {STEPS - FIRST} steps of 4 " in line
        for line in lines
    )
    (one,) = (line for line in lines if line.startswith(f"step {FIRST}/{STEPS}"))
    (two,) = (line for line in lines if line.startswith(f"step {FIRST + 1}/{STEPS}"))
    assert "phase 1" in one and "phase 2" in two
    phases = {(r["kind"], r["step"]): r["phase"] for r in result.history}
    expected = {("train", n): "1" if n <= FIRST else "2" for n in range(1, STEPS + 1)}
    assert phases == {**expected, ("eval", FIRST): "1", ("eval", STEPS): "2"}
    # The first step of a phase compiles, so that its time says nothing of the speed.
    timed = [r["step"] for r in result.history if "tokens_per_second" in r]
    assert timed == [2, 3, 4, 5, 7, 8, 9]
    assert not any("Warning: positions" in line for line in lines)  # 32 are all that the model has


@pytest.mark.parametrize("step", [FIRST - 1, FIRST + 3])
def test_resumed_in_either_phase_it_has_the_same_bits(
    recipe, straight, tmp_path, killing, monkeypatch, step
):
    workdir, lines, watched = tmp_path / "run", [], Watched()
    monkeypatch.setattr(runs, "build", watched)
    shutil.copytree(straight[0], workdir)
    for saved in (workdir / "checkpoints").iterdir():
        if saved.name.isdigit() and int(saved.name) > step:
            shutil.rmtree(saved)
    runs.pretrain(recipe(workdir), lines.append)
    assert f"Resumed at step {step} of {STEPS}." in lines
    first = (1, 1) if step < FIRST else (0, 0)  # nothing for a phase that is over
    assert watched.compiled() == [first, (1, 1)]
    assert arrays(workdir) == arrays(straight[0])
    one, two = (killing.records_in_hex(run / "metrics.jsonl") for run in (workdir, straight[0]))
    assert one == two


def test_a_finished_run_goes_on_with_a_second_phase(recipe, straight, tmp_path):
    workdir, lines = tmp_path / "run", []
    short = dataclasses.replace(LOOP, train_steps=FIRST)
    alone = recipe(workdir, loop=short, second=SecondPhase())
    export = runs.pretrain(alone, lines.append).export
    warnings = [line for line in lines if line.startswith("Warning: positions 16 to 31 of the ")]
    assert len(warnings) == 2 and "`second.data`" in warnings[0]
    fresh = runs.build(alone, *_of(straight[0])).init().params
    began = fresh["embeddings"]["position_embeddings"]["embedding"]
    np.testing.assert_array_equal(positions(export)[16:], began[16:])
    assert (positions(export)[:16] != began[:16]).any(axis=-1).all()

    result = runs.pretrain(recipe(workdir), lines.append)
    assert any(f"Resumed at step {FIRST} of {STEPS}; changed: " in line for line in lines)
    assert (positions(result.export) != began).any(axis=-1).all()
    # Another program until then, which rounds differently: not the same bits.
    assert result.metrics == pytest.approx(straight[2].metrics, rel=1e-3)


def _of(workdir):
    from bertjax.train.sharding import MeshConfig, make_mesh

    vocabulary = runs.Vocabulary.of(bj.load_tokenizer(str(workdir / "tokenizer")))
    return make_mesh(MeshConfig()), vocabulary, 16


@pytest.mark.parametrize(
    ("second", "named"),
    [
        ({"after_steps": 6}, "second.after_steps"),
        ({"batch_size": 8}, "second.batch_size"),
        ({"data": "16"}, "second.data"),
    ],
)
def test_a_second_phase_that_began_is_held(recipe, straight, data, second, named):
    before = dataclasses.asdict(recipe("").second)
    fields = {**before, **second, "data": str(data / second.get("data", before["data"][0]))}
    with pytest.raises(bj.UserError, match=named):
        runs.pretrain(recipe(straight[0], second=SecondPhase(**fields)), silent)


def test_rows_longer_than_the_model_are_refused(recipe, tmp_path, tiny_shape):
    shape = dataclasses.replace(tiny_shape, max_position_embeddings=16)
    with pytest.raises(bj.UserError, match="sequences of 32 tokens and the model has 16 positions"):
        runs.pretrain(recipe(tmp_path / "run", model=shape), silent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"batch_size": 4}, "`second.batch_size` is given and `second.data` is not"),
        ({"data": "x"}, "give `second.after_steps` as well"),
        (
            {"data": "x", "after_steps": STEPS},
            f"{STEPS} is not less than `loop.train_steps` {STEPS}",
        ),
        ({"data": "x", "after_steps": 2, "warmup_steps": 3}, "give `second.learning_rate` as well"),
        ({"data": "x", "after_steps": 2, "batch_size": 0}, "`second.batch_size` is 0"),
        ({"data": "x", "after_steps": 2, "accumulation": 3}, "`accumulation` 3 does not divide"),
    ],
)
def test_a_second_phase_that_makes_no_sense(recipe, fields, sentence):
    with pytest.raises(bj.UserError, match=sentence):
        recipe("run", second=SecondPhase(**fields))


def test_patience_that_might_end_a_run_before_its_second_phase_is_refused(recipe):
    sentence = r"^`loop\.patience` may end .*: leave out `loop\.patience` or `second\.data`\.$"
    with pytest.raises(bj.UserError, match=sentence):
        recipe("run", loop=dataclasses.replace(LOOP, patience=2))


def test_one_schedule_spans_both_phases_or_each_has_its_own(recipe):
    config = recipe("run", loop=LoopConfig(train_steps=100))
    peak, second = OptimizerConfig(learning_rate=1.0), SecondPhase("x", after_steps=90)
    config = dataclasses.replace(config, optimizer=peak)
    steps = np.arange(100)
    one = run_schedule(dataclasses.replace(config, second=second))
    np.testing.assert_array_equal(one(steps), make_schedule(peak, 100)(steps))
    own = dataclasses.replace(second, learning_rate=0.5, warmup_steps=2)
    two = np.asarray(run_schedule(dataclasses.replace(config, second=own))(steps))
    again = dataclasses.replace(peak, learning_rate=0.5, warmup_steps=2)
    np.testing.assert_array_equal(two[:90], make_schedule(peak, 90)(steps[:90]))
    np.testing.assert_array_equal(two[90:], make_schedule(again, 10)(steps[:10]))
    long = dataclasses.replace(second, learning_rate=0.5, warmup_steps=10)
    with pytest.raises(bj.UserError, match=r"`second\.warmup_steps` is 10 and must be less than"):
        run_schedule(dataclasses.replace(config, second=long))


def test_flags_say_it_too(recipe, data):
    flags = ["--data", str(data / "16"), "--workdir", "run", "--loop.train-steps", "9"]
    flags += ["--second.data", str(data / "32"), "--second.after-steps", "5"]
    config = parsing.parse_recipe(PretrainConfig, "pretrain", flags)
    assert config.second == SecondPhase(str(data / "32"), after_steps=5)
    assert ModelConfig() == config.model


def test_the_recipes_have_the_schedules_of_their_sources():
    def rate_of(name):
        recipe = Path(__file__).parents[2] / "experiments" / f"{name}.py"
        return run_schedule(runpy.run_path(str(recipe))["config"])

    paper = rate_of("bert_base_paper")  # one line from 1e-4 at the beginning to 0 at a million
    assert float(paper(900_000)) == pytest.approx(1e-5, rel=1e-5)
    lamb = rate_of("bert_large_lamb")
    assert float(lamb(2_000)) == pytest.approx(6e-3 * (1 - 2_000 / 7_038) ** 0.5, rel=1e-5)
    assert float(lamb(7_038)) == 0  # warms up again
    assert float(lamb(7_238)) == pytest.approx(4e-3 * (1 - 200 / 1_563) ** 0.5, rel=1e-5)

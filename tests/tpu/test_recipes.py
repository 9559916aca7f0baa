"""The plans in the docstrings of recipes are what `bertjax plan` says."""

import ast
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

import bertjax as bj
from bertjax.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
_PLAN = re.compile(
    r"bertjax plan (?P<command>[^\n]+(?:\\\n[^\n]+)*)\n"
    r" +fits: (?P<peak>[\d.]+) of (?P<available>[\d.]+) GiB HBM, (?P<ms>[\d,.]+) ms a step"
    r"(?:, (?P<steps>[\d,]+) steps in (?P<hours>[\d,.]+) hours)?"
)


class Plan(NamedTuple):
    """A command in a docstring, and the numbers under it."""

    words: list[str]
    numbers: dict[str, str | None]


def plans():
    for recipe in sorted((ROOT / "experiments").glob("*.py")):
        for found in _PLAN.finditer(ast.get_docstring(ast.parse(recipe.read_text())) or ""):
            numbers = found.groupdict()
            words = shlex.split(numbers.pop("command").replace("\\\n", " "))
            yield pytest.param(Plan(words, numbers), id=" ".join(words[:5]).split("/")[-1])


@pytest.fixture
def data(request, tmp_path):
    """The words that give a recipe of fine-tuning its data, and a model of the same shape."""

    def words(recipe):
        if recipe not in ("squad_base.py", "glue.py"):
            return []
        folder = request.getfixturevalue("data_dir")
        kind = "cased" if recipe == "glue.py" else "uncased"
        vocabulary = tmp_path / "vocabulary"
        vocabulary.mkdir()
        text = (folder / "vocab" / f"bert-base-{kind}-vocab.txt").read_text()
        (vocabulary / "vocab.txt").write_text(text)
        casing = json.dumps({"do_lower_case": kind == "uncased"})
        (vocabulary / "tokenizer_config.json").write_text(casing)
        if recipe == "squad_base.py":
            rows = str(folder / "squad" / "train-part-v1.1.json")
            scratch = ["--from-scratch", "--model", "base", "--tokenizer", str(vocabulary)]
            return [*scratch, "--train", rows, "--dev", rows]
        tokenizer = load_tokenizer(vocabulary)
        config = bj.BertConfig.named("base", vocab_size=tokenizer.vocab_size)
        shapes = jax.eval_shape(lambda: bj.init_params(config, jax.random.key(0)))
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        bj.save_pretrained(tmp_path / "model", bj.Pretrained(config, params, tokenizer))
        return [str(folder / "glue"), "--tasks", "RTE", "--model", str(tmp_path / "model")]

    return words


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("plan", list(plans()))
def test_the_recipe_compiles_fits_and_takes_what_it_says(plan, data):
    recipe, *words = plan.words
    words = [recipe, *data(Path(recipe).name), *words, "--json"]
    command = [sys.executable, "-m", "bertjax", "plan", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=7000)
    assert done.returncode == 0, done.stderr[-4000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["fits"]
    seconds = facts["seconds"]["step"]
    found = {
        "peak": f"{facts['memory']['peak_gib']:.2f}",
        "available": f"{facts['memory']['available_gib']:.2f}",
        "ms": f"{seconds * 1e3:,.1f}",
        "steps": f"{facts['steps']:,}",
        "hours": f"{facts['steps'] * seconds / 3600:,.1f}",
    }
    if importlib.metadata.version("libtpu").startswith("0.0.42"):  # whose numbers they are
        told = {name: number for name, number in plan.numbers.items() if number is not None}
        assert {name: found[name] for name in told} == told


def test_every_pod_recipe_has_a_plan():
    named = {plan.values[0].words[0] for plan in plans()}
    recipes = ("bert_base_paper", "bert_base_v5e", "bert_large_lamb", "glue", "squad_base")
    assert {f"experiments/{name}.py" for name in recipes} <= named

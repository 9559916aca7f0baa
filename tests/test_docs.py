"""The documentation: links lead somewhere, and commands have verbs and flags that exist."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import re
import runpy
import shlex
from pathlib import Path

import pytest

from bertjax import cli
from bertjax.commands import flag
from bertjax.model.generation_config import GenerationConfig
from bertjax.parsing import parse_recipe
from bertjax.pretrain.config import PretrainConfig
from bertjax.tasks import kinds
from bertjax.text.tokenizer_base import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "experiments").glob("*.py"))
OWN_PROGRAMS = ("own_loop.py", "ordinal_regression.py")  # without a configuration
# Flags of other programs: WikiExtractor, tfds, TensorBoard, pip, pytest, tpu_setup.sh, benchmarks.
OTHERS = {
    *("--html-safe", "--no-templates", "--out_dir", "--logdir", "--editable", "--durations"),
    *("--dry-run", "--any-device", "--part", "--rounds", "--dtype", "--steps", "--length"),
    *("--batch", "--program", "--rows"),
    *("--type", "--rate", "--max-hours", "--spot", "--restarts"),
    "--learning-rate",  # without its group
}


def code_of(path):
    """The lines of a page, or of the docstring of a recipe, that may be commands."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text))
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`(bertjax [^`\n]*)`", text)])


def commands(path):
    """The words of each `bertjax` command, without pipes and comments."""
    for line in code_of(path).replace("\\\n", " ").splitlines():
        for command in re.findall(r"(?:^|\| )\s*(bertjax [a-z][^|<>#]*)", line):
            yield shlex.split(command)[1:]


@functools.cache
def help_of(*words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            code = cli.run([*words, "--help-all"])
        except SystemExit as stop:
            code = stop.code
    assert not code, words
    return output.getvalue()


def model_flags(verb):
    """The options of `predict` and `evaluate` that depend on the model; none of other verbs."""
    if verb not in ("predict", "evaluate"):
        return set()
    name = {"predict": "prediction", "evaluate": "evaluation"}[verb]
    fields = [dataclasses.fields(getattr(kinds.get(kind), name)) for kind in kinds.names()]
    return {flag(field.name) for each in fields for field in each}


@functools.cache
def all_flags():
    helps = [help_of(*verb.split()) for verb in cli.VERBS]
    helps += [help_of("finetune", "--task", kind) for kind in kinds.names()]
    helps.append(help_of("prepare", "--audit"))
    return {
        "--help",
        "--help-all",
        *model_flags("predict"),
        *re.findall(r"--[\w.-]+", " ".join(helps)),
    }


def test_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]
    named = re.findall(
        r"`((?:bertjax|tests|experiments|benchmarks|docs)/[\w./]+)", page.read_text()
    )
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: page.name)
def test_commands_have_verbs_and_flags_that_exist(page):
    for words in commands(page):
        verb = words[:2] if words[0] == "tokenizer" else words[:1]
        if page.suffix == ".py" and words[1:2] == [f"experiments/{page.name}"]:
            verb = words[:2]
        task = words[words.index("--task") + 1] if "--task" in words else "KIND"
        if task != "KIND":
            verb = [*verb, "--task", task]
        if "--audit" in words:
            verb = [*verb, "--audit"]
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        known = {"--help", "--help-all", *re.findall(r"--[\w.-]+", help_of(*verb))}
        assert flags <= known | model_flags(verb[0]), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_text_belong_to_some_verb(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    quoted = " ".join(re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", quoted)) - OTHERS <= all_flags()


def migrations():
    """The head and the cells of the right column of each table of docs/migration.md."""
    for table in re.findall(
        r"(?:^\|.*\n)+", (ROOT / "docs/migration.md").read_text(), re.MULTILINE
    ):
        head, _, *rows = [re.split(r"(?<!\\)\|", row)[2].strip() for row in table.splitlines()]
        yield head.strip("`"), rows


@pytest.mark.parametrize(("head", "cells"), list(migrations()), ids=lambda each: str(each)[:30])
def test_what_replaces_other_programs_exists(head, cells):
    found = 0
    for cell in cells:
        verb = head.split()[1:]
        for code in re.findall(r"`([^`]+)`", cell):
            words = code.split()
            if words[0] == "bertjax":
                verb = words[1:3] if words[1] == "tokenizer" else words[1:2]
            flags = {word for word in words if word.startswith("--")}
            assert not flags or flags <= set(re.findall(r"--[\w.-]+", help_of(*verb))), code
            found += bool(flags)
            if re.search(r"\bbj\.|model\.tokenizer", code):
                check_python(code)
                found += 1
    assert found > 2


def check_python(code):
    """The names of bertjax in an expression exist, and the functions take the keywords."""
    import bertjax

    names = {"bj": bertjax, "model.tokenizer": Tokenizer}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names:
            assert hasattr(names[ast.unparse(node.value)], node.attr), code
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("bj."):
            function = getattr(bertjax, ast.unparse(node.func)[3:].split(".")[0])
            taken = inspect.signature(function).parameters
            given = {keyword.arg for keyword in node.keywords}
            more = {field.name for field in dataclasses.fields(GenerationConfig)}
            assert given <= set(taken) | (more if "options" in taken else set()), code


def test_replacements_that_do_not_exist_are_found():
    for code in ("bj.fly(model)", "bj.embed(model, texts, fast=True)", "model.tokenizer.fly()"):
        with pytest.raises((AssertionError, AttributeError)):
            check_python(code)


def test_the_rows_of_the_speedrun_are_recipes():
    recipe = str(ROOT / "experiments/speedrun.py")
    for flags in runpy.run_path(recipe)["CHANGES"].values():
        parse_recipe(PretrainConfig, "pretrain", [recipe, *shlex.split(flags)])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipes_load(recipe):
    assert runpy.run_path(str(recipe)).get("config") or recipe.name in OWN_PROGRAMS

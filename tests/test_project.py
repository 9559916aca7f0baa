"""Tests the project as a whole: files, versions, imports, and what importing it loads."""

import ast
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tokenize
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bertjax"
HEAVY = {"grain", "huggingface_hub", "nltk", "orbax", "rouge_score", "sacrebleu", "tensorflow"}
HEAVY |= {"tensorflow_datasets", "torch"}
VERBS = (
    ["demo"],
    ["tokenizer", "train"],
    ["prepare"],
    ["pretrain"],
    ["plan"],
    ["convert"],
    ["finetune"],
    ["glue"],
    ["evaluate"],
    ["predict"],
    ["embed"],
    ["search"],
    ["probe"],
    ["report"],
    ["completion"],
)


def project_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def project_files() -> list[Path]:
    """Returns every file that git tracks or would add."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip(
            "not a git checkout, or git is not installed: which files are tracked is unknown"
        )
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    files = [ROOT / name for name in names.decode().split("\0") if name]
    assert len(files) > 20
    return [path for path in files if path.is_file()]


def tool(name: str) -> str:
    """Returns a program beside this interpreter, or else on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (the extra test brings it)")
    return found


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options
    )


# One character of each pattern is in brackets, so that this file does not match.
@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w.])/([w]ork|root|home/\w+|Users/\w+)/\w",
        r"/tm[p]/scratch",
        r"[p]ypi\.org|pythonhoste[d]\.org|registry\.np[m]js|deb\.debia[n]\.org|[-]-index-url",
    ],
    ids=["home directories", "scratch directories", "registries"],
)
def test_no_file_names_a_machine(pattern: str) -> None:
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_git_ignores_no_source() -> None:
    """A pattern such as `runs/` would ignore a package of that name too."""
    there = {path for room in ("bertjax", "tests") for path in (ROOT / room).rglob("*.py")}
    assert there <= set(project_files())


def test_no_file_and_no_function_is_too_long() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        text, name = path.read_text(), path.relative_to(ROOT)
        if (length := text.count("\n")) > 400:
            found.append(f"{name} has {length} lines (maximum 400)")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > 60:
                    found.append(f"{name}:{node.lineno}: {node.name} has {length} (maximum 60)")
    assert not found, "\n".join(found)


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components of more than one module."""
    reach = {module: set(targets) for module, targets in imports.items()}
    for middle in reach:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    components = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in reach
        if module in reach[module]
    }
    return [list(component) for component in sorted(components)]


def test_cycles_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": set(), "f": {"e"}}
    assert cycles(imports) == [["b", "c"]]
    assert cycles(imports | {"c": {"a"}}) == [["a", "b", "c"]]
    assert cycles(imports | {"c": {"e"}}) == []


def test_modules_import_each_other_in_no_cycle() -> None:
    """Imports in functions and under TYPE_CHECKING count; the package's lazy names do not."""
    graph = grimp.build_graph("bertjax", exclude_type_checking_imports=False)
    imports = {
        module: graph.find_modules_directly_imported_by(module) - {"bertjax"}
        for module in graph.modules - {"bertjax"}
    }
    # The graph has imports inside functions.
    assert "bertjax.demo.run" in imports["bertjax.cli"]
    assert len(imports) > 100
    found = cycles(imports)
    assert not found, "\n".join(" <-> ".join(component) for component in found)


# Flags of tfds, WikiExtractor and TensorBoard, which messages name.
FOREIGN_FLAGS = {"--data_dir", "--file_format", "--json", "--logdir", "--out_file_format"}
FOREIGN_FLAGS |= {"--dataset_version_dir"}
COMMAND_LINE = {"__main__.py", "cli.py", "completion.py", "flags.py"}
COMMAND_LINE |= {"model_verbs.py", "mistakes.py", "parsing.py", "task_options.py"}


def flags_named_in(source: str) -> list[str]:
    """Returns the flags in the strings and comments of a module, with their lines."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kinds = (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1))
        if token.type in kinds:
            for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", token.string):
                if flag.rstrip(".-") not in FOREIGN_FLAGS:
                    found.append(f"{token.start[0]}: {flag}")
    return found


def test_flags_are_found() -> None:
    source = (
        '# --fresh\nsay(f"{x}: give --loop.train-steps 1")\ny = "a--b -- c"\n"xprof --logdir."\n'
    )
    assert flags_named_in(source) == ["1: --fresh", "2: --loop.train-steps"]


def test_only_the_command_line_names_flags() -> None:
    """Other modules name configuration fields, which `flags.with_flags` replaces by flags."""
    found = [
        f"{path.relative_to(ROOT)}:{flag}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.name not in COMMAND_LINE
        for flag in flags_named_in(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_the_architecture_describes_every_module_as_its_docstring_does() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    described = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        room = re.match(r"`(.+?)/`", section)
        assert room, section[:80]
        for name, words in re.findall(r"^\| `(\w+\.py)` \| (.+) \|$", section, re.MULTILINE):
            described[f"{room[1]}/{name}"] = words
    expected = {}
    for path in PACKAGE.rglob("*.py"):
        summary = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        if path.name != "__init__.py" or path.parent == PACKAGE:
            expected[path.relative_to(ROOT).as_posix()] = summary.replace("\n", " ")
    assert described == expected


def test_versions_agree() -> None:
    version = project_table()["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert changelog.index("## [Unreleased]") > 0
    assert version in released[:1] or f"What will be {version}." in changelog
    import bertjax

    assert bertjax.__version__ == version


def test_every_import_is_a_declared_dependency() -> None:
    project = project_table()
    declared = list(project["dependencies"])
    for extra in ("demo", "hub", "seq2seq", "zst"):
        declared += project["optional-dependencies"][extra]
    normal = {re.split(r"[\[<>=; ]", name)[0].lower().replace("_", "-") for name in declared}
    distributions = importlib.metadata.packages_distributions()
    wanting = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - {"bertjax"}:
                if top in {*sys.stdlib_module_names, "compression"}:  # Python 3.14 has the latter
                    continue
                sources = {name.lower().replace("_", "-") for name in distributions.get(top, [])}
                if not sources & normal:
                    wanting.add(f"{path.relative_to(ROOT)}: {top}")
    assert not wanting


def loaded_by(code: str) -> set[str]:
    """Returns the top-level modules that a fresh interpreter has loaded when `code` reports."""
    report = (
        "import json, sys\n"
        "def report():\n"
        "    tops = sorted({name.split('.')[0] for name in sys.modules})\n"
        "    print('\\n' + json.dumps(tops))\n"
    )
    done = run(sys.executable, "-c", report + code, cwd=ROOT, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def help_of(verb: list[str]) -> str:
    return (
        f"sys.argv = ['bertjax', *{verb!r}, '--help']\n"
        "from bertjax.cli import main\n"
        "try:\n"
        "    code = main()\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        "assert not code, code\n"
        "report()\n"
    )


def test_the_package_runs_as_the_command_line() -> None:
    done = run(sys.executable, "-m", "bertjax", "--version", cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("bertjax ")


def test_importing_loads_nothing_heavy() -> None:
    modules = loaded_by("import bertjax; bertjax.encode; report()")
    assert "jax" in modules  # so the next line can fail
    assert not modules & HEAVY
    assert modules - loaded_by("import flax.linen; report()") == {"bertjax"}


@pytest.mark.parametrize("verb", [[], *VERBS], ids=lambda verb: " ".join(verb) or "bertjax")
def test_help_loads_nothing_heavy(verb: list[str]) -> None:
    modules = loaded_by(help_of(verb))
    assert not verb or "tyro" in modules  # so the next line can fail
    assert not modules & HEAVY
    assert verb or not modules & {"jax", "flax"}


def test_importing_bertjax_alone_loads_no_jax() -> None:
    modules = loaded_by("import bertjax; report()")
    assert "bertjax" in modules
    assert not modules & {*HEAVY, "jax", "flax"}


def test_reports_load_no_jax() -> None:
    modules = loaded_by("import bertjax.report.run; report()")
    assert "bertjax" in modules
    assert not modules & {*HEAVY, "jax", "flax"}


def test_ci_runs_every_slow_test_of_pre_training_and_the_demo() -> None:
    chosen = re.search(r"-m 'slow or not slow' -k '([\w ]+)'", (ROOT / ".ci" / "run").read_text())
    assert chosen is not None
    words = chosen[1].split(" or ")
    slow = re.compile(r"@pytest\.mark\.slow\n(?:@.*\n)*def (test_\w+)")
    for name in ("train/test_loop.py", "pretrain/test_pretrain.py", "demo/test_demo.py"):
        found = slow.findall((ROOT / "tests" / name).read_text())
        assert found
        assert all(any(word in test for word in words) for test in found), (name, found)


def test_every_public_name_is_there() -> None:
    import bertjax

    # Type checkers read imports, Python reads the table.
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    typed = next(node for node in body if isinstance(node, ast.If))
    imports = {(alias.name, node.module) for node in typed.body for alias in node.names}
    table = dict(bertjax._HOMES, linen="bertjax.model")
    assert imports == set(table.items())
    assert all(getattr(bertjax, name) is not None for name in bertjax.__all__)
    # The arguments of bertjax.fit.
    assert {"PretrainConfig", "FinetuneConfig"} <= set(bertjax.__all__)


def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [ROOT / "tpu_setup.sh", ROOT / "tpu_cloud.sh", ROOT / ".ci" / "run"]
    done = run(tool("shellcheck"), *map(str, scripts))
    assert done.returncode == 0, done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts and nothing else, so that new files are noticed."""
    for name in ("tpu_setup.sh", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_tpu_setup_dry_run_prints_the_steps_and_does_nothing(checkout: Path) -> None:
    environment = {
        **os.environ,
        "BERTJAX_PYTHON": sys.executable,
        "BERTJAX_VENV": "an environment",
        "BERTJAX_WORKDIR": "there",
    }
    before = sorted(checkout.rglob("*"))
    done = run("bash", "tpu_setup.sh", "--dry-run", cwd=checkout, env=environment)
    assert done.returncode == 0, done.stderr
    position = 0
    for step in (
        "-m venv 'an environment'",
        "--editable '.[tpu]'",
        "jax.devices()",
        "random.Random(0)",
        "bertjax' tokenizer train",
        "bertjax' prepare",
        "bertjax' pretrain",
        "--loop.train-steps 20",
    ):
        assert step in done.stdout[position:], f"{step} is missing, or not in its order"
        position = done.stdout.index(step, position)
    assert sorted(checkout.rglob("*")) == before


def test_tpu_setup_refuses_what_it_does_not_know(checkout: Path) -> None:
    done = run("bash", "tpu_setup.sh", "--dry", cwd=checkout)
    assert done.returncode == 2
    assert "--dry" in done.stderr
    done = run(
        "bash",
        "tpu_setup.sh",
        "--dry-run",
        cwd=checkout,
        env={**os.environ, "BERTJAX_PYTHON": "no-such-python"},
    )
    assert done.returncode == 2
    assert "no-such-python" in done.stderr
    assert "+ " not in done.stdout


def test_make_says_what_to_install(checkout: Path) -> None:
    done = run(tool("make"), "test", "PYTHON=no-such-python", "VENV=environment", cwd=checkout)
    assert done.returncode == 2
    assert "needs Python 3.11 or newer, which no-such-python is not" in done.stderr
    assert not (checkout / "environment").exists()


def test_make_help_names_every_target(checkout: Path) -> None:
    done = run(tool("make"), "help", cwd=checkout)
    assert done.returncode == 0, done.stderr
    for target in ("demo", "test", "check", "parity", "bench", "clean"):
        assert f"make {target}" in done.stdout

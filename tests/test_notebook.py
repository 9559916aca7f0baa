"""The notebook for Colab and Kaggle: its commands exist, and its cells run."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertjax import cli

NOTEBOOK = Path(__file__).resolve().parents[1] / "experiments" / "tpu_notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code")


def words_of(call):
    """The words of a call of `bertjax`; "0" for what is known when it runs."""
    for node in call.args:
        parts = getattr(node.value, "elts", [node]) if isinstance(node, ast.Starred) else [node]
        yield from (str(p.value) if isinstance(p, ast.Constant) else "0" for p in parts)


def test_it_has_no_outputs():
    assert not [c for c in CELLS if c.get("outputs") or c.get("execution_count")]


def test_its_commands_have_verbs_and_flags_that_exist(capsys):
    verbs = set()
    for call in ast.walk(ast.parse(CODE)):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "bertjax":
            continue
        words = list(words_of(call))
        verb = words[: 2 if words[0] == "tokenizer" else 1]
        with pytest.raises(SystemExit):
            cli.run([*verb, "--help-all"])
        text = capsys.readouterr().out
        assert not [word for word in words if word.startswith("--") and f"{word} " not in text]
        verbs.add(verb[0])
    assert verbs == {"doctor", "tokenizer", "prepare", "pretrain", "predict"}


@pytest.mark.slow
def test_its_cells_run_on_eight_devices(tmp_path):
    code = CODE
    for constant, small in (('SIZE = "mini"', 'SIZE = "tiny"'), ("STEPS = 2000", "STEPS = 4")):
        assert code.count(constant) == 1
        code = code.replace(constant, small)
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "PYTHONPATH": str(NOTEBOOK.parents[1]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 8 cpu devices" in done.stdout
    assert (tmp_path / "bert" / "run" / "export" / "model.safetensors").exists()

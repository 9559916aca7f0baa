"""The types of the public names, as pyright shows them to a user."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_types_of_a_users_program_and_of_the_recipes():
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    programs = ["tests/user_program.py", "experiments"]
    checked = subprocess.run([*command, *programs], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.startswith("0 errors, 0 warnings")

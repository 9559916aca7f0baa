"""Tests the completion of verbs and flags in a shell."""

import shutil
import subprocess

import pytest

from bertjax import cli

# Calls the function of a script as bash does when the tab key is pressed.
ASK = """
source "$1"; shift
function=$(complete -p bertjax | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(bertjax "$@"); COMP_CWORD=$#; COMPREPLY=()
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A function that prints the script for a shell into a file."""

    def write(shell, capsys):
        with pytest.raises(SystemExit) as stop:
            cli.run(["completion", shell])
        assert not stop.value.code
        path = tmp_path_factory.mktemp("completion") / shell
        path.write_text(capsys.readouterr().out)
        return path

    return write


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_verbs_flags_and_values(script, capsys):
    path = script("bash", capsys)

    def completed(*words):
        done = subprocess.run(
            ["bash", "-c", ASK, "ask", path, *words], capture_output=True, text=True, check=True
        )
        return set(done.stdout.split())

    assert completed("") >= {verb.split()[0] for verb in cli.VERBS}
    assert completed("tokenizer", "") >= {"train"}
    assert completed("pretrain", "--optimizer.learn") == {"--optimizer.learning-rate"}
    assert completed("pretrain", "--objective", "") >= {"nsp", "sop", "mlm", "rtd"}
    documents = {"--document-column", "--document-context", "--doc-stride"}
    assert completed("finetune", "--doc") == documents
    assert completed("predict", "--num-b") == {"--num-beams"}
    assert completed("prepare", "--aud") == {"--audit"}


def test_zsh_has_a_script_of_its_own(script, capsys):
    assert script("zsh", capsys).read_text().startswith("#compdef bertjax\n")

"""Signals at seeded moments of commands, from their first line to their exit, and commands that
share a directory. The same command goes on to the bits of one that nothing interrupted."""

import hashlib
import pathlib
import random
import signal
import sys
import time

import pytest

from bertjax.interop.huggingface import save_pretrained

# A shell ignores interrupts for background jobs, and their children inherit that.
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from bertjax.cli import main; main(sys.argv[1:])"
)
VERBS = ("prepare", "pretrain", "finetune")
# They hold times, or the settings of the command with the path of the directory.
_UNEQUAL = ("config.json", "result.json", "tensorboard", "checkpoints")


@pytest.fixture(scope="module")
def commands(tmp_path_factory, tiny_model, run_python):
    """Makes the words of a small command of each verb, for a directory."""
    root = tmp_path_factory.mktemp("inputs")
    save_pretrained(root / "model", tiny_model)
    rng, words = random.Random(0), ["good", "great", "fine", "bad", "awful", "poor", "a", "film"]
    sentences = [" ".join(rng.choices(words, k=8)) + "." for _ in range(4000)]
    documents = ["\n".join(sentences[at : at + 8]) for at in range(0, 4000, 8)]
    (root / "text.txt").write_text("\n\n".join(documents) + "\n")
    rows = [f"{rng.choice(words[:3])} film,pos\n{rng.choice(words[3:6])} a,neg" for _ in range(40)]
    (root / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    given: dict[str, dict] = {
        "prepare": {"input": root / "text.txt", "tokenizer": root / "model", "max-seq-length": 32},
        "pretrain": {
            **{"data": root / "shards", "batch-size": 8, "eval-examples": 16},
            **{"model.size": "tiny", "model.hidden-size": 16, "model.num-hidden-layers": 1},
            **{"model.num-attention-heads": 2, "model.intermediate-size": 16},
            **{"loop.train-steps": 40, "loop.log-every": 1, "loop.eval-every": 10},
            **{"loop.save-every": 5},
        },
        "finetune": {
            **{"model": root / "model", "train": root / "rows.csv", "dev": root / "rows.csv"},
            **{"batch-size": 16, "epochs": 2, "max-seq-length": 16, "log-every": 1},
        },
    }
    more = {"prepare": ["--processes", "2"], "finetune": ["--seeds", "0", "1", "2"]}

    def make(verb, directory):
        if verb == "pretrain" and not (root / "shards").exists():
            run_python(*make("prepare", root / "shards")[1:])
        flags = given[verb] | {"output" if verb == "prepare" else "workdir": directory}
        words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        return [sys.executable, "-c", START, verb, *words, *more.get(verb, [])]

    return make


@pytest.fixture(scope="module")
def straight(commands, killing, tmp_path_factory):
    """Runs a command once without interruption; returns the digest of its files and its seconds."""
    known = {}

    def make(verb):
        if verb not in known:
            directory, started = tmp_path_factory.mktemp(verb) / "out", time.monotonic()
            run(killing, commands(verb, directory))
            seconds = time.monotonic() - started
            known[verb] = digest(directory, killing), seconds
        return known[verb]

    return make


def digest(directory, killing):
    """Returns the digests of the files that two equal commands write, metrics without times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_dir() or any(part in _UNEQUAL for part in name.parts[:1] + name.parts[-1:]):
            continue
        if name.parts[:2] and any(part == "checkpoints" for part in name.parts):
            continue
        text = path.read_bytes()
        if path.name == "metrics.jsonl":
            text = "\n".join(killing.records_in_hex(path)).encode()
        found[str(name)] = hashlib.sha256(text).hexdigest()
    return found


def run(killing, command):
    process = killing.start(command)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output


def listens(process):
    """Whether a process handles SIGTERM, or has ended."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return True
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & (1 << (signal.SIGTERM - 1))) or process.poll() is not None


def interrupt(killing, command, wait, number):
    """Starts a command, sends a signal so many seconds after its first line; returns its end."""
    process = killing.start(command)
    while not listens(process):
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


def check_moments(verb, moments, commands, straight, killing, tmp_path):
    """Sends a signal at some of ten moments of a command, each in a directory of its own."""
    expected, seconds = straight(verb)
    for moment, number in moments:
        directory = tmp_path / f"{verb}-{moment:.4f}"
        command = commands(verb, directory)
        code, output = interrupt(killing, command, moment * seconds, number)
        assert code in (0, 75), (moment, number, output)
        assert "Traceback" not in output and "Exception ignored" not in output, output
        assert code == 0 or "resume" in output, output
        if code == 75:
            run(killing, command)
        assert digest(directory, killing) == expected, (moment, number, output)


def moments_of(seed, count):
    rng = random.Random(seed)
    return [
        ((rank + rng.random()) / count, (signal.SIGTERM, signal.SIGINT)[rank % 2])
        for rank in range(count)
    ]


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_prepare_stops_as_it_starts_and_in_its_work(commands, straight, killing, tmp_path):
    moments = [(0.02, signal.SIGINT), (0.6, signal.SIGTERM)]
    check_moments("prepare", moments, commands, straight, killing, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("verb", VERBS)
def test_forty_moments(verb, part, commands, straight, killing, tmp_path):
    moments = moments_of(1, 40)[part::4]
    check_moments(verb, moments, commands, straight, killing, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_in_fine_tuning_change_nothing(commands, straight, killing, tmp_path):
    expected, seconds = straight("finetune")
    for moment, _ in moments_of(2, 8):
        directory = tmp_path / f"{moment:.4f}"
        command = commands("finetune", directory)
        code, output = interrupt(killing, command, moment * seconds, signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), output
        run(killing, command)
        assert digest(directory, killing) == expected


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_of_two_commands_in_one_directory_one_works(verb, commands, straight, killing, tmp_path):
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        both = [killing.start(commands(verb, directory)) for _ in range(2)]
        ends = sorted((each.communicate(timeout=300)[0], each.returncode) for each in both)
        codes = sorted(code for _, code in ends)
        (refused, *_) = [output for output, code in ends if code == 2] or [""]
        assert codes in ([0, 2], [0, 0]), ends  # the second may begin after the first's end
        assert codes == [0, 0] or "another command is at work there (process" in refused
        assert "Traceback" not in "".join(output for output, _ in ends)
        assert digest(directory, killing) == straight(verb)[0]

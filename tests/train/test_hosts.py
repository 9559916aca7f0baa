"""Several hosts: the roll call, what they must agree on, and real processes on loopback."""

import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest
from etils import epath

import bertjax as bj
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.errors import Stopped
from bertjax.train import hosts
from bertjax.train.host_links import Roll
from bertjax.train.hosts_config import HostsConfig
from bertjax.train.telemetry.metrics_file import read_records

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "node[003-006]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a.svc,b.svc", "TPU_WORKER_ID": "1"}


def silent(line):
    del line


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


# Finding the hosts


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"coordinator": "a:1"}, "add `hosts.count` and `hosts.index`"),
        ({"index": 1}, "add `hosts.coordinator` and `hosts.count`"),
        ({"coordinator": "a", "count": 2, "index": 0}, "give the address of host 0 and a port"),
        ({"coordinator": "a:1", "count": 2, "index": 2}, "number the hosts from 0 to 1"),
        ({"timeout": 0}, "`hosts.timeout` is 0"),
    ],
)
def test_flags_that_name_no_hosts(fields, sentence):
    with pytest.raises(bj.UserError, match=re.escape(sentence)):
        HostsConfig(**fields)


@pytest.fixture
def on_tpu(monkeypatch):
    """A machine with TPU chips, as JAX sees it; its hosts have names."""
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(hosts.clusters.GkeTpuCluster, "wait_for_coordinator", silent_wait)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    yield
    jax.config.update("jax_platforms", platforms)


def silent_wait(*_):
    pass


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (SLURM, ("Slurm", 4, 2, "node003:65536")),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, ("Slurm", 1, 0, "")),
        ({n: v for n, v in SLURM.items() if n != "SLURM_STEP_NODELIST"}, None),  # not by srun
        (GKE, ("the environment of a Cloud TPU", 2, 1, "a.svc:8482")),
        (
            {**GKE, "TPU_WORKER_HOSTNAMES": "localhost"},
            ("the environment of a Cloud TPU", 1, 0, ""),
        ),
    ],
)
def test_the_environment_names_the_hosts(environment, found, on_tpu, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cluster = hosts.find_cluster(HostsConfig())
    if found is None:
        assert cluster is None
        return
    assert cluster is not None
    words, count, index, address = found
    assert (cluster.environment, cluster.count, cluster.index) == (words, count, index)
    assert cluster.coordinator.rpartition(":")[0] == address.rpartition(":")[0]


def test_an_environment_that_is_not_whole_is_refused(on_tpu, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a.svc,b.svc")
    with pytest.raises(bj.UserError, match="The environment of a Cloud TPU does not name the"):
        hosts.find_cluster(HostsConfig())


def test_flags_come_before_the_environment(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    given = hosts.find_cluster(HostsConfig("10.0.0.2:99", 3, 1))
    assert given is not None and (given.count, given.index) == (3, 1)
    alone = hosts.find_cluster(HostsConfig(count=1))
    assert alone is not None and alone.count == 1


# The roll call


def roll_call(*others, seconds=10.0, settings=None):
    """Calls the roll with threads as the other hosts; returns what each host raised or returned."""
    address, outcomes = free_address(), {}

    def come(index, how):
        try:
            roll = Roll(address, *how, seconds)
            links = roll.call() if index == 0 else {0: roll.answer(index)}
            outcomes[len(outcomes)] = (index, sorted(links))
            for link in links.values():
                link.close()
        except bj.UserError as error:
            outcomes[len(outcomes)] = (index, str(error))

    count = 1 + len({index for index, _ in others})
    callers = [(0, (count, settings or {})), *others]
    threads = [threading.Thread(target=come, args=each) for each in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes.values(), key=lambda each: each[0])


@pytest.fixture(autouse=True)
def loud():
    """The tests' terminal prints again after a host of theirs was told to be quiet."""
    yield
    hosts.terminal.mute(False)


def test_all_hosts_come():
    outcomes = roll_call(*((index, (4, {"a": 1})) for index in (1, 2, 3)), settings={"a": 1})
    assert outcomes == [(0, [1, 2, 3]), (1, [0]), (2, [0]), (3, [0])]


def test_hosts_that_disagree_are_told_on_host_0():
    settings = {"loop": {"train_steps": 5, "log_every": 1}}
    other = {"loop": {"train_steps": 6, "log_every": 1}}
    outcomes = roll_call((1, (3, settings)), (2, (3, other)), settings=settings)
    assert "Host 2 has another `loop.train_steps` than host 0 (6 there, 5 on" in outcomes[0][1]
    assert outcomes[2][1].startswith("Host 0 says why")


def test_hosts_that_were_counted_differently_or_twice():
    assert "told of 2 hosts and host 1 of 3" in roll_call((1, (3, {})))[0][1]
    address, raised = free_address(), []

    def call():
        try:
            Roll(address, 3, {}, 5.0).call()
        except bj.UserError as error:
            raised.append(str(error))

    def answer():
        with pytest.raises(bj.UserError):
            Roll(address, 3, {}, 5.0).answer(1)

    threads = [threading.Thread(target=each) for each in (call, answer, answer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == ["Two hosts have the index 1: give each its own `hosts.index`."]


def test_missing_hosts_are_named_at_the_timeout():
    address = free_address()
    started = time.monotonic()
    with pytest.raises(bj.UserError, match="Of 4 hosts, 1, 2, 3 did not come to"):
        Roll(address, 4, {}, 1.0).call()
    with pytest.raises(bj.UserError, match="Host 2 did not hear from host 0 at"):
        Roll(address, 4, {}, 1.0).answer(2)
    assert time.monotonic() - started < 10


def test_a_signal_to_host_0_stops_the_hosts_that_have_come(monkeypatch):
    address, raised = free_address(), []

    def answer():
        with pytest.raises(Stopped):
            Roll(address, 3, {}, 10.0).answer(1)
        raised.append(1)

    def check():
        if threading.current_thread() is threading.main_thread() and looks.pop():
            raise Stopped

    looks = [True, False, False, False]
    monkeypatch.setattr("bertjax.signals.check", check)
    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(Stopped):
        Roll(address, 3, {}, 10.0).call()
    thread.join()
    assert raised


def test_an_address_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(bj.UserError, match=r"can't listen at 127\.0\.0\.1:.*in use"):
            Roll(address, 2, {}, 0.6).call()


def test_other_programs_at_the_port_do_not_matter():
    address, found = free_address(), []
    thread = threading.Thread(target=lambda: found.append(Roll(address, 2, {}, 10.0).call()))
    thread.start()
    host, _, port = address.rpartition(":")
    for _ in range(100):
        try:
            scanner = socket.create_connection((host, int(port)))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    scanner.sendall(b"GET / HTTP/1.1\r\n\r\n")
    link = Roll(address, 2, {}, 10.0).answer(1)
    thread.join()
    assert [*found[0]] == [1]
    for each in (scanner, link, found[0][1]):
        each.close()


# Real processes


@pytest.fixture(scope="module")
def data(tiny_tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("hosts")
    generator = random.Random(0)
    words = ["good", "great", "bad", "awful", "the", "a", "film", "was", "very", "not", "plot"]
    documents = [
        "\n".join(" ".join(generator.choices(words, k=7)) + " ." for _ in range(6))
        for _ in range(60)
    ]
    (root / "text.txt").write_text("\n\n".join(documents))
    (root / "tokenizer").mkdir()
    tiny_tokenizer.save(root / "tokenizer")
    shards = PrepareConfig(
        (str(root / "text.txt"),),
        str(root / "tokenizer"),
        str(root / "shards"),
        max_seq_length=32,
        held_out=0.1,
    )
    prepare(shards, silent)
    return root


@pytest.fixture
def pretrain(data, tmp_path, tiny_shape):
    """The words of a command that pre-trains."""

    def words(workdir, steps, **more):
        shape = dataclasses.asdict(tiny_shape)
        shape = {f"model.{n}": v for n, v in shape.items() if v is not None}
        flags = {
            **shape,
            "data": data / "shards",
            "workdir": tmp_path / workdir,
            "batch_size": 8,
            "eval_examples": 12,
            "loop.train_steps": steps,
            "loop.log_every": 1,
            "loop.eval_every": 4,
            "loop.save_every": 4,
            "optimizer.schedule": "constant",
            "optimizer.warmup_steps": 0,
            **more,
        }
        return ["pretrain", *(w for n, v in flags.items() for w in (f"--{n}", str(v)))]

    return words


class Job:
    """Processes on loopback that are the hosts of one run."""

    def __init__(self, *commands, count=None, timeout=60, directories=None):
        """Starts one process per command."""
        root = str(pathlib.Path(__file__).parents[2])
        self.address, count = free_address(), count or len(commands)
        self.processes = []
        for index, words in enumerate(commands):
            where = {"coordinator": self.address, "count": count, "index": index}
            joining = [f"--hosts.{name}={value}" for name, value in where.items()]
            self.processes.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "bertjax.cli", *words, *joining),
                        f"--hosts.timeout={timeout}",
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": root},
                    cwd=directories and directories[index],
                )
            )

    def after_step(self, step):
        """Waits until host 0 has done a step."""
        self._after(rf"step +{step}/", 1)

    def after_more_steps(self, steps):
        """Waits until host 0 has done so many steps."""
        self._after("step ", steps)

    def _after(self, pattern, count):
        for line in self.processes[0].stdout:
            count -= bool(re.match(pattern, line))
            if not count:
                return
        raise AssertionError(self.processes[0].stderr.read())

    def end(self):
        """Returns exit codes, and what each host has printed."""
        outputs = [process.communicate(timeout=300) for process in self.processes]
        return [process.returncode for process in self.processes], outputs

    def kill(self):
        for process in self.processes:
            process.kill()


@pytest.fixture
def job():
    jobs = []

    def start(*commands, **options):
        jobs.append(Job(*commands, **options))
        return jobs[-1]

    yield start
    for each in jobs:
        each.kill()


def losses(workdir, names=("mlm_loss", "nsp_loss")):
    """The losses of training and evaluations by their steps."""
    records = read_records(epath.Path(workdir / "metrics.jsonl"))
    return {(each["kind"], each["step"]): [each[name] for name in names] for each in records}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for place, values in wanted.items():
        # Gloo adds float32 numbers of more than two hosts in another order.
        assert found[place] == pytest.approx(values, rel=1e-6), place


def weights(workdir):
    return (workdir / "export" / "model.safetensors").read_bytes()


_SUMS = pathlib.Path(__file__).parent / "summing.py"


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_sums_over_processes_are_those_over_devices_but_for_their_order(count, run_python):
    """The reason why two hosts give the bits of one with two devices, and four need not."""
    address = free_address()
    words = [sys.executable, str(_SUMS), address, str(count)]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*words, str(rank)], **pipes) for rank in range(count)]
    printed = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]
    between = [json.loads(line) for line in printed]
    assert between == [between[0]] * count  # all have the same sums
    within = json.loads(run_python(str(_SUMS), address, "1", "0", devices=count).splitlines()[-1])
    assert within["other_bits"] == [0, 0]  # in the order of the devices
    assert max(between[0]["units"]) <= count - 2  # of rounding, of the largest partial sum
    if count == 2:
        assert between[0] == within


def complaints(outputs):
    """Lines of our own on standard error; XLA's libraries have others."""
    return [
        [line for line in error.splitlines() if line.startswith("bertjax: ")]
        for _, error in outputs
    ]


def test_sigterm_to_one_of_two_stops_both_and_one_host_goes_on(pretrain, job, run_python, tmp_path):
    two = job(*[pretrain("two", 8)] * 2)
    two.after_step(2)
    two.processes[1].send_signal(signal.SIGTERM)
    codes, outputs = two.end()
    assert codes == [75, 75], outputs
    assert re.search(r"Stopped at step \d of 8", outputs[0][0])
    assert not [line for line in outputs[1][0].splitlines() if "Gloo" not in line]
    run_python("-m", "bertjax.cli", *pretrain("two", 8), devices=2)
    run_python("-m", "bertjax.cli", *pretrain("one", 8), devices=2)
    assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"))


def test_a_mistake_is_told_on_one_terminal(pretrain, job):
    words = pretrain("run", 8)
    apart = job(words, [*words, "--loop.log-every", "2"])
    codes, outputs = apart.end()
    assert codes == [2, 2], outputs
    assert complaints(outputs)[1] == []
    assert "Host 1 has another --loop.log-every than host 0" in complaints(outputs)[0][0]


@pytest.mark.slow
def test_a_missing_host_is_named_by_the_command(pretrain, job):
    codes, outputs = job(pretrain("run", 8), count=3, timeout=2).end()
    assert codes == [2]
    assert "Of 3 hosts, 1, 2 did not come to" in complaints(outputs)[0][0]


@pytest.mark.slow
def test_a_directory_that_only_host_0_sees_is_refused(pretrain, job, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    words = pretrain("run", 8)
    words[words.index("--workdir") + 1] = "run"
    codes, outputs = job(words, words, directories=[tmp_path, tmp_path / "elsewhere"]).end()
    assert codes == [2, 2], outputs
    told, other = complaints(outputs)
    assert other == []
    assert told[0].startswith("bertjax: on host 1: ")
    assert "does not see the run directory of host 0: name a --workdir" in told[0]


# A recipe is a program: this one notes the rows that its process reads.
_NOTING = """
import os
from bertjax.pretrain.config import PretrainConfig
from bertjax.pretrain.phases import Phase

config = PretrainConfig(data="-", workdir="-")
read = Phase.rows

def rows(self, step, rows):
    with open(f"{os.environ['NOTES']}/{os.getpid()}", "a") as notes:
        notes.write("".join(f"{step} {row}\\n" for row in rows))
    return read(self, step, rows)

Phase.rows = rows
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_hosts_have_the_numbers_of_one(
    count, pretrain, job, run_python, data, tmp_path, monkeypatch
):
    """With LAMB, two microbatches and a second phase; each row of a step is read by one host."""
    (tmp_path / "noting.py").write_text(_NOTING)
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    options = {
        "optimizer.name": "lamb",
        "accumulation": 2,
        "second.data": data / "shards",
        "second.after_steps": 12,
        "second.batch_size": 16,
    }

    def words(name):
        verb, *flags = pretrain(name, 20, **options)
        return [verb, str(tmp_path / "noting.py"), *flags]

    codes, outputs = job(*[words("several")] * count).end()
    assert codes == [0] * count, outputs
    notes = [path.read_text().splitlines() for path in (tmp_path / "notes").iterdir()]
    assert len(notes) == count
    wanted = [(step, row) for step in range(20) for row in range(8 if step < 12 else 16)]
    found = [tuple(map(int, line.split())) for lines in notes for line in lines]
    assert sorted(found) == wanted
    run_python("-m", "bertjax.cli", *words("one"), devices=count)
    several, one = tmp_path / "several", tmp_path / "one"
    assert_close(losses(several), losses(one))
    if count == 2:
        assert (losses(several), weights(several)) == (losses(one), weights(one))


@pytest.mark.slow
def test_four_hosts_stop_together_and_fewer_go_on(pretrain, job, run_python, tmp_path):
    four = job(*[pretrain("changing", 20)] * 4)
    four.after_step(3)
    four.processes[2].send_signal(signal.SIGTERM)
    started = time.monotonic()
    codes, outputs = four.end()
    assert codes == [75] * 4, outputs
    assert time.monotonic() - started < 30
    two = job(*[pretrain("changing", 20)] * 2)
    two.after_step(12)
    two.processes[0].send_signal(signal.SIGTERM)
    codes, outputs = two.end()
    assert codes == [75] * 2, outputs
    run_python("-m", "bertjax.cli", *pretrain("changing", 20))
    run_python("-m", "bertjax.cli", *pretrain("one", 20))
    assert_close(losses(tmp_path / "changing"), losses(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_hosts_end_the_others_and_nothing_is_lost(pretrain, job, tmp_path):
    generator, longest = random.Random(0), 0.0
    for kill in range(20):
        both = job(*[pretrain("killed", 100)] * 2)
        both.after_more_steps(generator.randint(1, 8))
        time.sleep(generator.uniform(0, 0.5))
        both.processes[kill % 2].kill()
        started = time.monotonic()
        codes, outputs = both.end()
        longest = max(longest, time.monotonic() - started)
        assert codes[kill % 2] == -signal.SIGKILL
        # JAX may be faster than our thread to see that host 0 has ended, and aborts.
        assert codes[1 - kill % 2] in (75, -signal.SIGABRT), outputs
    assert longest < 90
    codes, outputs = job(*[pretrain("killed", 100)] * 2).end()
    assert codes == [0, 0], outputs
    codes, outputs = job(*[pretrain("straight", 100)] * 2).end()
    assert codes == [0, 0], outputs
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")


@pytest.mark.slow
def test_fine_tuning_on_two_hosts_has_the_bits_of_one(
    job, run_python, tiny_model, tmp_path, monkeypatch
):
    # Without fusion emitters, which the tests' flag turns off, programs on two devices of a process
    # have other rounding errors.
    monkeypatch.setenv("XLA_FLAGS", "")
    bj.save_pretrained(tmp_path / "model", tiny_model)
    generator = random.Random(0)
    for name, rows in (("train.csv", 80), ("dev.csv", 21)):
        labels = [generator.choice(["good", "bad"]) for _ in range(rows)]
        lines = [f"the film was {each} {generator.choice(['', 'very'])},{each}" for each in labels]
        (tmp_path / name).write_text("\n".join(["text,label", *lines]) + "\n")

    def words(workdir):
        flags = {
            "model": tmp_path / "model",
            "train": tmp_path / "train.csv",
            "dev": tmp_path / "dev.csv",
            "workdir": tmp_path / workdir,
            "max-seq-length": 16,
            "batch-size": 8,
            "epochs": 2,
            "eval-every": 5,
            "log-every": 1,
            "select": "best",
        }
        return ["finetune", *(w for n, v in flags.items() for w in (f"--{n}", str(v)))]

    codes, outputs = job(*[words("two")] * 2).end()
    assert codes == [0, 0], outputs
    run_python("-m", "bertjax.cli", *words("one"), devices=2)
    names = ("loss", "accuracy")
    one, two = (losses(tmp_path / each / "seed-0", names) for each in ("one", "two"))
    assert len(one) == 24  # 20 steps and 4 evaluations
    assert two == one
    assert weights(tmp_path / "two") == weights(tmp_path / "one")
    evaluate = ["evaluate", str(tmp_path / "two"), str(tmp_path / "dev.csv")]
    codes, outputs = job(evaluate, evaluate).end()
    assert codes == [0, 0], outputs
    alone = json.loads(run_python("-m", "bertjax.cli", *evaluate).splitlines()[-1])
    assert json.loads(outputs[0][0].splitlines()[-1]) == pytest.approx(alone, rel=1e-6)

"""Several hosts: the roll call, what they must agree on, and real processes on loopback."""

import dataclasses
import json
import os
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

import bertjax as bj
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.train import hosts
from bertjax.train.host_links import Roll
from bertjax.train.hosts_config import HostsConfig

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

    def __init__(self, *commands, count=None, devices=1, timeout=60):
        """Starts one process per command."""
        flags = f"--xla_force_host_platform_device_count={devices}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
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
                    env={**os.environ, "XLA_FLAGS": flags},
                )
            )

    def after_step(self, step):
        """Waits until host 0 has done a step."""
        for line in self.processes[0].stdout:
            if re.match(rf"step +{step}/", line):
                return
        raise AssertionError(self.processes[0].stderr.read())

    def end(self):
        """Returns exit codes, and what each host has printed."""
        outputs = [process.communicate(timeout=120) for process in self.processes]
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


def losses(workdir):
    """The losses of training and evaluations by their steps, of the last time they were done."""
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(each["kind"], each["step"]): (each["mlm_loss"], each["nsp_loss"]) for each in records}


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
    one, other = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == other.keys()
    for place, values in one.items():
        # Gloo adds float32 numbers in another order.
        assert values == pytest.approx(other[place], rel=1e-6), place


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

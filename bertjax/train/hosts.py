"""Several hosts of one run: how a host finds the others and joins them, and what they agree on."""

import atexit
import contextlib
import hashlib
import os
import pathlib
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
from jax._src import clusters  # the public function does not tell how many hosts it would join

import bertjax
from bertjax import terminal
from bertjax.errors import EXIT_MISTAKE, EXIT_STOPPED, Stopped, UserError
from bertjax.train.checkpoint.settings import as_json
from bertjax.train.host_links import (
    Links,
    Roll,
    exit_without_jax,
    is_loopback,
)
from bertjax.train.hosts_config import HostsConfig

_JOIN_SECONDS = 120  # for JAX's own join, after all hosts have come
_NEWS_SECONDS = 3.0  # until a connection tells that another host has ended


class Cluster(NamedTuple):
    """The hosts of a run, as their environment names them."""

    environment: str
    """Words for what names the hosts."""
    method: str
    """JAX's name of the environment."""
    count: int
    index: int
    coordinator: str
    """Address and port of host 0; empty for a single host."""


class _State:
    links: Links | None = None


def find_cluster(config: HostsConfig) -> Cluster | None:
    """Finds the hosts by the flags, or by the environment; None if nothing names any.

    Raises:
        UserError: the environment names hosts, but not all that it takes to join them.
    """
    if config.count is not None:
        address, index = config.coordinator or "", config.index or 0
        return Cluster("`hosts.count`", "deactivate", config.count, index, address)
    words = ""
    try:
        for words, environment in _environments():
            if environment.is_env_present():
                return _read(words, environment, config.timeout)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{words[0].upper()}{words[1:]} does not name the hosts ({error}): name them by "
            "`hosts.coordinator`, or give `hosts.count` 1 if there is only this one."
        ) from error
    return None


def _environments() -> Iterator[tuple[str, type[clusters.ClusterEnv]]]:
    """Yields what may name hosts, in words, and JAX's class for it."""
    yield "Slurm", clusters.SlurmCluster
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if "tpu" in (platforms or "tpu").split(","):
        yield "the environment of a Cloud TPU", clusters.GkeTpuCluster
        yield "the metadata of a Cloud TPU", clusters.GceTpuCluster


def _read(words: str, environment: type[clusters.ClusterEnv], timeout: int) -> Cluster:
    # A step of a Slurm job may have fewer tasks than the job.
    step = os.environ.get("SLURM_STEP_NUM_TASKS") if environment.name == "slurm" else None
    count = environment.get_process_count() if step is None else int(step)
    if count == 1:
        return Cluster(words, environment.name, 1, 0, "")
    port = os.environ.get("JAX_COORDINATOR_PORT")
    how: dict[str, Any] = {"timeout_secs": timeout, "override_coordinator_port": port}
    address = environment.get_coordinator_address(**how)
    return Cluster(words, environment.name, count, environment.get_process_id(), address)


@contextlib.contextmanager
def joined(
    config: HostsConfig,
    settings: Mapping[str, Any],
    log: Callable[[str], None],
    *,
    resumable: bool = True,
) -> Iterator[None]:
    """Joins the other hosts, if there are any, before JAX looks for devices.

    An error of one host ends the block on all, with the same exit code, and one of them says why.

    Args:
        config: how to find the hosts.
        settings: what has to be equal on all hosts, in nested dicts; a field `hosts` is left out.
        log: receives a line that tells the number of hosts and what names them.
        resumable: whether SIGTERM on one host is for all a request to save and to stop.

    Raises:
        UserError: the hosts do not come together in time, or their settings or versions differ.
    """
    cluster = find_cluster(config)
    if cluster is None or cluster.count == 1:
        if cluster is not None:
            log(f"1 host, by {cluster.environment}.")
        yield
        return
    mine = {name: value for name, value in settings.items() if name != "hosts"}
    roll = Roll(cluster.coordinator, cluster.count, as_json(mine) | _versions(), config.timeout)
    links = {0: roll.answer(cluster.index)} if cluster.index else roll.call()
    _State.links = Links(cluster.index, links, log)
    terminal.mute(cluster.index > 0)
    log(f"{cluster.count} hosts, by {cluster.environment}; host 0 is {cluster.coordinator}.")
    try:
        _join_jax(cluster, resumable=resumable)
        yield
        _State.links.finish()
    except BaseException as error:
        _end(_State.links, error)
        raise
    finally:
        _State.links = None


def _join_jax(cluster: Cluster, *, resumable: bool) -> None:
    local = is_loopback(cluster.coordinator)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.count,
            cluster.index,
            cluster_detection_method=cluster.method,
            coordinator_bind_address=cluster.coordinator if local else None,
            initialization_timeout=_JOIN_SECONDS,
        )
    except RuntimeError as error:
        raise UserError(f"JAX can't join the hosts: {error}") from error
    if resumable:  # JAX passes a SIGTERM on; SIGINT is the same request
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(links: Links, error: BaseException) -> None:
    """Ends the other hosts after an error here, and makes this process end without JAX's wait."""
    code, why = 1, f"{type(error).__name__}: {error}; its terminal has the traceback."
    match error:
        case UserError():
            code, why = EXIT_MISTAKE, str(error)
        case Stopped() | KeyboardInterrupt():
            code, why = EXIT_STOPPED, "stopped."
        case SystemExit():
            code = error.code if isinstance(error.code, int) else 1
        case _:
            time.sleep(_NEWS_SECONDS)  # an operation over all hosts fails if one of them has ended
            traceback.print_exception(error)
    terminal.mute(not links.fail(code, why))
    if code == 1:
        exit_without_jax(code)
    # The last function that is registered is the first: JAX's own would wait for the hosts.
    atexit.register(exit_without_jax, code)


def agree(settings: Mapping[str, Any]) -> None:
    """Makes sure that all hosts have the same settings, such as the hashes of their data.

    Does nothing if `joined` joined no hosts.

    Raises:
        UserError: on host 0, they differ; this names the setting and the host.
    """
    if _State.links is not None:
        _State.links.agree(settings)


def _versions() -> dict[str, str]:
    """Returns the versions that decide the numbers of a run."""
    digest = hashlib.sha256()
    root = pathlib.Path(bertjax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return {
        "Python": platform.python_version(),
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "code of bertjax": digest.hexdigest()[:12],
    }

"""The connections of host 0 to the other hosts: a roll call, settings to compare, and a common end.

JAX's own join ends a process by SIGABRT when a host is missing, and names none. So the hosts meet
at the coordinator's address before JAX takes it. The connections stay open: the end of a process
closes its own, which the others notice at once.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from bertjax import signals, terminal
from bertjax.errors import EXIT_MISTAKE, EXIT_STOPPED, Stopped, UserError
from bertjax.train.checkpoint.settings import as_json, first_difference

_MAX_MESSAGE = 1 << 20
# A machine that vanishes closes nothing. TCP gives it up after 20 + 3 x 10 seconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPALIVE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_LOOK_SECONDS = 0.5  # between two looks at a request to stop
_END_SECONDS = 5.0  # for other processes to end, or to answer that they will


class Link:
    """A connection on which each line is a JSON object."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._connection, self._received = connection, b""

    def send(self, **message: Any) -> None:
        """Sends a message; nothing happens if the other host has ended."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """Returns the next message, or None at the end of the connection.

        Raises:
            TimeoutError: none came in so many seconds.
        """
        self._connection.settimeout(seconds)
        while b"\n" not in self._received:
            try:
                part = self._connection.recv(1 << 16)
            except TimeoutError:
                raise
            except OSError:
                part = b""
            if not part or len(self._received) > _MAX_MESSAGE:
                return None
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def is_open(self) -> bool:
        """Whether the other host, which has nothing to send, has not ended."""
        try:
            return self.receive(0.01) is not None
        except TimeoutError:
            return True

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def split_address(address: str) -> tuple[str, int]:
    """Returns the host and the port of an address such as 10.0.0.2:8476 or [::1]:8476."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether an address is one of this machine alone."""
    host = split_address(address)[0]
    return host in ("localhost", "::1") or host.startswith("127.")


class Roll(NamedTuple):
    """The roll call: every host but host 0 comes to the address of host 0."""

    address: str
    count: int
    """Number of hosts."""
    settings: dict[str, Any]
    """Settings that all hosts must share, as JSON values in nested dicts."""
    seconds: float
    """Time to come together."""

    def call(self) -> dict[int, Link]:
        """Waits on host 0 for the other hosts; returns their connections by their indices.

        Raises:
            UserError: the address is in use, a host does not come in time, two have one index, or
                one was started with other settings.
        """
        links: dict[int, Link] = {}
        deadline = time.monotonic() + self.seconds
        try:
            with self._listen(deadline) as listener:
                while len(links) < self.count - 1:
                    signals.check()
                    if (left := deadline - time.monotonic()) <= 0:
                        raise UserError(self._missing(links))
                    listener.settimeout(min(left, _LOOK_SECONDS))
                    with contextlib.suppress(TimeoutError):
                        self._greet(Link(listener.accept()[0]), links)
        except BaseException as error:
            for link in links.values():
                link.send(end=EXIT_MISTAKE if isinstance(error, UserError) else EXIT_STOPPED)
                link.close()
            raise
        for link in links.values():
            link.send(all_here=True)
        return links

    def answer(self, index: int) -> Link:
        """Tells host 0 that a host is here, and waits until all are; returns the connection.

        Raises:
            UserError: host 0 can't be reached in time, or the hosts do not fit together. Of the
                latter host 0 says why, and this terminal is mute.
        """
        deadline, link = time.monotonic() + self.seconds, None
        # Host 0 may have begun to wait later, and then tells at its own deadline who is missing.
        while time.monotonic() < deadline + (self.seconds if link else 0):
            signals.check()
            link = link or self._come(index)
            try:
                answer = link.receive(_LOOK_SECONDS) if link else None
            except TimeoutError:
                continue
            if link and answer and "all_here" in answer:
                return link
            if link:
                link.close()
            if answer and "end" in answer:
                terminal.mute()
                if answer["end"] == EXIT_STOPPED:
                    raise Stopped("host 0 was stopped")
                raise UserError("Host 0 says why the hosts did not come together.")
            link = None  # host 0 has ended, or something else listens there
            time.sleep(_LOOK_SECONDS)
        if link:
            link.close()
        raise UserError(
            f"Host {index} did not hear from host 0 at {self.address} within {self.seconds:g} "
            "seconds: check that the same command runs on host 0, that this address is its own, "
            "and that no firewall closes the port."
        )

    def _come(self, index: int) -> Link | None:
        try:
            link = Link(socket.create_connection(split_address(self.address), timeout=5))
        except OSError:
            return None
        link.send(index=index, count=self.count, settings=self.settings)
        return link

    def _listen(self, deadline: float) -> socket.socket:
        host, port = split_address(self.address)
        local = is_loopback(self.address)
        both = not local and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
        where = (host if local else "", port)
        deadline = min(deadline, time.monotonic() + _END_SECONDS)  # a former run may be ending
        while True:
            try:
                return socket.create_server(where, family=family, backlog=1024, dualstack_ipv6=both)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"Host 0 can't listen at {self.address} ({error.strerror}): end the "
                        "command that uses the port, or give all hosts another one in "
                        "`hosts.coordinator`."
                    ) from error
            signals.check()
            time.sleep(_LOOK_SECONDS)

    def _greet(self, link: Link, links: dict[int, Link]) -> None:
        """Adds a host that came to `links`; a connection of anything else is closed."""
        try:
            hello = link.receive(_END_SECONDS) or {}
        except TimeoutError:
            hello = {}
        index, settings = hello.get("index"), hello.get("settings")
        if not isinstance(index, int) or not isinstance(settings, dict):
            link.close()
            return
        try:
            if hello.get("count") != self.count:
                raise UserError(
                    f"Host 0 was told of {self.count} hosts and host {index} of "
                    f"{hello.get('count')}: give all hosts the same `hosts.count`."
                )
            if index in links and links[index].is_open():
                raise UserError(
                    f"Two hosts have the index {index}: give each its own `hosts.index`."
                )
            refuse_different(index, self.settings, settings)
        except UserError:
            link.send(end=EXIT_MISTAKE)
            link.close()
            raise
        links[index] = link

    def _missing(self, links: Collection[int]) -> str:
        missing = [str(index) for index in range(1, self.count) if index not in links]
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return (
            f"Of {self.count} hosts, {', '.join(missing[:8])}{more} did not come to {self.address} "
            f"within {self.seconds:g} seconds: check that the same command runs there with its own "
            "`hosts.index`, and that no firewall closes this port of host 0."
        )


def refuse_different(index: int, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raises `UserError` if another host has other settings than host 0."""
    if difference := first_difference(there, here):
        raise UserError(
            f"Host {index} has another `{difference[0]}` than host 0 ({difference[1]} there, "
            f"{difference[2]} on host 0): start the same command, with the same files and "
            "versions, on all hosts."
        )


class Links:
    """The connections of a host while the hosts work together: of host 0 to all, else to host 0.

    Threads read them. They end this process if another host has failed or ended.
    """

    def __init__(self, index: int, links: dict[int, Link], log: Callable[[str], None]) -> None:
        self.index, self._links, self._log = index, links, log
        self._inbox = {other: queue.SimpleQueue[dict[str, Any]]() for other in links}
        self._lock = threading.Lock()
        self._is_failing = self._is_over = self._is_told = False
        self._answered = threading.Event()
        for other in links:
            threading.Thread(target=self._read, args=(other,), daemon=True).start()

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Raises `UserError` on host 0 if another host has other settings."""
        if self.index:
            self._links[0].send(settings=settings)
            return
        for other, inbox in self._inbox.items():
            refuse_different(other, as_json(settings), inbox.get()["settings"])

    def finish(self) -> None:
        """Waits until all hosts have finished."""
        if self.index:
            self._links[0].send(done=True)
            self._answered.wait()
            return
        for inbox in self._inbox.values():
            inbox.get()
        self._is_over = True
        for link in self._links.values():
            link.send(end=0)

    def fail(self, code: int, why: str) -> bool:
        """Ends the run on all hosts with an exit code; returns whether this host has to say why.

        Host 0 says why if it can. The process ends by itself or, if a thread of it hangs, after
        some seconds.
        """
        self._is_failing = True
        timer = threading.Timer(2 * _END_SECONDS, exit_without_jax, (code,))
        timer.daemon = True
        timer.start()
        if not self.index:
            if not self._end_all(code):
                timer.join()  # a thread is saying why, and ends the process
            return True
        self._links[0].send(failed=code, why=why)
        self._answered.wait(_END_SECONDS)
        return not self._is_told

    def _read(self, other: int) -> None:
        while (message := self._links[other].receive()) is not None:
            if "failed" in message:
                self._end(message["failed"], f"on host {other}: {message['why']}")
            elif "end" in message:
                self._told(message["end"])
            else:
                self._inbox[other].put(message)
        self._lost(other)

    def _told(self, code: int) -> None:
        """Ends this process as host 0 says, unless it is ending."""
        self._is_over = self._is_told = True
        self._answered.set()
        if code and not self._is_failing:
            exit_without_jax(code)

    def _lost(self, other: int) -> None:
        """Ends the run after the connection to another host has ended."""
        if self._is_failing:
            self._answered.set()
        if self._is_over or self._is_failing:
            return
        if self.index == 1:
            terminal.mute(False)
        self._end(
            EXIT_STOPPED,
            f"host {other} has ended without a word (killed, or its machine is gone); run the same "
            "command again on all hosts, which continues from the last checkpoint.",
        )

    def _end(self, code: int, why: str) -> None:
        """Says why the run ends, and ends it on all hosts, once."""
        if not self._end_all(code):
            return
        with contextlib.redirect_stdout(sys.stderr):
            self._log(f"bertjax: {why}")
        if not self.index:
            time.sleep(1.0)  # JAX would abort the others if host 0 ended first
        exit_without_jax(code)

    def _end_all(self, code: int) -> bool:
        """Tells the hosts to end, if this is host 0; returns whether this is the first failure."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
        if not self.index:
            for link in self._links.values():
                link.send(end=code)
        return True


def exit_without_jax(code: int) -> None:
    """Ends the process at once. JAX would wait for hosts that have ended."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

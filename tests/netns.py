"""netns: a private network for a test: a server and a client namespace joined by a veth pair.

    server  192.0.2.1/24    2001:db8::1/32         a listener on TCP 25 and 587, both families
    client  192.0.2.10-19   2001:db8:0:N::1 and ::2 (N = 1 to 4: two hosts in each of four /64)

`network` is the fixture; `@inside` runs a test's body in a child process inside the server's namespace, where `nft`,
`ip` and libnftables see the private network alone. Nothing here changes the namespace that the tests run in. Root
makes plain namespaces; anybody else makes them within a user namespace; where the host forbids that, the test is
skipped with the host's own words. The namespaces live as long as their holders, two `cat` that end with this process
however it ends.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import pytest

SERVER4, SERVER6 = "192.0.2.1", "2001:db8::1"
CLIENTS4 = [f"192.0.2.{host}" for host in range(10, 20)]
CLIENTS6 = [f"2001:db8:0:{net}::{host}" for net in range(1, 5) for host in (1, 2)]
PORTS = (25, 587)
PATIENCE = 20.0  # seconds before a connect that must succeed is given up

Result = TypeVar("Result")


class Unavailable(RuntimeError):
    """This host does not let this user make a network namespace; the message is the reason."""


class Namespace:
    """A network namespace (and its user namespace), held by the process `pid`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._holder = subprocess.Popen(
            [*command, "cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.pid = self._holder.pid
        assert self._holder.stdin and self._holder.stdout and self._holder.stderr
        try:
            self._holder.stdin.write(b"\n")  # comes back once unshare has become cat: the namespace is there
            ready = self._holder.stdout.readline()
        except BrokenPipeError:
            ready = b""
        if not ready:
            said = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise Unavailable(f"no network namespace for this user: {said}")

    def close(self) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe:
                pipe.close()
        self._holder.kill()
        self._holder.wait()

    @property
    def prefix(self) -> list[str]:
        """What to put before a command to have it run inside."""
        user = [] if self._same_user() else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self.pid}", "--net", *user, "--"]

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen([*self.prefix, *command], **options)

    def check(self, *command: str, text: str | None = None) -> str:
        """The command's output; AssertionError with its complaint where it fails. `text` is its input."""
        done = subprocess.run([*self.prefix, *command], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def run(self, function: Callable[[], Result]) -> Result:
        """Calls it in a child process inside, and returns or raises what it did (the result must pickle)."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(self._outcome(function))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            outcome = pipe.read()
        _, status = os.waitpid(child, 0)
        assert outcome, f"the child ended without a word, wait status {status}"
        end, result = pickle.loads(outcome)
        if end == "skipped":
            pytest.skip(result)
        assert end == "returned", f"in the namespace:\n{result}"
        return result  # type: ignore[no-any-return]

    def _outcome(self, function: Callable[[], Any]) -> bytes:
        try:
            self.enter()
            return pickle.dumps(("returned", function()))
        except pytest.skip.Exception as skipped:
            return pickle.dumps(("skipped", str(skipped)))
        except BaseException:
            return pickle.dumps(("raised", traceback.format_exc()))

    def enter(self) -> None:
        """Takes this (single-threaded) process inside, for good."""
        c = ctypes.CDLL(None, use_errno=True)
        for name in ("net",) if self._same_user() else ("user", "net"):
            descriptor = os.open(f"/proc/{self.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            if c.setns(descriptor, 0):
                raise OSError(ctypes.get_errno(), f"setns {name}")
            os.close(descriptor)

    def _same_user(self) -> bool:
        return os.path.samestat(os.stat("/proc/self/ns/user"), os.stat(f"/proc/{self.pid}/ns/user"))


class Network:
    """The pair, as a context. `unprivileged` makes it within a user namespace even for root, so that nothing inside
    has a privilege over the host (the socket buffers' limits hold). `ports` are what the listener listens on."""

    def __init__(self, *, ports: Sequence[int] = PORTS, unprivileged: bool = False) -> None:
        self._ports, self._unprivileged = ports, unprivileged

    def __enter__(self) -> Network:
        for command in ("unshare", "nsenter", "ip"):
            if shutil.which(command) is None:
                raise Unavailable(f"the command {command} is missing")
        if self._unprivileged or not _privileged():
            self.server = Namespace(["unshare", "--user", "--map-root-user", "--net"])
        else:
            self.server = Namespace(["unshare", "--net"])
        try:
            self.client = Namespace([*self.server.prefix[:-1], "--", "unshare", "--net"])
        except BaseException:
            self.server.close()
            raise
        self._listener = 0
        try:
            self._connect()
            if self._ports:
                self._listen()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._listener:
            os.close(self._lifeline)
            os.kill(self._listener, signal.SIGKILL)
            os.waitpid(self._listener, 0)
        self.client.close()
        self.server.close()

    def _connect(self) -> None:
        link = f"link set lo up\nlink add veth0 type veth peer name veth0 netns {self.client.pid}\nlink set veth0 up\n"
        self.server.check(
            "ip", "-batch", "-", text=f"{link}addr add {SERVER4}/24 dev veth0\naddr add {SERVER6}/32 dev veth0 nodad\n"
        )
        addresses = [f"addr add {host}/24 dev veth0\n" for host in CLIENTS4]
        addresses += [f"addr add {host}/32 dev veth0 nodad\n" for host in CLIENTS6]
        self.client.check("ip", "-batch", "-", text="link set lo up\nlink set veth0 up\n" + "".join(addresses))

    def _listen(self) -> None:
        reading, self._lifeline = os.pipe()
        told, telling = os.pipe()
        self._listener = os.fork()
        if not self._listener:
            try:
                os.close(self._lifeline)
                self.server.enter()
                _accept(self._ports, reading, telling)
            finally:
                os._exit(1)
        os.close(reading)
        os.close(telling)
        with os.fdopen(told, "rb") as pipe:
            assert pipe.read(1), "the listener did not come up"

    def connects(self, address: str, port: int, source: str, timeout: float = PATIENCE) -> bool:
        """Whether a TCP connection from the client's address `source` to the server's `address` comes about."""

        def connect() -> bool:
            try:
                with socket.create_connection((address, port), timeout, (source, 0)):
                    return True
            except (ConnectionRefusedError, ConnectionResetError, TimeoutError):
                return False

        return self.client.run(connect)


def _accept(ports: Sequence[int], lifeline: int, telling: int) -> None:
    """Accepts and closes until the lifeline's other end is gone."""
    sockets: list[socket.socket] = []
    for port in ports:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(64)
        sockets.append(listener)
    os.write(telling, b"+")
    os.close(telling)
    watched: list[Any] = [lifeline, *sockets]
    while True:
        ready = select.select(watched, [], [])[0]
        if lifeline in ready:
            return
        for each in sockets:
            if each in ready:
                each.accept()[0].close()


@functools.cache
def _privileged() -> bool:
    """Whether a network namespace can be had without a user namespace."""
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def inside(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test that takes the fixture `network` (or another Network) inside its server's namespace."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        where = next(each for each in fixtures.values() if isinstance(each, Network))
        where.server.run(lambda: test(*arguments, **fixtures))

    return run


@pytest.fixture
def network() -> Iterator[Network]:
    yield from skipping(Network())


@pytest.fixture
def unprivileged() -> Iterator[Network]:
    """A network without a privilege over the host, also for root."""
    yield from skipping(Network(unprivileged=True))


def skipping(made: Network) -> Iterator[Network]:
    """What a fixture yields from: the network, or a skip with the host's reason."""
    try:
        made.__enter__()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield made
    made.close()

"""Start the two servers that are compared: Debian's redis-server and our node.

FASTCACHE_TEST_SERVER may name another command for "ours", with {port} and {dir} in it; without it
the `fastcache` of this interpreter's environment is started with a configuration file of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.wire import Connection, Word

START_DEADLINE = 20.0
# What the cases use where a password is wanted.
TEST_PASSWORD = "secret"
REDIS_VERSION = "7.0."


class ServerFailedError(Exception):
    """A server under comparison did not come up; the text holds what it printed."""


def free_port() -> int:
    """A TCP port nobody listens on; FASTCACHE_TEST_PORTS (first-last) narrows the choice."""
    span = os.environ.get("FASTCACHE_TEST_PORTS")
    if span is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    first, last = (int(part) for part in span.split("-"))
    for port in range(first, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailedError(f"no free port in {span}")


@dataclass
class Server:
    """A running server and how to reach it."""

    name: str
    port: int
    directory: Path
    process: subprocess.Popen[bytes]
    log: Path
    connections: list[Connection] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def unix_socket(self) -> str:
        return str(self.directory / "server.sock")

    def connect(self, protocol: int = 2) -> Connection:
        """A fresh connection, switched to RESP3 when asked for it."""
        connection = Connection(self.address)
        if protocol == 3:
            connection.ask("HELLO", "3")
        self.connections.append(connection)
        return connection

    def clean(self) -> None:
        """Forget every key and script, and what a failed test may have left behind."""
        connection = Connection(self.address)
        connection.ask("AUTH", TEST_PASSWORD)
        connection.ask("CONFIG", "SET", "requirepass", "")
        connection.ask("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all")
        users = [user for user in connection.value("ACL", "USERS") if user != b"default"]
        if users:
            connection.ask("ACL", "DELUSER", *users)
        connection.ask("FLUSHALL")
        connection.ask("SCRIPT", "FLUSH")
        connection.close()

    def hang_up(self) -> None:
        """Close every connection handed out by connect."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def resident_bytes(self) -> int:
        """Resident memory of the process that listens (a wrapper's child counts, not the wrapper)."""
        total = 0
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            try:
                fields = Path(f"/proc/{pid}/statm").read_text().split()
            except OSError:
                continue
            total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
        return total

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the server; one that does not end in time is killed."""
        self.hang_up()
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            listed = [int(word) for word in children.read_text().split()]
        except OSError:
            continue
        for child in listed:
            found += [child, *_descendants(child)]
    return found


def redis_binary() -> str | None:
    """The redis-server that is the measure, if this machine has the right version."""
    binary = shutil.which("redis-server")
    if binary is None:
        return None
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return binary if f"v={REDIS_VERSION}" in version else None


def start_redis(directory: Path, *settings: tuple[str, Word]) -> Server:
    """Start the real Redis without persistence."""
    binary = redis_binary()
    if binary is None:
        raise ServerFailedError(f"redis-server {REDIS_VERSION}x is missing (apt-get install redis-server)")
    port = free_port()
    options: list[tuple[str, Word]] = [
        ("port", port),
        ("bind", "127.0.0.1"),
        ("dir", str(directory)),
        ("unixsocket", str(directory / "server.sock")),
        ("save", ""),
        ("appendonly", "no"),
        ("enable-debug-command", "yes"),
        *settings,
    ]
    command = [binary]
    for name, value in options:
        command += [f"--{name}", value.decode() if isinstance(value, bytes) else str(value)]
    return _start("redis", command, port, directory)


def start_ours(directory: Path, *settings: tuple[str, Word]) -> Server:
    """Start our node with the settings that match start_redis."""
    port = free_port()
    custom = os.environ.get("FASTCACHE_TEST_SERVER")
    if custom is not None:
        command = [part.format(port=port, dir=directory) for part in shlex.split(custom)]
        for name, value in settings:
            command += [f"--{name}", str(value)]
        return _start("ours", command, port, directory)
    config = directory / "node.toml"
    lines = [
        f"port = {port}",
        'bind = "127.0.0.1"',
        f'dir = "{directory}"',
        f'unixsocket = "{directory}/server.sock"',
        'enable-debug-command = "yes"',
        *(
            f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value!s}"'
            for name, value in settings
        ),
    ]
    config.write_text("\n".join(lines) + "\n")
    return _start("ours", [fastcache_command(), "node", "--config", str(config)], port, directory)


def fastcache_command() -> str:
    """The fastcache command beside this interpreter, or the first on the path."""
    beside = Path(sys.executable).with_name("fastcache")
    if beside.exists():
        return str(beside)
    found = shutil.which("fastcache")
    if found is None:
        raise ServerFailedError("no fastcache command: `make dev` builds it (or set FASTCACHE_TEST_SERVER)")
    return found


def _start(name: str, command: list[str], port: int, directory: Path) -> Server:
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # SORT ALPHA of Redis follows the locale.
            env={**os.environ, "LC_ALL": "C"},
        )
    server = Server(name, port, directory, process, log)
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        if not server.alive():
            break
        try:
            probe = Connection(server.address, timeout=2)
        except OSError:
            time.sleep(0.02)
            continue
        answer = probe.ask("PING")
        probe.close()
        # Another server may have answered while this one found its port taken.
        if answer.startswith((b"+PONG", b"-NOAUTH")) and server.alive():
            return server
    server.stop()
    raise ServerFailedError(
        f"{name} does not answer on port {port}:\n{log.read_text(errors='replace')[-2000:]}"
    )

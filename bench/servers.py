"""Starting and stopping the servers that are compared: fresh processes, nothing saved, one core."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import peers, processes, resp, tools

OURS = "fastcache"


@dataclass(slots=True)
class Kind:
    """A server program: its name in the tables and how to run it."""

    name: str
    command: list[str]
    version: str


@dataclass(slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    loaded: int | None = field(default=None)  # Size of the values under the benchmark's keys.

    @property
    def pid(self) -> int:
        """The one process that serves."""
        return self.process.pid

    def ask(self, *words: str | bytes | int) -> resp.Reply:
        """One command over a connection of its own."""
        with resp.Connection(("127.0.0.1", self.port), timeout=60) as connection:
            return connection.ask(*words)

    def info(self) -> dict[str, str]:
        """INFO as a dictionary."""
        with resp.Connection(("127.0.0.1", self.port), timeout=60) as connection:
            return connection.info()


def fastcache() -> str:
    """Our command, beside the Python that runs this."""
    return str(Path(sys.executable).parent / "fastcache")


def kinds(only: list[str] | None = None) -> list[Kind]:
    """What can be compared on this machine; ours comes first."""
    ours = subprocess.run([fastcache(), "--version"], capture_output=True, text=True, check=True).stdout
    found = [Kind(OURS, [fastcache()], ours.split()[-1])]
    for name, command in (("redis", peers.redis_command()), ("valkey", peers.valkey_command())):
        if command and (only is None or name in only):
            found.append(Kind(name, command, peers.version(command)))
    return found


@contextmanager
def running(kind: Kind, port: int, settings: dict[str, str] | None = None) -> Iterator[Server]:
    """A server of this kind while the block lasts, pinned to its core and preferred to other work."""
    settings = settings or {}
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as directory:
        if kind.name == OURS:
            lines = [f"port = {port}", *(f"{name} = {toml(value)}" for name, value in settings.items())]
            file = Path(directory) / "node.toml"
            file.write_text("\n".join(lines) + "\n")
            command = [*kind.command, "node", "--config", str(file)]
        else:
            words = [word for name, value in settings.items() for word in (f"--{name}", value)]
            quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
            command = [*kind.command, "--port", str(port), *quiet, *words]
        with (Path(directory) / "log").open("wb") as log:
            pinned = ["taskset", "-c", str(tools.SERVER_CORE), *command]
            process = subprocess.Popen(pinned, cwd=directory, stdout=log, stderr=log, start_new_session=True)
            try:
                wait_until_answering(process, port, Path(directory) / "log")
                processes.prefer(process.pid)
                yield Server(kind.name, port, process)
            finally:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def toml(value: str) -> str:
    """A setting's value as our file has it."""
    return value if value.isdigit() else f'"{value}"'


def wait_until_answering(process: subprocess.Popen[bytes], port: int, log: Path, limit: float = 20) -> None:
    """Return when the server answers PING."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server on port {port} ended: {log.read_text(errors='replace')[-500:]}")
        # One that still loads its data answers with an error.
        with suppress(OSError, resp.ServerError), resp.Connection(("127.0.0.1", port)) as connection:
            if connection.ask("PING") == b"PONG":
                if process.pid not in processes.listeners(port):
                    raise RuntimeError(f"something else listens on port {port}")
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing answers on port {port} after {limit} s")


def settle(server: Server, quiet_for: float = 1.0) -> None:
    """Return when the server has stopped working in the background, or after some seconds."""
    for _ in range(10):
        before = processes.cpu([server.pid]).seconds
        time.sleep(quiet_for)
        if processes.cpu([server.pid]).seconds - before < 0.02 * quiet_for:
            return


def free_descriptors(count: int) -> bool:
    """Allow this process and its children so many open files; whether that worked."""
    import resource  # noqa: PLC0415 - only some benchmarks need it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return True
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, count) if os.geteuid() == 0 else hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= count

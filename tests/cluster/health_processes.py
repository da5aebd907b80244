"""Health services, stand-ins for nodes, and etcd as real processes for the tests beside this file."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WAIT_SECONDS = 20.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(what: str, holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Poll until it holds; what it last was is in the failure."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = holds()
        except (OSError, urllib.error.URLError) as error:
            value = None
            last: object = error
        else:
            last = value
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s, last seen {last!r}"
        time.sleep(0.02)


class StandIn:
    """Answers PING as a node does, counts how often it was asked, and can fall silent or refuse."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[float] = []
        self.silent = False
        self.connections: list[socket.socket] = []
        self.listener: socket.socket | None = None
        self.port = port
        self.open()

    def open(self) -> None:
        """Listen (again) on the same port."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = listener.getsockname()[1]
        self.listener = listener
        self.accepting = threading.Thread(target=self.accept, args=(listener,), daemon=True)
        self.accepting.start()

    def close(self) -> None:
        """As a process that was killed: the port refuses, connections end."""
        if self.listener:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.accepting.join()  # It may just have taken one in, which must end as well.
            self.listener.close()
            self.listener = None
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.connections.clear()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                if b"PING" in data:
                    self.asked.append(time.monotonic())
                    if not self.silent:
                        connection.sendall(b"+PONG\r\n")


class HealthProcess:
    """`fastcache health` with a configuration of its own."""

    def __init__(self, directory: Path, port: int = 0, **settings: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = directory / "health.toml"
        table = {
            "port": self.port,
            "dir": str(directory / "data"),
            "profile": "fast",
            "settle": 0.2,
            **settings,
        }
        members = {kind: table.pop(kind, []) for kind in ("nodes", "proxies")}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        for kind, listed in members.items():
            for one in listed:
                lines += [f"[[{kind}]]", *(f"{key} = {json.dumps(value)}" for key, value in one.items())]
        self.file.write_text("\n".join(lines) + "\n")
        self.log = directory / "health.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "HealthProcess":
        """Launch it and wait until it knows who leads."""
        self.launch()
        return self.ready()

    def launch(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", "from fastcache.cli import main; main()"]
            self.process = subprocess.Popen(
                [*command, "health", "--config", str(self.file)], stdout=log, stderr=log
            )

    def ready(self) -> "HealthProcess":
        until(f"{self.url} serves", lambda: self.get("/leader")["leader"])
        return self

    def stop(self) -> int:
        """Ask it to leave; its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(WAIT_SECONDS)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return json.load(reply)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of any request."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return told(reply.status, reply.read(), reply.headers)
        except urllib.error.HTTPError as error:
            return told(error.code, error.read(), error.headers)

    def topology(self) -> dict[str, Any]:
        value: dict[str, Any] = self.get("/topology")
        return value

    def status(self, node: str) -> str:
        value: str = self.get(f"/health/nodes/{node}")["status"]
        return value


def told(status: int, body: bytes, headers: Any) -> tuple[int, Any, dict[str, str]]:
    fields = {name.lower(): value for name, value in headers.items()}
    is_json = fields.get("content-type", "").startswith("application/json")
    return status, json.loads(body) if is_json and body else body, fields


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[str]:
    """A real etcd of one; its URL."""
    client, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{client}"
    with (directory / "etcd.log").open("ab") as log:
        process = subprocess.Popen(
            [
                shutil.which("etcd") or "etcd",
                *("--name", "one", "--data-dir", str(directory / "etcd")),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-cluster", f"one=http://127.0.0.1:{peer}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:

        def healthy() -> bool:
            with urllib.request.urlopen(url + "/health", timeout=1) as reply:
                return b"true" in reply.read()

        until("etcd serves", healthy)
        yield url
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)

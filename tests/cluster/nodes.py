"""A few nodes as real processes, and topologies that a test gives them by hand, without a health service."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.cluster.embedded import PROGRAM, free_ports, until

PASSWORD = "between-nodes"
Reply = dict[bytes, Any]


class Nodes:
    """Nodes `a`, `b`, ... and the topology they were given last."""

    def __init__(self, directory: Path, count: int, **settings: str) -> None:
        self.directory = directory
        self.names = [chr(ord("a") + index) for index in range(count)]
        self.first_port = free_ports(2 * count)
        self.settings = settings
        #: Whether nodes speak to one another under TLS; the tests themselves do not.
        self.secure = settings.get("tls_cluster") == "yes"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: list[redis.Redis] = []
        self.epoch = 0
        for name in self.names:
            self.start(name)

    def port(self, name: str) -> int:
        return self.first_port + self.names.index(name)

    def known_port(self, name: str) -> int:
        """Where the others reach a node."""
        return self.port(name) + (len(self.names) if self.secure else 0)

    def start(self, name: str) -> None:
        """Start a node, or start it again; it answers when this returns."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        settings = {
            "port": str(self.port(name)),
            "bind": "127.0.0.1",
            "node-id": name,
            "requirepass": PASSWORD,
            "dir": str(home),
            **({"tls-port": str(self.known_port(name))} if self.secure else {}),
            **{name.replace("_", "-"): value for name, value in self.settings.items()},
        }
        file = home / "node.toml"
        file.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
        with (home / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [PROGRAM, "node", "--config", file], stdout=log, stderr=subprocess.STDOUT
            )
        until(lambda: answers(self.client(name)), f"{name} answers")

    def kill(self, name: str) -> None:
        """As a power cut does it."""
        self.processes[name].kill()
        self.processes[name].wait()

    def pause(self, name: str) -> None:
        """As a host that stands still."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def client(self, name: str, timeout: float = 30.0) -> redis.Redis:
        """A client of one node, which may read copies there."""
        made = redis.Redis(
            port=self.port(name), password=PASSWORD, protocol=3, socket_timeout=timeout, retry=None
        )
        self.clients.append(made)
        return made

    def topology(self, *groups: dict[str, Any], flags: tuple[str, ...] = ()) -> dict[str, Any]:
        """The next topology: `groups` as the document has them, all slots where none are named."""
        self.epoch += 1
        return {
            "epoch": self.epoch,
            "cluster": {"id": "test", "name": "test"},
            "flags": ["replication", *flags],
            "replicas": 1,
            "nodes": [
                {"id": name, "host": "127.0.0.1", "port": self.known_port(name)} for name in self.names
            ],
            "slots": [{"ranges": "0-16383", **group} for group in groups],
        }

    def obey(self, document: dict[str, Any], *names: str) -> None:
        """Have these nodes, or all that live, take a topology over."""
        for name in names or self.names:
            if self.processes[name].poll() is None:
                answer = self.client(name).execute_command(
                    "FASTCACHE", "TOPOLOGY", "SET", json.dumps(document)
                )
                assert answer == b"OK"

    def streams(self, name: str) -> list[Reply]:
        """What a node tells of its streams."""
        told: list[Reply] = self.client(name).execute_command("FASTCACHE", "STREAMS")
        return told

    def in_sync(self, name: str) -> bool:
        """Whether all streams from a node have passed on everything."""
        rows = [row for row in self.streams(name) if row[b"direction"] == b"out"]
        return bool(rows) and all(
            row[b"state"] == b"streaming" and row[b"acked"] == row[b"seq"] for row in rows
        )

    def figure(self, name: str, field: str) -> int:
        """A field of INFO."""
        return int(self.client(name).info("everything")[field])

    def end(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def seconds_until(true: Callable[[], bool], what: str) -> float:
    """How long it takes until something is true."""
    began = time.monotonic()
    until(true, what)
    return time.monotonic() - began

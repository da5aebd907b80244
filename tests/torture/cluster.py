"""A cluster of real processes on hosts.py: nodes and a health service to be killed, frozen and started."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.torture.hosts import Hosts

PORT = 7001
HEALTH_PORT = 8080
PROGRAM = [sys.executable, "-c", "from fastcache.cli import main; main()"]


class Cluster:
    """`nodes` nodes with a copy of everything, and a health service on a host of its own."""

    def __init__(
        self, directory: Path, *, nodes: int = 3, clients: int = 2, strict: bool = True, pace: dict[str, Any]
    ) -> None:
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.client_hosts = [f"c{number}" for number in range(1, clients + 1)]
        self.hosts = Hosts([*self.names, "health", *self.client_hosts])
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        health = self.hosts.address["health"]
        for name in self.names:
            home = directory / name
            home.mkdir(parents=True)
            (home / "node.toml").write_text(
                f'port = {PORT}\nbind = "0.0.0.0"\nprotected-mode = "no"\n'
                f'node-id = "{name}"\ndir = "{home}"\n'
                f'health = "http://{health}:{HEALTH_PORT}"\ntopology-file = "{home}/topology.json"\n'
            )
        (directory / "health").mkdir()
        flags = ["replication", *(["strict"] if strict else [])]
        table = {"bind": "0.0.0.0", "port": HEALTH_PORT, "dir": str(directory / "health"), "profile": "fast"}
        table |= {
            "advertise": f"http://{health}:{HEALTH_PORT}",
            "replicas": 1,
            "flags": flags,
            "settle": 0,
        } | pace
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        for name in self.names:
            lines += ["[[nodes]]", f'id = "{name}"', f'host = "{self.hosts.address[name]}"', f"port = {PORT}"]
        (directory / "health.toml").write_text("\n".join(lines) + "\n")
        for name in [*self.names, "health"]:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process that does not run."""
        if name in self.processes and self.processes[name].poll() is None:
            return
        home = self.directory / name
        kind = ["health", "--config", str(self.directory / "health.toml")]
        words = kind if name == "health" else ["node", "--config", str(home / "node.toml")]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.hosts.command(name, [*PROGRAM, *words]), stdout=log, stderr=log, cwd=home
            )

    def kill(self, name: str) -> None:
        """As the kernel ends a process: no word to anybody."""
        self.processes[name].kill()
        self.processes[name].wait()

    def freeze(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        if self.processes[name].poll() is None:
            self.processes[name].send_signal(signal.SIGCONT)

    def ask(self, path: str, body: object = None) -> Any:
        """A question to the health service, from its own host."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{HEALTH_PORT}{path}", data)
        with self.hosts.on("health"), urllib.request.urlopen(request, timeout=5) as reply:
            return json.load(reply)

    def whole(self) -> bool:
        """Whether every slot is served and has a copy in sync."""
        try:
            told = self.ask("/replication")
        except (OSError, ValueError):
            return False
        return bool(told["streams"]) and not told["slotsWithoutReplica"] and not told["slotsDown"]

    def until_whole(self, seconds: float = 60.0) -> float:
        """Wait for that; how long it took."""
        began = time.monotonic()
        while not self.whole():
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not in sync within {seconds:.0f} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def run_of(self, name: str) -> str:
        """The life of a node that the topology means."""
        try:
            runs = {node["id"]: node.get("run", "") for node in self.topology()["nodes"]}
        except (OSError, ValueError):
            return ""
        return str(runs.get(name, ""))

    def topology(self) -> dict[str, Any]:
        value: dict[str, Any] = self.ask("/topology")
        return value

    def close(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.thaw(name)
                process.kill()
            process.wait()
        self.hosts.close()

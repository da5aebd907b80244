"""Clusters of real processes on hosts.py, to be killed, frozen and started: ours, and Redis with Sentinel.

Of ours there are nodes with copies and a health service on a host of its own; of Redis a main, its replicas,
and three Sentinels, one of them on that host.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.torture.hosts import Hosts
from tests.torture.workloads import Reply, Words

PORT = 7001
HEALTH_PORT = 8080
SENTINEL_PORT = 26379
PROGRAM = [sys.executable, "-c", "from fastcache.cli import main; main()"]
# It lies between a process and its clock of the day.
FAKE_CLOCK = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
# MB of a disk that can be full.
SMALL_DISK = 64


class Fleet:
    """What all clusters have: hosts with a process each."""

    def __init__(self, directory: Path, names: list[str], clients: int) -> None:
        self.names = names
        self.client_hosts = [f"c{number}" for number in range(1, clients + 1)]
        self.hosts = Hosts([*self.names, "health", *self.client_hosts])
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.mounted: list[Path] = []

    def words(self, name: str) -> list[str]:
        """The command of a host's process."""
        raise NotImplementedError

    def whole(self) -> bool:
        """Whether everything is served and has its copies in sync."""
        raise NotImplementedError

    def confirming(self, kind: str) -> list[Words]:
        """What a client asks after an operation to have it confirmed."""
        return []

    def confirmed(self, kind: str, replies: list[Reply]) -> bool:
        return True

    def start(self, name: str) -> None:
        """Start a process that does not run."""
        if name in self.processes and self.processes[name].poll() is None:
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.hosts.command(name, self.words(name)),
                stdout=log,
                stderr=log,
                cwd=self.directory / name,
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

    def until_whole(self, seconds: float = 60.0) -> float:
        """Wait for that; how long it took."""
        began = time.monotonic()
        while not self.whole():
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not in sync within {seconds:.0f} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                self.thaw(name)
                process.kill()
            process.wait()
        for path in self.mounted:
            subprocess.run(["umount", "-l", path], check=False)
        self.hosts.close()


class Cluster(Fleet):
    """`nodes` nodes with a copy of everything, and a health service."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        clients: int = 2,
        strict: bool = True,
        pairs: bool = False,
        pace: dict[str, Any],
        node: dict[str, str | int] | None = None,
        clocks: bool = False,
        disks: bool = False,
    ) -> None:
        super().__init__(directory, [f"n{number}" for number in range(1, nodes + 1)], clients)
        self.clocks = clocks
        health = self.hosts.address["health"]
        for name in self.names:
            home = directory / name
            home.mkdir(parents=True)
            if disks:
                subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}m", "none", home], check=True
                )
                self.mounted.append(home)
            settings = {
                "port": PORT,
                "bind": "0.0.0.0",
                "protected-mode": "no",
                "node-id": name,
                "dir": str(home),
                "health": f"http://{health}:{HEALTH_PORT}",
                "topology-file": f"{home}/topology.json",
            } | (node or {})
            lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            (directory / f"{name}.toml").write_text(lines)
            self.turn_clock(name, 0)
        (directory / "health").mkdir()
        flags = ["replication", *(["strict"] if strict else [])]
        table = {"bind": "0.0.0.0", "port": HEALTH_PORT, "dir": str(directory / "health"), "profile": "fast"}
        table |= {
            "advertise": f"http://{health}:{HEALTH_PORT}",
            "replicas": 1,
            "flags": flags,
            "settle": 0,
        } | pace
        if pairs:
            table |= {
                "replica-placement": "pairs",
                "pairs": [self.names[at : at + 2] for at in range(0, nodes, 2)],
            }
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        for name in self.names:
            lines += ["[[nodes]]", f'id = "{name}"', f'host = "{self.hosts.address[name]}"', f"port = {PORT}"]
        (directory / "health.toml").write_text("\n".join(lines) + "\n")
        for name in [*self.names, "health"]:
            self.start(name)

    def words(self, name: str) -> list[str]:
        if name == "health":
            return [*PROGRAM, "health", "--config", str(self.directory / "health.toml")]
        node = [*PROGRAM, "node", "--config", str(self.directory / f"{name}.toml")]
        if not self.clocks:
            return node
        file = f"FAKETIME_TIMESTAMP_FILE={self.directory / name}.clock"
        settings = [file, "FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        return ["env", f"LD_PRELOAD={FAKE_CLOCK}", *settings, *node]

    def turn_clock(self, name: str, seconds: int) -> None:
        """Put a node's clock of the day before or behind the true time."""
        file = self.directory / f"{name}.clock"
        file.with_suffix(".new").write_text(f"{seconds:+d}\n")
        file.with_suffix(".new").rename(file)

    def wipe(self, name: str) -> None:
        """A disk that is lost; what is not running has nothing left."""
        for path in (self.directory / name).iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def fill_disk(self, name: str) -> None:
        with (self.directory / name / "filler").open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                pass

    def clear_disk(self, name: str) -> None:
        (self.directory / name / "filler").unlink(missing_ok=True)

    def ask(self, path: str, body: object = None) -> Any:
        """A question to the health service, from its own host."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{HEALTH_PORT}{path}", data)
        with self.hosts.on("health"), urllib.request.urlopen(request, timeout=5) as reply:
            return json.load(reply)

    def whole(self) -> bool:
        try:
            told = self.ask("/replication")
        except (OSError, ValueError):
            return False
        return bool(told["streams"]) and not told["slotsWithoutReplica"] and not told["slotsDown"]

    def run_of(self, name: str) -> str:
        """The life of a node that the topology means."""
        try:
            runs = {node["id"]: node.get("run", "") for node in self.topology()["nodes"]}
        except (OSError, ValueError):
            return ""
        return str(runs.get(name, ""))

    def mains(self) -> set[str]:
        """Nodes that serve slots."""
        return {group["main"] for group in self.topology()["slots"] if group.get("main")}

    def topology(self) -> dict[str, Any]:
        value: dict[str, Any] = self.ask("/topology")
        return value


class SentinelFleet(Fleet):
    """Redis with a main and two replicas, three Sentinels tuned to a second, and clients that WAIT."""

    def __init__(self, directory: Path, *, clients: int = 2) -> None:
        super().__init__(directory, ["n1", "n2", "n3"], clients)
        for name in [*self.names, "health"]:
            (directory / name).mkdir(parents=True)
            (directory / name / "sentinel.conf").write_text(
                f"port {SENTINEL_PORT}\nprotected-mode no\n"
                f"sentinel monitor fleet {self.hosts.address['n1']} {PORT} 2\n"
                "sentinel down-after-milliseconds fleet 1000\nsentinel failover-timeout fleet 3000\n"
            )
        for name in self.names:
            self.start(name)
        self.sentinels = [self.sentinel(name) for name in ("n2", "n3", "health")]

    def sentinel(self, name: str) -> subprocess.Popen[bytes]:
        words = ["redis-server", str(self.directory / name / "sentinel.conf"), "--sentinel"]
        with (self.directory / f"{name}-sentinel.log").open("ab") as log:
            return subprocess.Popen(self.hosts.command(name, words), stdout=log, stderr=log)

    def words(self, name: str) -> list[str]:
        if name == "health":
            return ["sleep", "infinity"]
        options = ["--port", str(PORT), "--protected-mode", "no", "--save", "", "--appendonly", "no"]
        if name != "n1":
            options += ["--replicaof", self.hosts.address["n1"], str(PORT)]
        return ["redis-server", *options]

    def confirming(self, kind: str) -> list[Words]:
        """Only a main answers reads; writes are to be on a replica."""
        return [["ROLE"]] if kind == "read" else [["WAIT", "1", "1000"]]

    def confirmed(self, kind: str, replies: list[Reply]) -> bool:
        last = replies[-1]
        if kind == "read":
            return isinstance(last, list) and last[0] == b"master"
        return isinstance(last, int) and last >= 1

    def whole(self) -> bool:
        mains, online = 0, 0
        for name in self.names:
            try:
                with self.hosts.on(name), socket.create_connection(("127.0.0.1", PORT), 1) as connection:
                    connection.sendall(b"INFO replication\r\n")
                    time.sleep(0.02)
                    told = connection.recv(65536)
            except OSError:
                return False
            mains += told.count(b"role:master")
            online += told.count(b"state=online")
        return (mains, online) == (1, 2)

    def close(self) -> None:
        for process in self.sentinels:
            process.kill()
            process.wait()
        super().close()

"""Four nodes behind a proxy and HAProxy, started as a user would, to be compared with one Redis.

Cases are played as they are. Where a command needs keys of several nodes at once the fleet refuses with
CROSSSLOT, as a Redis cluster does, and the case ends there; everything before that must be alike. What else
differs on purpose stands in fleet.toml.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.embedded import free_ports
from tests.conformance.servers import Server, ServerFailedError, fastcache_command
from tests.conformance.wire import Connection

NODES = 4
SECONDS = 120
SECONDS_TO_HEAR = 10
LISTENED = ("CHANNELS", "SHARDCHANNELS", "NUMPAT")


@dataclass
class Fleet(Server):
    """A whole cluster, to be talked to at HAProxy's port."""

    home: Path = Path()
    pids: tuple[int, ...] = ()
    # The port of a node.
    node: int = 0

    def alive(self) -> bool:
        return all(Path(f"/proc/{pid}").exists() for pid in self.pids)

    def clean(self) -> None:
        """That a client is gone comes to nodes by way of HAProxy and the proxy: a moment later."""
        super().clean()
        connection = Connection(self.address)
        deadline = time.monotonic() + SECONDS_TO_HEAR
        while any(connection.value("PUBSUB", what) for what in LISTENED):
            if time.monotonic() > deadline:
                raise ServerFailedError("somebody still listens whose connection was closed")
            time.sleep(0.01)
        connection.close()

    def stop(self) -> None:
        self.hang_up()
        call(self.home, "down")
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def call(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `fastcache WORDS` for the cluster in a directory."""
    environment = {**os.environ, "FASTCACHE_DIR": str(home), "LC_ALL": "C"}
    return subprocess.run(
        [fastcache_command(), *words], env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def start_fleet(directory: Path) -> Fleet:
    """Start it; ports are free ones, the nodes' and the proxy's in a row."""
    home = directory / "c"
    first = free_ports(NODES + 4)
    ports = {"node": first, "proxy": first + NODES, "health": first + NODES + 1, "stats": first + NODES + 2}
    door = first + NODES + 3
    options = [f"--{kind}-port={port}" for kind, port in ports.items()]
    settings = ["--set", "enable-debug-command=yes"]
    up = call(
        home,
        "up",
        f"--nodes={NODES}",
        "--proxies=1",
        "--profile=reference",
        f"--port={door}",
        *options,
        *settings,
    )
    if up.returncode:
        raise ServerFailedError(up.stdout + up.stderr)
    status = json.loads(call(home, "status", "-o", "json").stdout)
    pids = tuple(int(one["pid"]) for kind in ("nodes", "proxies", "services") for one in status.get(kind, []))
    # The parts of a cluster outlive their parent; this one only stands for them.
    process = subprocess.Popen(["sleep", "infinity"])
    log = home / f"proxy-{ports['proxy']}" / "proxy.log"
    return Fleet(
        "ours", door, home / f"proxy-{ports['proxy']}", process, log, home=home, pids=pids, node=first
    )

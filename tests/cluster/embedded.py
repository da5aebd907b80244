"""The command line as a user of a fresh machine has it: a directory and ports of its own for each test."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 30.0
PROGRAM = Path(sys.executable).with_name("fastcache")


@dataclass(frozen=True)
class Embedded:
    """One cluster's directory and first port, and the commands that act on it."""

    directory: Path
    port: int

    def call(self, *arguments: str, directory: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `fastcache ARGUMENTS` to its end."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTCACHE")}
        environment |= {"FASTCACHE_DIR": str(self.directory)} if directory else {}
        return subprocess.run(
            [PROGRAM, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`fastcache up --only nodes` at the ports of this test."""
        return self.call("up", "--only", "nodes", "--node-port", str(self.port), *arguments)

    def whole(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`fastcache up` of everything, at the ports of this test."""
        kinds = ("node", "proxy", "health", "stats")
        ports = [f"--{kind}-port={self.port_of(kind)}" for kind in kinds]
        return self.call("up", *ports, f"--port={self.port_of('balancer')}", *arguments)

    def port_of(self, kind: str) -> int:
        """The (first) port of a kind of process."""
        return self.port + {"node": 0, "proxy": 20, "health": 40, "balancer": 41, "stats": 42}[kind]

    def status(self) -> tuple[int, dict[str, Any]]:
        """The exit code of `fastcache status`, and what it says."""
        done = self.call("status", "-o", "json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def pid(self, index: int) -> int:
        """The process of the node at `index`."""
        return int(self.status()[1]["nodes"][index]["pid"])


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports nobody listens on; below those the kernel gives to clients."""
    start = 20000 + os.getpid() * 7 % 8000
    for first in range(start, 32000 - count, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as attempt:
                    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    attempt.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something to become true, and fail by name when it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.02)

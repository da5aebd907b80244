"""Failover: nodes are killed under load, one after another; how long writes wait, and whether any is lost.

    python -m bench.failover [--kills 100] [--replicas 1] [--consistency strict] [--nodes 4] [--rate 2000]

An embedded cluster of our own, its profile `fast`. Writers go through HAProxy and the proxies. A round: a
node dies by SIGKILL; from that moment on several keys of its slots are written to, over connections of their
own, until every one is acknowledged; the slowest counts. Then the node is started again, and the next round
begins once every slot has its copies in sync. After each round every key must hold at least what was last
acknowledged.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import processes, resp, servers
from bench.report import Verdicts, middle, table
from fastcache import _core

MEDIAN_BAR, WORST_BAR = 1.0, 2.0
WRITERS, KEYS_OF_EACH, PROBES = 8, 25, 4
FEWEST_SLOTS = 500
#: Seconds after which a write that was sent is given up, and a round is.
WRITE_PATIENCE, ROUND_PATIENCE = 10.0, 90.0


@dataclass(slots=True)
class Cluster:
    """The embedded cluster under test."""

    directory: str
    port: int
    nodes: int

    @property
    def address(self) -> tuple[str, int]:
        """HAProxy."""
        return ("127.0.0.1", self.port)

    def up(self, *more: str) -> None:
        """Start it, or what has ended of it."""
        command = [servers.fastcache(), "up", "--dir", self.directory, *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)

    def ask(self, path: str) -> Any:
        """What the health service says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 1}{path}", timeout=5) as answer:
            return json.load(answer)

    def whole(self) -> bool:
        """Whether every slot has all its copies in sync, and every node is known to be well."""
        with suppress(OSError):
            told = self.ask("/replication")
            streams = all(not one["joining"] and not one["learning"] for one in told["streams"])
            healthy = self.ask("/health/summary")["healthyNodes"] == self.nodes
            return bool(streams and healthy and not told["slotsWithoutReplica"] and not told["slotsDown"])
        return False

    def until_whole(self) -> None:
        """Wait for that; once more after a moment, since a verdict may be on its way."""
        limit = time.monotonic() + ROUND_PATIENCE
        seen = 0
        while seen < 2:
            if time.monotonic() > limit:
                raise RuntimeError(f"not whole after {ROUND_PATIENCE:.0f} s: {self.ask('/replication')}")
            seen = seen + 1 if self.whole() else 0
            time.sleep(0.2)

    def pid(self, node: str) -> int:
        """The process of a node."""
        found = processes.listeners(int(node.rpartition("-")[2]))
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} processes listen for {node}")
        return found[0]


@contextmanager
def running(arguments: argparse.Namespace) -> Iterator[Cluster]:
    """The cluster, while the block lasts."""
    port = arguments.port
    with tempfile.TemporaryDirectory(prefix="fc-") as directory:
        cluster = Cluster(directory, port, arguments.nodes)
        ports = {"--port": port, "--health-port": port + 1, "--stats-port": port + 2}
        ports |= {"--proxy-port": port + 10, "--node-port": port + 20}
        sizes = {"--nodes": arguments.nodes, "--proxies": 2, "--replicas": arguments.replicas}
        words = [str(word) for pair in (ports | sizes).items() for word in pair]
        try:
            cluster.up(*words, "--consistency", arguments.consistency)
            cluster.until_whole()
            yield cluster
        finally:
            down = [servers.fastcache(), "down", "--dir", directory]
            subprocess.run(down, check=False, stdout=subprocess.DEVNULL, timeout=60)


@dataclass(slots=True)
class Writer(threading.Thread):
    """Writes rising numbers to keys of its own, and remembers what was acknowledged."""

    address: tuple[str, int]
    name_of_keys: str
    pause: float
    acknowledged: dict[str, int] = field(default_factory=dict)
    count: int = 0
    refused: int = 0
    unknown: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        threading.Thread.__init__(self, daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        number = 0
        while not self.over:
            try:
                with resp.Connection(self.address, WRITE_PATIENCE) as connection:
                    while not self.over:
                        number += 1
                        self.write(connection, number)
                        time.sleep(self.pause)
            except OSError:
                self.unknown += 1
                time.sleep(0.01)

    def write(self, connection: resp.Connection, number: int) -> None:
        """One write, and what came of it."""
        key = f"{self.name_of_keys}-{number % KEYS_OF_EACH}"
        try:
            connection.ask("SET", key, number)
        except resp.ServerError as error:
            if str(error).startswith("UNKNOWN"):
                self.unknown += 1
            else:
                self.refused += 1
        else:
            self.acknowledged[key] = number
            self.count += 1

    def lost(self, connection: resp.Connection) -> list[str]:
        """Keys that hold less than was acknowledged."""
        before = dict(self.acknowledged)
        values = connection.pipeline([("GET", key) for key in before])
        held = {
            key: int(value) if isinstance(value, bytes) else 0
            for key, value in zip(before, values, strict=True)
        }
        return [f"{key}: {held[key]} after {number}" for key, number in before.items() if held[key] < number]


def until_written(address: tuple[str, int], key: str, began: float) -> float:
    """Seconds from `began` until a write to a key is acknowledged."""
    while time.monotonic() - began < ROUND_PATIENCE:
        with suppress(OSError), resp.Connection(address, WRITE_PATIENCE) as connection:
            while time.monotonic() - began < ROUND_PATIENCE:
                with suppress(resp.ServerError):
                    connection.ask("SET", key, "x")
                    return time.monotonic() - began
                time.sleep(0.002)
    return time.monotonic() - began


def keys_of(cluster: Cluster, node: str, dice: random.Random) -> list[str]:
    """Keys whose main a node is, of different slots."""
    topology = _core.Topology(json.dumps(cluster.ask("/topology")).encode())
    found: list[str] = []
    while len(found) < PROBES:
        key = f"probe-{dice.randrange(1 << 40)}"
        if topology.holders(_core.slot_of(key))[0] == node:
            found.append(key)
    return found


def dead(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def kill(cluster: Cluster, node: str, dice: random.Random) -> list[float]:
    """Kill a node: seconds from then until each probed key of it can be written again."""
    keys, pid = keys_of(cluster, node, dice), cluster.pid(node)
    seconds: list[float] = []
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while not dead(pid):
        time.sleep(0.0005)
    probes = [
        threading.Thread(target=lambda key=key: seconds.append(until_written(cluster.address, key, began)))
        for key in keys
    ]
    for probe in probes:
        probe.start()
    for probe in probes:
        probe.join()
    return sorted(seconds)


def rounds(cluster: Cluster, arguments: argparse.Namespace) -> tuple[list[float], list[str], list[Writer]]:
    """Seconds of each round, what was lost, and the writers."""
    dice = random.Random(arguments.seed)
    writers = [Writer(cluster.address, f"w{number}", WRITERS / arguments.rate) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    worst: list[float] = []
    lost: list[str] = []
    try:
        for number in range(arguments.kills):
            # Whoever was killed comes back as a copy: only those that are mains are of interest.
            mains = cluster.ask("/replication")["mains"]
            victim = dice.choice(sorted(name for name, slots in mains.items() if slots >= FEWEST_SLOTS))
            seconds = kill(cluster, victim, dice)
            worst.append(seconds[-1])
            time.sleep(dice.uniform(0.0, 0.5))
            cluster.up()
            cluster.until_whole()
            with resp.Connection(cluster.address) as connection:
                gone = [line for writer in writers for line in writer.lost(connection)]
            lost += gone
            told = ", ".join(f"{one:.2f}" for one in seconds)
            print(
                f"# round {number + 1}: {victim} killed, written again after {told} s, {len(gone)} lost",
                file=sys.stderr,
            )
    finally:
        for writer in writers:
            writer.over = True
    return worst, lost, writers


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill nodes under load; how long do writes wait?")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--consistency", choices=["eventual", "strict"], default="eventual")
    parser.add_argument("--rate", type=float, default=2000, help="writes a second beside")
    parser.add_argument("--port", type=int, default=27400, help="HAProxy's; others up to 40 above")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    print(f"# seed {arguments.seed}, {_core.build_profile()} build", file=sys.stderr)
    with running(arguments) as cluster:
        began = time.monotonic()
        worst, lost, writers = rounds(cluster, arguments)
        seconds = time.monotonic() - began
        counted = cluster.ask("/replication")["lostWrites"]
    verdicts = Verdicts()
    worst.sort()
    ninety_nine = worst[min(len(worst) - 1, int(len(worst) * 0.99))]
    rows = [
        [
            "median",
            f"{middle(worst):.2f} s",
            f"{MEDIAN_BAR:g}",
            verdicts.judge("median", middle(worst), MEDIAN_BAR),
        ],
        ["99 %", f"{ninety_nine:.2f} s", "", ""],
        ["worst", f"{worst[-1]:.2f} s", f"{WORST_BAR:g}", verdicts.judge("worst", worst[-1], WORST_BAR)],
    ]
    if arguments.consistency == "strict":
        rows.append(["lost writes", str(len(lost)), "0", verdicts.judge("lost writes", len(lost), 0)])
    else:
        rows.append(["lost writes", f"{len(lost)} keys seen, {counted} counted by the service", "", ""])
    what = f"{arguments.kills} kills, {arguments.nodes} nodes, replicas: {arguments.replicas}"
    what += f", {arguments.consistency}"
    print(table(f"From kill -9 until writes are acknowledged: {what}", ["", "ours", "bar", ""], rows))
    acknowledged, refused, unknown = (
        sum(getattr(writer, name) for writer in writers) for name in ("count", "refused", "unknown")
    )
    print(
        f"\n{acknowledged} writes acknowledged beside ({acknowledged / seconds:.0f}/s), "
        f"{refused} refused, {unknown} of unknown outcome."
    )
    for line in lost[:20]:
        print(f"lost: {line}")
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())

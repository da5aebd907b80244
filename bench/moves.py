"""Slots that move: what clients notice of it, and how fast it is beside Redis' resharding.

    python -m bench.moves [--sections speed,load] [--rounds 3] [--rate 30000] [--replicas 0]

`speed`: half of the keys of one node to another, ours by the health service, Redis' by `redis-cli --cluster
reshard` (with the 10 keys of a MIGRATE that it has by default, and with 100): wall clock, and CPU time of the
two servers. `load`: four nodes become five and four again while a generator writes at a fixed rate through a
proxy, and registers are written and read beside it: failed requests, the judged history, and the 99th
percentile beside that of before.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import failover, processes, resp, servers, tools
from bench.report import Verdicts, middle, paired, table
from bench.servers import Kind, Server
from fastcache.client import health
from fastcache.embedded import start
from fastcache.errors import FastCacheError
from tests.history.linear import FOR_EVER, Operation, Verdict, judge

SLOTS = 16384
SPEED_BAR, TAIL_BAR = 0.5, 2.0
#: (keys, bytes of a value).
DATA = ((400_000, 64), (20_000, 10_000))
PIPELINES = (10, 100)
PATIENCE = 300.0
REGISTERS, CLIENTS = 20, 3
PERCENTILES = ("p50_us", "p99_us", "p999_us")


@dataclass(frozen=True, slots=True)
class Moved:
    """What moving half of the keys took."""

    wall: float
    cpu: float
    megabytes: float


# --- speed ------------------------------------------------------------------------------------------


def measured(both: tuple[Server, Server], size: int, move: Callable[[], None]) -> Moved:
    """Move, and what it took; half of the keys must be there afterwards."""
    giver, taker = both
    servers.settle(giver, 0.5)
    pids = [giver.pid, taker.pid]
    before, began = processes.cpu(pids).seconds, time.monotonic()
    move()
    wall, used = time.monotonic() - began, processes.cpu(pids).seconds - before
    left, came = (int(str(one.ask("DBSIZE"))) for one in both)
    if not 0.4 < came / (left + came) < 0.6:
        raise RuntimeError(f"{came} of {left + came} keys have moved")
    return Moved(wall, used, came * (16 + size) / 1e6)


@contextmanager
def health_service(directory: Path, port: int, first: int) -> Iterator[str]:
    """A health service that knows two nodes; the second is to hold nothing. Its URL."""
    lines = [f"port = {port}", f'dir = "{directory}"', 'placement = "manual"']
    for name, at, weight in (("a", first, 100), ("b", first + 1, 0)):
        lines += ["[[nodes]]", f'id = "{name}"', 'host = "127.0.0.1"', f"port = {at}", f"weight = {weight}"]
    file = directory / "health.toml"
    file.write_text("\n".join(lines) + "\n")
    with (directory / "health.log").open("wb") as log:
        process = subprocess.Popen(
            [servers.fastcache(), "health", "--config", str(file)], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    processes.prefer(process.pid)
    try:
        until(lambda: bool(health.call(url, "GET", "/topology")["slots"]), "slots are placed")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for it; who does not answer yet is asked again."""
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            if true():
                return
        except (OSError, ValueError, KeyError, resp.ServerError, FastCacheError) as error:
            what = f"{what.partition(': ')[0]}: {error}"
        if time.monotonic() > limit:
            raise RuntimeError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.02)


def ours(kind: Kind, port: int, keys: int, size: int) -> Moved:
    """Half of the slots by the health service, with its defaults."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as name:
        url = f"http://127.0.0.1:{port + 2}"
        with (
            servers.running(kind, port, {"node-id": "a", "health": url}) as giver,
            servers.running(kind, port + 1, {"node-id": "b", "health": url}) as taker,
            health_service(Path(name), port + 2, port),
        ):
            until(lambda: giver.ask("SET", "there", "1") == b"OK", "the node serves")
            tools.fill(port, "set", keys, size)

            def move() -> None:
                health.call(url, "POST", "/rebalance/start", {"weights": {"b": 100}})
                until(lambda: health.call(url, "GET", "/rebalance")["state"] == "idle", "it has ended")

            return measured((giver, taker), size, move)


def theirs(kind: Kind, port: int, keys: int, size: int, pipeline: int) -> Moved:
    """Half of the slots by redis-cli."""
    settings = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
    with servers.running(kind, port, settings) as giver, servers.running(kind, port + 1, settings) as taker:
        giver.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        giver.ask("CLUSTER", "MEET", "127.0.0.1", port + 1)
        until(lambda: all("cluster_state:ok" in told(one) for one in (giver, taker)), "the cluster is formed")
        tools.fill(port, "set", keys, size)
        ids = [as_text(one.ask("CLUSTER", "MYID")) for one in (giver, taker)]
        words = [
            *("redis-cli", "--cluster", "reshard", f"127.0.0.1:{port}", "--cluster-yes"),
            *("--cluster-from", ids[0], "--cluster-to", ids[1], "--cluster-slots", str(SLOTS // 2)),
            *("--cluster-pipeline", str(pipeline)),
        ]
        return measured(
            (giver, taker),
            size,
            lambda: driven(words),
        )


def driven(command: list[str]) -> None:
    """Run who does the moving, preferred to other work as the servers are."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        processes.prefer(process.pid)
        if process.wait(1200):
            raise RuntimeError(f"{' '.join(command)} failed")


def as_text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def told(server: Server) -> str:
    return as_text(server.ask("CLUSTER", "INFO"))


def speed(kinds: list[Kind], port: int, rounds: int, verdicts: Verdicts) -> str:
    """Moving the same keys, in turns."""
    rows = []
    for keys, size in DATA:
        figures: dict[str, list[Moved]] = {}
        for number, kind in itertools.product(range(rounds), kinds):
            print(f"# {keys} keys of {size} bytes, round {number + 1}: {kind.name}", file=sys.stderr)
            if kind.name == servers.OURS:
                figures.setdefault(kind.name, []).append(ours(kind, port, keys, size))
                continue
            for pipeline in PIPELINES:
                name = f"{kind.name}, {pipeline} keys a MIGRATE"
                figures.setdefault(name, []).append(theirs(kind, port, keys, size, pipeline))
        mine = figures[servers.OURS]
        for name, found in figures.items():
            row = [
                f"{keys:,} x {size} B",
                name,
                f"{middle([one.wall for one in found]):.2f}",
                f"{middle([one.megabytes / one.wall for one in found]):.1f}",
                f"{middle([one.cpu * 1000 / one.megabytes for one in found]):.1f}",
            ]
            if name != servers.OURS:
                walls = paired([one.wall for one in mine], [one.wall for one in found])
                cpus = paired([one.cpu for one in mine], [one.cpu for one in found])
                what = f"{size} B against {name}"
                row += [f"{walls:.2f}", verdicts.judge(f"{what}, wall: {walls:.2f}", walls, SPEED_BAR)]
                row += [f"{cpus:.2f}", verdicts.judge(f"{what}, CPU: {cpus:.2f}", cpus, SPEED_BAR)]
            rows.append([*row, *[""] * (9 - len(row))])
    bar = f"<= {SPEED_BAR}"
    head = ["keys", "server", "wall s", "MB/s", "CPU ms/MB", "ours / wall", bar, "ours / CPU", bar]
    return table("Half of the slots to another node", head, rows)


# --- load -------------------------------------------------------------------------------------------


class Registers:
    """Clients that write, count and read a few keys without a pause, and note what they were told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.history: list[Operation] = []
        self.failed: list[str] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(CLIENTS)]
        for one in self.threads:
            one.start()

    def work(self, number: int) -> None:
        with resp.Connection(self.address, timeout=30) as connection:
            for turn in itertools.count(1):
                if self.over.wait(0.001):
                    return
                key, name = f"register:{turn % REGISTERS}", f"{number}.{turn}"
                value, start = number * 10**9 + turn, time.monotonic()
                kind = ("write", "read", "add")[turn % 3]
                key = f"count:{key}" if kind == "add" else key
                words = {"write": ("SET", key, value), "read": ("GET", key), "add": ("INCR", key)}[kind]
                try:
                    said = connection.ask(*words)
                except resp.ServerError as error:
                    self.failed.append(str(error))
                    self.history.append(Operation(name, key, kind, start, FOR_EVER, value))
                    continue
                read = int(said) if isinstance(said, bytes) and kind == "read" else said
                put = {"write": value, "add": 1}.get(kind)
                out = None if kind == "write" else read
                self.history.append(Operation(name, key, kind, start, time.monotonic(), put, output=out))

    def end(self) -> set[Verdict]:
        """Their verdicts."""
        self.over.set()
        for one in self.threads:
            one.join(60)
        return set(judge(self.history, seconds=60).values())


def written(port: int, rate: int, seconds: float = 1.0) -> dict[str, Any]:
    """A second of writes at a fixed rate; an error ends the benchmark."""
    load = ("-T", "set", "-P", 1, "-c", 50, "-d", 64, "-r", DATA[0][0], "-w", 0.1)
    return tools.generator("rgen", "-p", port, *load, "-R", rate, "-t", seconds)


def prefer_all(cluster: failover.Cluster) -> None:
    """Shield every process of the cluster from the machine's other work."""
    record = json.loads((Path(cluster.directory) / "cluster.json").read_text())
    for one in record["processes"]:
        less = start.GIVES_WAY if one["spec"]["kind"] == "health" else 0
        with suppress(OSError):
            processes.prefer(int(one["identity"]["pid"]), processes.PREFERRED + less)


def while_it_runs(command: list[str], cluster: failover.Cluster, rate: int) -> list[dict[str, Any]]:
    """Seconds of writes during a command, which has to succeed."""
    seen = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        processes.prefer(running.pid)  # And what it starts.
        while True:
            prefer_all(cluster)
            one = written(cluster.port + 10, rate)
            if running.poll() is not None:
                break
            seen.append(one)
        if running.returncode:
            raise RuntimeError(f"{' '.join(command)} failed")
    return seen or [one]


def load(options: argparse.Namespace, verdicts: Verdicts) -> str:
    """Four nodes, five, four."""
    rows = []
    with failover.running(options) as cluster:
        door, ourselves = options.port + 10, servers.fastcache()
        if options.max_p99 or options.max_mb:
            budget = {"p99Ms": options.max_p99, "megabytesPerSecond": options.max_mb}
            health.call(f"http://127.0.0.1:{options.port + 1}", "POST", "/rebalance/start", budget)
        tools.fill(door, "set", DATA[0][0], 64)
        busy, began = processes.machine_busy(), time.monotonic()
        registers = Registers(("127.0.0.1", door))
        prefer_all(cluster)
        quiet = [written(door, options.rate) for _ in range(8)]
        phases = {"quiet": quiet}
        command = [ourselves, "node", "add", "--dir", cluster.directory]
        phases["4 -> 5"] = while_it_runs(command, cluster, options.rate)
        command = [ourselves, "node", "remove", f"node-{options.port + 20}", "--dir", cluster.directory]
        phases["5 -> 4"] = while_it_runs(command, cluster, options.rate)
        found = registers.end()
        share = (processes.machine_busy() - busy) / (time.monotonic() - began) / (os.cpu_count() or 1)
        if registers.failed or found != {Verdict.OK}:
            raise RuntimeError(f"{len(registers.failed)} failed, {found}: {registers.failed[:3]}")
    reached = min(middle([one["rps"] for one in seconds]) for seconds in phases.values())
    verdicts.judge(f"{reached:.0f} writes a second reached", reached, 0.9 * options.rate, at_least=True)
    still = middle([one["p99_us"] for one in quiet])
    for name, seconds in phases.items():
        tail = middle([one["p99_us"] for one in seconds])
        ratio = tail / still
        rows.append(
            [
                name,
                str(len(seconds)),
                f"{middle([one['rps'] for one in seconds]):.0f}",
                *(
                    f"{middle([one[what] for one in seconds]):.0f}"
                    for what in ("p50_us", "p99_us", "p999_us")
                ),
                str(max(one["max_us"] for one in seconds)),
                f"{ratio:.2f}",
                "" if name == "quiet" else verdicts.judge(f"p99, {name}: {ratio:.2f}", ratio, TAIL_BAR),
            ]
        )
    head = ["phase", "seconds", "writes/s", "p50 us", "p99 us", "p99.9 us", "worst us", "p99 ratio"]
    shape = f"{options.nodes} nodes, {options.replicas} copies, {options.consistency}"
    title = f"{shape}, writes at {options.rate:,} a second"
    text = table(title, [*head, f"<= {TAIL_BAR:.0f}"], rows)
    return (
        f"{text}\n\n0 failed requests; {len(registers.history)} register operations are linearizable;"
        f" the cores were {share:.0%} busy."
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.moves", description="Slots that move.")
    parser.add_argument("--sections", default="speed,load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=30_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=0)
    parser.add_argument("--consistency", default="eventual", choices=["eventual", "strict"])
    parser.add_argument("--max-p99", type=float, default=0, help="budget of an answer, ms")
    parser.add_argument("--max-mb", type=float, default=0, help="budget of a node, megabytes a second")
    parser.add_argument("--port", type=int, default=17800)
    chosen = parser.parse_args()
    verdicts, sections = Verdicts(), chosen.sections.split(",")
    if "speed" in sections:
        print(speed(servers.kinds(["redis"]), chosen.port, chosen.rounds, verdicts), flush=True)
    if "load" in sections:
        print(load(chosen, verdicts), flush=True)
    print(f"\n{len(verdicts.met)} bars met, {len(verdicts.missed)} missed")
    for each in verdicts.missed:
        print(f"- missed: {each}")
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())

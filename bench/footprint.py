"""Memory: per key, of an idle node, of fifty idle nodes; and how fast those come up."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from bench import processes, servers, tools
from bench.report import Verdicts, table
from bench.servers import OURS, Kind

COUNT = 1_000_000
# What is filled in, the most bytes of resident memory we may take for each, and how.
FILLS: list[tuple[str, float, str, int]] = [
    ("key, 16 + 64 bytes", 105, "set", 0),
    ("key with TTL", 110, "set", 100_000),
    ("sorted-set member, 16 bytes", 70, "zadd", 0),
]
STREAM_BAR = 0.9  # Of what each peer takes.
MEBIBYTE = 1 << 20
IDLE_PSS_BAR = 9.0
FLEET = 50
FLEET_BARS = (400.0, 5.0, 0.03)  # MiB of all, seconds until all answer, cores while idle.


def per_key(kinds: list[Kind], port: int, verdicts: Verdicts) -> str:
    """Resident bytes for each of a million keys, and of a million members of one sorted set."""
    rows = []
    for what, bar, operation, ttl in FILLS:
        costs = {}
        for kind in kinds:
            print(f"# memory: {what}, {kind.name}", file=sys.stderr)
            with servers.running(kind, port) as server:
                servers.settle(server, 0.5)
                empty, _ = processes.memory(server.pid)
                tools.fill(port, operation, COUNT, 64, ttl)
                servers.settle(server)
                full, _ = processes.memory(server.pid)
                costs[kind.name] = (full - empty) / COUNT
        name = f"bytes per {what}: {costs[OURS]:.0f}"
        peers = [f"{costs[kind.name]:.0f}" for kind in kinds if kind.name != OURS]
        rows.append(
            [what, f"{costs[OURS]:.1f}", *peers, f"{bar:.0f}", verdicts.judge(name, costs[OURS], bar)]
        )
    head = ["resident bytes per", OURS, *(kind.name for kind in kinds if kind.name != OURS), "bar", ""]
    return table(f"Memory, {COUNT:,} of each", head, rows)


def per_entry(kinds: list[Kind], port: int, verdicts: Verdicts) -> str:
    """Resident bytes for each of a million entries of one stream: a field, and a value of ten bytes."""
    costs = {}
    for kind in kinds:
        print(f"# memory: stream, {kind.name}", file=sys.stderr)
        with servers.running(kind, port) as server:
            servers.settle(server, 0.5)
            empty, _ = processes.memory(server.pid)
            words = ["XADD", "stream", "*", "field", "0123456789"]
            load = ["redis-benchmark", "-p", str(port), "-c", "4", "-P", "50", "-n", str(COUNT), "-q", *words]
            subprocess.run(load, check=True, capture_output=True, timeout=600)
            servers.settle(server)
            full, _ = processes.memory(server.pid)
            costs[kind.name] = (full - empty) / COUNT
    rows = []
    for kind in kinds:
        row = [kind.name, f"{costs[kind.name]:.1f}"]
        if kind.name != OURS:
            ratio = costs[OURS] / costs[kind.name]
            what = f"bytes per entry of a stream beside {kind.name}: {ratio:.2f}"
            row += [f"{ratio:.2f}", f"{STREAM_BAR}", verdicts.judge(what, ratio, STREAM_BAR)]
        rows.append([*row, *[""] * (5 - len(row))])
    head = ["server", "bytes per entry", "ours of this", "bar", ""]
    return table(f"Memory of a stream, {COUNT:,} entries", head, rows)


def idle(kinds: list[Kind], port: int, verdicts: Verdicts) -> str:
    """Memory of a node that has just started and does nothing."""
    rows = []
    for kind in kinds:
        with servers.running(kind, port) as server:
            servers.settle(server, 0.5)
            resident, proportional = (size / MEBIBYTE for size in processes.memory(server.pid))
        bar, verdict = "-", ""
        if kind.name == OURS:
            bar = f"{IDLE_PSS_BAR:.0f}"
            verdict = verdicts.judge(
                f"PSS of an idle node: {proportional:.1f} MiB", proportional, IDLE_PSS_BAR
            )
        rows.append([kind.name, f"{resident:.1f}", f"{proportional:.1f}", bar, verdict])
    return table("An idle node, alone", ["server", "RSS MiB", "PSS MiB", "PSS bar", ""], rows)


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """What fifty idle nodes take."""

    seconds: float
    mebibytes: float
    cores: float


def fleet(first_port: int, verdicts: Verdicts, watched_for: float = 10) -> str:
    """`fastcache up` with fifty nodes: until all answer, and what they take when idle."""
    figures = raise_fleet(first_port, watched_for)
    values = (figures.mebibytes, figures.seconds, figures.cores)
    names = ("PSS of all, MiB", "seconds until all answer", "cores while idle")
    rows = [
        [
            name,
            f"{value:.3g}",
            f"{bar:g}",
            verdicts.judge(f"{FLEET} idle nodes, {name}: {value:.3g}", value, bar),
        ]
        for name, value, bar in zip(names, values, FLEET_BARS, strict=True)
    ]
    return table(f"{FLEET} idle nodes on one machine", ["", "ours", "bar", ""], rows)


def raise_fleet(first_port: int, watched_for: float) -> FleetFigures:
    """Start the nodes, look at them, stop them."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as directory:
        place = ["--dir", directory]
        wish = ["--nodes", str(FLEET), "--node-port", str(first_port), "--only", "nodes"]
        start = time.monotonic()
        subprocess.run([servers.fastcache(), "up", *wish, *place], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        try:
            pids = [
                pid for port in range(first_port, first_port + FLEET) for pid in processes.listeners(port)
            ]
            if len(pids) != FLEET:
                raise RuntimeError(f"{len(pids)} of {FLEET} nodes listen")
            time.sleep(2)
            before, start = processes.cpu(pids).seconds, time.monotonic()
            time.sleep(watched_for)
            cores = (processes.cpu(pids).seconds - before) / (time.monotonic() - start)
            mebibytes = sum(processes.memory(pid)[1] for pid in pids) / MEBIBYTE
        finally:
            subprocess.run([servers.fastcache(), "down", *place], check=False, stdout=subprocess.DEVNULL)
    return FleetFigures(seconds, mebibytes, cores)

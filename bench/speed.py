"""CPU time per operation and throughput, ours beside the peers', interleaved round by round.

A cell is OPERATION/PIPELINE/CONNECTIONS/SIZE, as get/16/50/64. The server's own CPU time per
operation is what is compared: it stays true when the generator is the limit.
"""

import sys
import time
from dataclasses import dataclass

from bench import processes, tools
from bench.report import Verdicts, middle, paired, table
from bench.servers import OURS, Server

KEYS = 100_000
QUIET = 0.06  # Others may take this share of a core before a measurement is repeated.

# The most we may take: against valkey, and against Debian 12's redis.
BARS: dict[str, tuple[float, float]] = {
    "set/1/50/64": (0.92, 0.90),
    "get/1/50/64": (0.92, 0.90),
    "set/16/50/64": (0.65, 0.50),
    "get/16/50/64": (0.65, 0.52),
    "set/100/50/64": (0.50, 0.32),
    "get/100/50/64": (0.50, 0.32),
    "set/16/50/1024": (0.75, 0.47),
    "get/16/50/1024": (0.75, 0.52),
    "zadd/16/50/64": (0.75, 0.68),
    "incr/16/50/64": (0.75, 0.58),
    "lpush/16/50/64": (0.75, 0.76),
    "hset/16/50/64": (0.75, 0.72),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server in one cell."""

    per_second: float
    microseconds: float  # CPU time of the server per operation.
    server_core: float
    generator_core: float
    others: float  # What other processes took, in cores.
    p50: int
    p99: int


def measure(server: Server, cell: str, seconds: float) -> Sample:
    """One run of the generator against one server."""
    operation, pipeline, connections, size = cell.split("/")
    prepare(server, operation, int(size))
    cpu, busy, start = processes.cpu([server.pid]), processes.machine_busy(), time.monotonic()
    load = ("-T", operation, "-P", pipeline, "-c", connections, "-d", size, "-r", KEYS, "-t", seconds)
    result = tools.generator("rgen", "-p", server.port, *load)
    wall = time.monotonic() - start
    used = processes.cpu([server.pid]).seconds - cpu.seconds
    active = result["total_ops"] / max(result["rps"], 1)
    generator = result["client_cpu"] / result["secs"]
    others = (processes.machine_busy() - busy - used) / wall - generator
    return Sample(
        per_second=result["rps"],
        microseconds=used / result["total_ops"] * 1e6,
        server_core=used / active,
        generator_core=generator,
        others=max(0.0, others),
        p50=result["p50_us"],
        p99=result["p99_us"],
    )


def prepare(server: Server, operation: str, size: int) -> None:
    """The keys that the operation works on."""
    collection = {"lpush": "mylist", "zadd": "myzset", "hset": "myhash"}.get(operation)
    if collection:
        server.ask("DEL", collection)
    if operation == "get" and server.loaded != size:
        tools.fill(server.port, "set", KEYS, size)
        server.loaded = size
    if operation == "set":
        server.loaded = None


def quietest(server: Server, cell: str, seconds: float, attempts: int = 3) -> Sample:
    """The attempt that others disturbed least; further attempts only while they disturb."""
    best = measure(server, cell, seconds)
    for _ in range(attempts - 1):
        if best.others <= QUIET:
            break
        best = min(best, measure(server, cell, seconds), key=lambda sample: sample.others)
    return best


def compare(servers: list[Server], cells: list[str], rounds: int, seconds: float, verdicts: Verdicts) -> str:
    """Measure every cell on every server, and say how we do."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    for number in range(rounds):
        for cell in cells:
            print(f"# round {number + 1} of {rounds}: {cell}", file=sys.stderr)
            for server in servers:
                samples.setdefault((cell, server.name), []).append(quietest(server, cell, seconds))
    details = [detail(cell, server.name, samples[cell, server.name]) for cell in cells for server in servers]
    rows = []
    for cell in cells:
        for position, peer in enumerate(("valkey", "redis")):
            if (cell, peer) in samples:
                bar = BARS.get(cell, (None, None))[position]
                rows.append(judged(cell, peer, samples[cell, OURS], samples[cell, peer], bar, verdicts))
    head = [
        "cell",
        "server",
        "k op/s (min-max)",
        "CPU us/op (min-max)",
        "core",
        "generator",
        "limit",
        "p50/p99 us",
    ]
    ratios = ["cell", "peer", "ours us/op", "peer us/op", "ratio", "bar", "", "op/s ratio"]
    return table("CPU and throughput", head, details) + "\n" + table("CPU against the bars", ratios, rows)


def detail(cell: str, name: str, samples: list[Sample]) -> list[str]:
    """A row of what was measured."""
    rates = [sample.per_second / 1000 for sample in samples]
    costs = [sample.microseconds for sample in samples]
    core, generator = (
        middle([getattr(s, each) for s in samples]) for each in ("server_core", "generator_core")
    )
    limit = "server" if core >= 0.95 else "generator" if generator >= 0.95 else "-"
    if any(sample.others > QUIET for sample in samples):
        limit += " (disturbed)"
    return [
        cell,
        name,
        f"{middle(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})",
        f"{middle(costs):.2f} ({min(costs):.2f}-{max(costs):.2f})",
        f"{core:.0%}",
        f"{generator:.0%}",
        limit,
        f"{middle([s.p50 for s in samples]):.0f}/{middle([s.p99 for s in samples]):.0f}",
    ]


def judged(
    cell: str, peer: str, ours: list[Sample], theirs: list[Sample], bar: float | None, verdicts: Verdicts
) -> list[str]:
    """A row that says whether the bar is met."""
    cost = paired([s.microseconds for s in ours], [s.microseconds for s in theirs])
    rate = paired([s.per_second for s in ours], [s.per_second for s in theirs])
    return [
        cell,
        peer,
        f"{middle([s.microseconds for s in ours]):.2f}",
        f"{middle([s.microseconds for s in theirs]):.2f}",
        f"{cost:.2f}",
        f"{bar:.2f}" if bar else "-",
        verdicts.judge(f"{cell} against {peer}: {cost:.2f}", cost, bar) if bar else "",
        f"{rate:.2f}",
    ]

"""What copies cost: `make bench-replication`.

A main of ours with one replica beside the same node alone, by CPU time for each operation, and what the
replica takes to apply; strict writes beside SET and WAIT 1 of Redis, by their latency at 20,000 a second; and
a copy of a million keys to a fresh replica beside Redis' full sync, by CPU time of both sides and by clock.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import processes, servers, tools
from bench.persistence import cpu
from bench.report import Verdicts, middle, paired, table
from bench.servers import OURS, Kind, Server

COUNT = 1_000_000
WRITE_BAR, APPLY_BAR, COPY_BAR = 1.25, 0.8, 0.8
CELLS = ("set/16/50", "get/16/50", "set/1/50", "get/1/50")
RATE = 20_000


def topology(ports: tuple[int, int], epoch: int, *, strict: bool, copies: bool = True) -> str:
    """The first node is the main of everything, the second its replica."""
    names = ("a", "b")
    nodes = [{"id": name, "host": "127.0.0.1", "port": port} for name, port in zip(names, ports, strict=True)]
    return json.dumps(
        {
            "cluster": {"id": "bench", "name": "bench"},
            "epoch": epoch,
            "flags": ["replication", *(["strict"] if strict else [])],
            "nodes": nodes,
            "replicas": 1,
            "slots": [{"main": "a", "ranges": "0-16383", "replicas": ["b"] if copies else []}],
        }
    )


def in_sync(main: Server, replica: Server) -> bool:
    """Whether the replica has everything."""
    if main.name != OURS:
        # That its main has sent everything does not mean that it has loaded it.
        return replica.info().get("master_link_status") == "up"
    told = main.info()
    return f"state=online,offset={told['master_repl_offset']}," in told.get("slave0", "")


def until_in_sync(main: Server, replica: Server, limit: float = 60) -> None:
    """Wait for that."""
    end = time.monotonic() + limit
    while not in_sync(main, replica):
        if time.monotonic() > end:
            raise RuntimeError(f"the replica is not in sync: {main.info().get('slave0')}")
        time.sleep(0.005)


@contextmanager
def pair(kind: Kind, port: int) -> Iterator[tuple[Server, Server]]:
    """A main and who will be its replica, not connected yet."""
    ours = kind.name == OURS
    with (
        servers.running(kind, port, {"node-id": "a"} if ours else {"repl-diskless-sync-delay": "0"}) as main,
        servers.running(kind, port + 1, {"node-id": "b"} if ours else {}) as replica,
    ):
        yield main, replica


def connect(kind: Kind, main: Server, replica: Server, epoch: int = 1, *, strict: bool = False) -> None:
    """Make it the replica, and wait until it has everything."""
    if kind.name == OURS:
        text = topology((main.port, replica.port), epoch, strict=strict)
        for server in (main, replica):
            server.ask("FASTCACHE", "TOPOLOGY", "SET", text)
    else:
        replica.ask("REPLICAOF", "127.0.0.1", main.port)
    until_in_sync(main, replica)


def costs(main: Server, replica: Server | None, cell: str, seconds: float) -> tuple[float, float]:
    """CPU microseconds of the main, and of the replica, for each operation."""
    operation, pipeline, connections = cell.split("/")
    if operation == "get":
        tools.fill(main.port, "set", 100_000, 64)
    servers_of = [main, *([replica] if replica else [])]
    before = [processes.cpu([one.pid]).seconds for one in servers_of]
    load = ("-T", operation, "-P", pipeline, "-c", connections, "-d", 64, "-r", 100_000, "-t", seconds)
    result = tools.generator("rgen", "-p", main.port, *load)
    if replica:
        until_in_sync(main, replica)
    used = [processes.cpu([one.pid]).seconds - was for one, was in zip(servers_of, before, strict=True)]
    each = [one / result["total_ops"] * 1e6 for one in used]
    return each[0], each[1] if replica else 0.0


def beside_alone(kind: Kind, port: int, rounds: int, seconds: float, verdicts: Verdicts) -> str:
    """A node alone and one with a replica, in turns."""
    alone: dict[str, list[float]] = {cell: [] for cell in CELLS}
    copied: dict[str, list[float]] = {cell: [] for cell in CELLS}
    applied: dict[str, list[float]] = {cell: [] for cell in CELLS}
    with servers.running(kind, port + 2) as single, pair(kind, port) as (main, replica):
        connect(kind, main, replica)
        for number in range(rounds):
            for cell in CELLS:
                print(f"# round {number + 1} of {rounds}: {cell}", file=sys.stderr)
                alone[cell].append(costs(single, None, cell, seconds)[0])
                of_main, of_replica = costs(main, replica, cell, seconds)
                copied[cell].append(of_main)
                applied[cell].append(of_replica)
    rows = []
    for cell in CELLS:
        ratio, share = paired(copied[cell], alone[cell]), paired(applied[cell], alone[cell])
        write = cell.startswith("set")
        rows.append(
            [
                cell,
                *(f"{middle(one[cell]):.2f}" for one in (alone, copied)),
                f"{ratio:.2f}",
                verdicts.judge(f"{cell} of a main: {ratio:.2f}", ratio, WRITE_BAR) if write else "",
                f"{middle(applied[cell]):.2f}",
                f"{share:.2f}",
                verdicts.judge(f"{cell} applied: {share:.2f}", share, APPLY_BAR) if write else "",
            ]
        )
    head = ["cell", "alone us/op", "with a replica", "ratio", f"<= {WRITE_BAR}", "the replica us/op", "ratio"]
    return table("CPU with one replica, asynchronous", [*head, f"<= {APPLY_BAR}"], rows)


def strictly(kinds: list[Kind], port: int, rounds: int, seconds: float) -> str:
    """Strict writes of ours, SET with WAIT 1 of the others."""
    rows = []
    for kind in kinds:
        print(f"# strict: {kind.name}", file=sys.stderr)
        with pair(kind, port) as (main, replica):
            connect(kind, main, replica, strict=True)
            operation = "set" if kind.name == OURS else "setwait"
            load = ("-T", operation, "-P", 1, "-c", 50, "-R", RATE, "-d", 64, "-t", seconds)
            results = [tools.generator("rgen", "-p", main.port, *load) for _ in range(rounds)]
        reached = middle([result["rps"] for result in results])
        figures = [f"{middle([r[name] for r in results]):.0f}" for name in ("p50_us", "p99_us", "p999_us")]
        how = "strict SET" if kind.name == OURS else "SET, WAIT 1"
        rows.append([kind.name, how, f"{reached:.0f}", *figures])
    head = ["server", "operation", "reached/s", "p50 us", "p99 us", "p99.9 us"]
    return table(f"Writes that wait for a replica, {RATE:,} a second, 50 connections", head, rows)


def full_copy(kinds: list[Kind], port: int, rounds: int, verdicts: Verdicts) -> str:
    """A million keys to a fresh replica."""
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(rounds):
        for kind in kinds:
            print(f"# full copy {number + 1}: {kind.name}", file=sys.stderr)
            with pair(kind, port) as (main, replica):
                tools.fill(main.port, "set", COUNT, 64)
                servers.settle(main, 0.5)
                before, began = (cpu(main), cpu(replica)), time.monotonic()
                connect(kind, main, replica)
                wall = time.monotonic() - began
                time.sleep(0.2)
                used = (cpu(main) - before[0], cpu(replica) - before[1])
                figures.setdefault(kind.name, []).append((wall, *used))
    rows = []
    for kind in kinds:
        mine = figures[kind.name]
        wall, of_main, of_replica = (middle([one[place] for one in mine]) for place in range(3))
        row = [kind.name, f"{wall:.2f}", f"{of_main:.2f}", f"{of_replica:.2f}", f"{of_main + of_replica:.2f}"]
        if kind.name != OURS:
            ours = figures[OURS]
            walls = paired([one[0] for one in ours], [one[0] for one in mine])
            both = paired([one[1] + one[2] for one in ours], [one[1] + one[2] for one in mine])
            judged = kind.name == "redis"
            row += [f"{walls:.2f}", f"{both:.2f}"]
            if judged:
                verdict = verdicts.judge(f"full copy against {kind.name}, wall: {walls:.2f}", walls, COPY_BAR)
                row += [verdict, verdicts.judge(f"the same, CPU: {both:.2f}", both, COPY_BAR)]
        rows.append([*row, *[""] * (9 - len(row))])
    head = ["server", "wall s", "CPU s of the main", "of the replica", "both", "ours / wall", "ours / CPU"]
    return table(
        f"A full copy of {COUNT:,} keys of 16 + 64 bytes", [*head, f"wall <= {COPY_BAR}", "CPU"], rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.replication", description="What copies cost.")
    parser.add_argument("--sections", default="cost,strict,copy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--port", type=int, default=17720)
    parser.add_argument("--peers", help="only these peers: redis,valkey")
    chosen = parser.parse_args()
    kinds = servers.kinds(chosen.peers.split(",") if chosen.peers else None)
    verdicts, sections = Verdicts(), chosen.sections.split(",")
    if "cost" in sections:
        print(beside_alone(kinds[0], chosen.port, chosen.rounds, chosen.seconds, verdicts), flush=True)
    if "strict" in sections:
        print(strictly(kinds, chosen.port, chosen.rounds, chosen.seconds), flush=True)
    if "copy" in sections:
        print(full_copy(kinds, chosen.port, chosen.rounds, verdicts), flush=True)
    print(f"\n{len(verdicts.met)} bars met, {len(verdicts.missed)} missed")
    for each in verdicts.missed:
        print(f"- missed: {each}")
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Torture a cluster: `python -m tests.torture --seconds 60 --seed 1 --faults kill,pause,cut` (as root).

Clients on several hosts read, write and count in strict mode while a nemesis does its work, drawn from the
seed. Then all heals, every client reads every key, and the history of every key is judged. One line of JSON
tells of each run.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.history.linear import FOR_EVER, Operation, Verdict, register
from tests.torture.clients import Client
from tests.torture.cluster import Cluster

FAULTS = ("kill", "restart", "pause", "cut", "one-way", "isolate", "unseen", "health")
KEYS = ["r0", "r1", "r2", "r3", "n0", "n1"]
# Checks that a machine with other work to do can keep up with.
PACE = {"interval": 0.5, "suspect-interval": 0.5, "timeout": 1.0, "down-after": 2}


class Nemesis:
    """Faults, one after another; memory is only taken where another copy is in sync."""

    def __init__(self, cluster: Cluster, seed: int, kinds: list[str]) -> None:
        self.cluster, self.kinds = cluster, kinds
        self.dice = random.Random(seed)
        self.done: list[str] = []

    def strike(self) -> None:
        """One fault, for a while, and its end."""
        cluster, dice = self.cluster, self.dice
        kind = dice.choice(self.kinds)
        name, other = dice.sample(cluster.names, 2)
        seconds = dice.choice([0.3, 2.0, 5.0])
        hosts = [*cluster.names, "health", *cluster.client_hosts]
        self.done.append(f"{kind} {name} {seconds}")
        if kind in {"kill", "restart"}:
            if not cluster.whole():
                return
            before = cluster.run_of(name)
            cluster.kill(name)
            time.sleep(0 if kind == "restart" else seconds)
            cluster.start(name)
            # The next loss of memory waits until this one was noticed, and `whole` until it was made good.
            until = time.monotonic() + 30
            while cluster.run_of(name) == before and time.monotonic() < until:
                time.sleep(0.1)
        elif kind == "pause":
            cluster.freeze(name)
            time.sleep(seconds)
            cluster.thaw(name)
        elif kind == "health":
            cluster.kill("health")
            time.sleep(seconds)
            cluster.start("health")
        else:
            ways = {
                "cut": lambda: cluster.hosts.part(name, other),
                "one-way": lambda: cluster.hosts.cut(name, dice.choice([other, "health"])),
                # Half of the clients stay on its side.
                "isolate": lambda: cluster.hosts.isolate(name, [host for host in hosts if host != "c1"]),
                "unseen": lambda: cluster.hosts.part(name, "health"),
            }
            ways[kind]()
            time.sleep(seconds)
            cluster.hosts.heal()


def final_reads(cluster: Cluster, clients: list[Client]) -> list[str]:
    """Everybody reads everything; keys that nobody answers for are named."""
    silent = []
    for number, client in enumerate(clients):
        reader = Client(cluster, client.host, 10_000 + number, KEYS, 0)
        with cluster.hosts.on(client.host):
            for key in KEYS:
                until = time.monotonic() + 30
                while not reader.operate(key, "read"):
                    if time.monotonic() > until:
                        silent.append(key)
                        break
                    time.sleep(0.05)
        client.history += reader.history
    return silent


def longest_gap(clients: list[Client], kind: str) -> float:
    """The longest time in which no operation of a kind was answered to anybody."""
    times = sorted(at for client in clients for at, what in client.answered if what == kind)
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


def counted_wrong(history: list[Operation]) -> list[str]:
    """Counters whose last value is not between what was acknowledged and that with what is unknown."""
    wrong = []
    for key in (key for key in KEYS if key.startswith("n")):
        mine = [one for one in history if one.key == key]
        sure = sum(one.kind == "add" and one.answered for one in mine)
        unknown = sum(one.kind == "add" and not one.answered for one in mine)
        last = max((one for one in mine if one.kind == "read"), key=lambda one: one.end, default=None)
        if last is not None and not sure <= (last.output or 0) <= sure + unknown:
            wrong.append(f"{key} is {last.output}, {sure} were acknowledged and {unknown} are unknown")
    return wrong


def torture(
    directory: Path, seed: int, seconds: float, kinds: list[str], clients: int, pace: dict[str, Any]
) -> dict[str, Any]:
    """One run; what came of it."""
    cluster = Cluster(directory, pace=pace)
    try:
        cluster.until_whole(90)
        crowd = [
            Client(cluster, cluster.client_hosts[number % 2], seed * 100 + number, KEYS, 0.02)
            for number in range(clients)
        ]
        for client in crowd:
            client.start()
        nemesis = Nemesis(cluster, seed, kinds)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            nemesis.strike()
            time.sleep(nemesis.dice.uniform(1.0, 4.0))
        cluster.hosts.heal()
        for name in cluster.names:
            cluster.thaw(name)
            cluster.start(name)
        cluster.start("health")
        time.sleep(1.0)
        for client in crowd:
            client.ending.set()
        for client in crowd:
            client.join(10)
        silent = final_reads(cluster, crowd)
        healed = cluster.until_whole(60)
        history = [one for client in crowd for one in client.history]
        verdicts = {}
        for key in KEYS:
            mine = [one for one in history if one.key == key]
            verdicts[key] = str(register(mine, 0 if key.startswith("n") else None, 60.0))
        told = cluster.ask("/replication")
        broken = [f"{key}: {verdict}" for key, verdict in verdicts.items() if verdict != Verdict.OK]
        broken += [f"{key} was not served after everything healed" for key in silent] + counted_wrong(history)
        if broken:
            (directory / "history.jsonl").write_text(
                "".join(f"{json.dumps(as_line(one))}\n" for one in history)
            )
        return {
            "seed": seed,
            "broken": broken,
            "operations": len(history),
            "unknown": sum(not one.answered for one in history),
            "refused": sum(client.refused for client in crowd),
            "faults": nemesis.done,
            "longest write gap": round(longest_gap(crowd, "write"), 2),
            "longest read gap": round(longest_gap(crowd, "read"), 2),
            "in sync after": round(healed, 2),
            "failovers": told["failovers"],
            "epoch": told["epoch"],
        }
    finally:
        cluster.close()


def as_line(one: Operation) -> dict[str, Any]:
    """An operation as a line of the history."""
    end = None if one.end == FOR_EVER else one.end
    return {
        "client": one.client,
        "key": one.key,
        "kind": one.kind,
        "start": one.start,
        "end": end,
        "value": one.value,
        "output": one.output,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Torture a cluster and judge what its clients saw.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--keep", action="store_true", help="keep logs and histories of runs that went well, too"
    )
    chosen = parser.parse_args()
    failed = 0
    for number in range(chosen.runs):
        directory = Path(tempfile.mkdtemp(prefix="fastcache-torture-"))
        outcome = torture(
            directory, chosen.seed + number, chosen.seconds, chosen.faults.split(","), chosen.clients, PACE
        )
        failed += bool(outcome["broken"])
        print(
            json.dumps(outcome | ({"files": str(directory)} if outcome["broken"] or chosen.keep else {})),
            flush=True,
        )
    print(f"{chosen.runs - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

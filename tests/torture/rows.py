"""The promises that are tried by counts: `python -m tests.torture --row R3`.

Each is a course with its own faults. A round passes when its history is linearizable, counters add up,
everything is served afterwards, and the row's own bounds hold.
"""

import itertools
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from tests.torture.cluster import PORT, Cluster, Fleet, SentinelFleet
from tests.torture.course import PACE, Course, Outcome
from tests.torture.faults import FAULTS, Fault
from tests.torture.mortals import Watcher

# Seconds for which strict writes may be refused, or reads unanswered, at the clients that are not cut off.
STRICT_AGAIN = 5.0
# Seconds after which a fall is not held against a node any more.
FORGOTTEN = 31.0
Row = Callable[[Path, int, int], Iterator[Outcome]]


def fault_of(
    course: Course, fault: Fault, name: str, other: str
) -> Callable[[], AbstractContextManager[None]]:
    return partial(fault, course.fleet, name, other, course.dice)


def replica_killed(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R2: a replica is killed: reads go on without an error, strict writes are refused until it is back."""
    cluster = Cluster(directory, nodes=6, pairs=True, pace=PACE)
    # Who falls again and again is believed later each time; here each fall is one by itself.
    fell: dict[str, float] = {}
    with Course(cluster, seed) as course:
        for number in range(rounds):
            replicas = sorted(set(cluster.names) - cluster.mains())
            name = min(replicas, key=lambda name: fell.get(name, 0.0))
            rest = max(fell.get(name, 0.0) + FORGOTTEN - time.monotonic(), 1.0)
            before = sum(one[1] == "read" for client in course.crowd for one in client.refused)
            fault = fault_of(course, FAULTS["kill"], name, "")
            outcome = course.round(f"kill {name}", fault, seconds=2.0, before=rest)
            fell[name] = time.monotonic()
            refused = sum(one[1] == "read" for client in course.crowd for one in client.refused) - before
            if outcome.healed > STRICT_AGAIN:
                outcome.broken.append(f"strict writes went on only after {outcome.healed:.1f} s")
            # A client of a round finds its way once for each key: it hears MOVED.
            if refused > len(course.crowd) * len(course.keys.kinds) * 6:
                outcome.broken.append(f"{refused} reads were refused")
            print(f"# round {number + 1}: {refused} reads refused, mostly MOVED", flush=True)
            yield outcome


def main_cut_off(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R3: a main with some clients is cut off from its replica and the health service for 12 s."""
    cluster = Cluster(directory, pace=PACE)
    with Course(cluster, seed, loyal=True) as course:
        for _ in range(rounds):
            name = course.dice.choice(sorted(cluster.mains()))
            yield course.round(f"isolate {name}", fault_of(course, FAULTS["isolate"], name, ""), seconds=12.0)


def sentinel_main_cut_off(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R3 on Redis with Sentinel and WAIT 1: the same must show here what it does not show with us."""
    with Course(SentinelFleet(directory), seed) as course:
        for _ in range(rounds):
            name = sentinel_main(course.fleet)
            yield course.round(f"isolate {name}", fault_of(course, FAULTS["isolate"], name, ""), seconds=12.0)


def sentinel_main(fleet: Fleet) -> str:
    """The node that says it is the main; whole fleets have one."""
    for name in fleet.names:
        with fleet.hosts.on(name), socket.create_connection(("127.0.0.1", PORT), 1) as connection:
            connection.sendall(b"ROLE\r\n")
            if b"master" in connection.recv(100):
                return name
    raise RuntimeError("nobody is the main")


def cut_one_way(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R4: every link between hosts of the cluster, in each direction: at most one promotion for each cut."""
    cluster = Cluster(directory, nodes=4, pairs=True, pace=PACE)
    links = list(itertools.permutations([*cluster.names, "health"], 2))
    with Course(cluster, seed, loyal=True) as course:
        for number in range(rounds):
            source, target = links[number % len(links)]

            def cut(source: str = source, target: str = target) -> AbstractContextManager[None]:
                return OneCut(cluster, source, target)

            outcome = course.round(f"{source} -> {target}", cut, seconds=4.0)
            if outcome.promotions > 1:
                outcome.broken.append(f"{outcome.promotions} promotions")
            yield outcome


class OneCut:
    """What one host sends does not reach another."""

    def __init__(self, cluster: Cluster, source: str, target: str) -> None:
        self.cluster, self.source, self.target = cluster, source, target

    def __enter__(self) -> None:
        self.cluster.hosts.cut(self.source, self.target)

    def __exit__(self, *_: object) -> None:
        self.cluster.hosts.heal()


def main_paused(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R5: a main stands still for 0.2, 1, 5 and 20 s; for 0.2 s nobody takes its place."""
    cluster = Cluster(directory, pace=PACE)
    with Course(cluster, seed, loyal=True) as course:
        for number in range(rounds):
            name = course.dice.choice(sorted(cluster.mains()))
            seconds = (0.2, 1.0, 5.0, 20.0)[number % 4]
            fault = fault_of(course, FAULTS["pause"], name, "")
            outcome = course.round(f"pause {name} {seconds}", fault, seconds=seconds, after=3.0)
            if seconds == 0.2 and outcome.promotions:
                outcome.broken.append("its place was taken after 0.2 s")
            yield outcome


def mixed(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R22: faults of every kind, one after another."""
    cluster = Cluster(directory, pace=PACE, clocks=True, disks=True, node=PERSISTENT)
    yield from anything(cluster, seed, rounds, list(FAULTS), 0.002)


# A log that is written behind, and snapshots, so that a full disk and a lost one mean something.
PERSISTENT = {"appendonly": "yes", "appendfsync": "everysec"}


def anything(
    cluster: Cluster, seed: int, rounds: int, kinds: list[str], pause: float, clients: int = 8
) -> Iterator[Outcome]:
    """Faults drawn from some kinds."""
    with Course(cluster, seed, clients=clients, pause=pause, loyal=True) as course:
        dice = random.Random(seed)
        for _ in range(rounds):
            kind = dice.choice(kinds)
            name, other = dice.sample(cluster.names, 2)
            seconds = dice.choice([0.3, 2.0, 5.0])
            fault = fault_of(course, FAULTS[kind], name, other)
            yield course.round(f"{kind} {name} {seconds}", fault, seconds=seconds)


def main_hands_over(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """A main hands over in order, and then is cut off, stands still, or gets its slots back."""
    cluster = Cluster(directory, pace=PACE)
    with Course(cluster, seed, loyal=True) as course:
        for _ in range(rounds):
            name = course.dice.choice(sorted(cluster.mains()))
            other = course.dice.choice(sorted(set(cluster.names) - {name}))
            fault = fault_of(course, FAULTS["hand-over"], name, other)
            outcome = course.round(f"hand-over {name}", fault, seconds=course.dice.choice([0.1, 0.5, 3.0]))
            if not outcome.promotions:
                outcome.broken.append("nobody took over")
            yield outcome


def disk_lost(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R24: a node's disk is lost with its memory; it is filled again by its peers, without an operator."""
    cluster = Cluster(directory, pace=PACE, node=PERSISTENT)
    with Course(cluster, seed) as course:
        for _ in range(rounds):
            name = course.dice.choice(cluster.names)
            yield course.round(f"wipe {name}", fault_of(course, FAULTS["wipe"], name, ""), seconds=2.0)


def clocks_turned(directory: Path, seed: int, rounds: int) -> Iterator[Outcome]:
    """R26: a node's clock of the day jumps by an hour, and every third time its main is killed.

    Nobody takes its place for the clock alone, nothing is lost, and keys live as long as they were given.
    """
    cluster = Cluster(directory, pace=PACE, clocks=True)
    with Course(cluster, seed, clients=4) as course:
        for number in range(rounds):
            watcher = Watcher(cluster, cluster.client_hosts[-1], seed * 1000 + number)
            watcher.start()
            time.sleep(3.0)
            name, other = course.dice.sample(cluster.names, 2)
            killed = number % 3 == 2
            outcome = course.round(
                f"clock {name}", fault_of(course, FAULTS["clock"], name, other), seconds=4.0
            )
            if killed:
                second = course.round(
                    f"kill {other}", fault_of(course, FAULTS["kill"], other, name), seconds=2.0
                )
                outcome.broken += second.broken
                outcome.fault += f", kill {other}"
            elif outcome.promotions:
                outcome.broken.append("its place was taken")
            watcher.ending.set()
            watcher.join(60)
            print(f"# round {number + 1}: {watcher.looked} looks at keys that live for seconds", flush=True)
            outcome.broken += watcher.wrong[:10]
            yield outcome


# With the number of rounds that the promise is about.
ROWS: dict[str, tuple[Row, int]] = {
    "R2": (replica_killed, 20),
    "R3": (main_cut_off, 20),
    "R3-sentinel": (sentinel_main_cut_off, 5),
    "R4": (cut_one_way, 36),
    "R5": (main_paused, 40),
    "hand-over": (main_hands_over, 40),
    "R22": (mixed, 40),
    "R24": (disk_lost, 10),
    "R26": (clocks_turned, 10),
}


def judged(row: str, directory: Path, seed: int, rounds: int | None) -> Iterator[Outcome]:
    """The rounds of a row, as they end."""
    run, usual = ROWS[row]
    began = time.monotonic()
    for number, outcome in enumerate(run(directory, seed, rounds or usual), 1):
        print(f"# {row} round {number} at {time.monotonic() - began:.0f} s", flush=True)
        yield outcome

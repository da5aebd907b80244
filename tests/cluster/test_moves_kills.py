"""Whoever is killed while slots with copies move, in strict mode: nothing acknowledged is lost or stale.

In CI a few moments; all of them with FASTCACHE_LONG=1.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from fastcache import _core
from tests.cluster.health_processes import HealthProcess, etcd, free_port
from tests.cluster.nodes import PASSWORD, Nodes

NAMES = "abcd"
WRITERS, KEYS = 3, 60
HTTP_ACCEPTED = 202
PACE: dict[str, Any] = {
    "interval": 0.5,
    "suspect-interval": 0.3,
    "timeout": 2.0,
    "down-after": 2,
    "placement": "manual",
    "replicas": 1,
    "flags": ["replication", "strict"],
    "node-password": PASSWORD,
}
MOMENTS = {"begun": "move-begun", "joined": "move-joined", "flipped": "move-flipped", "done": "move-done"}
ALL = [(moment, victim) for moment in MOMENTS for victim in ("giver", "taker", "health", "other")]
SHORT = [
    ("begun", "taker"),
    ("joined", "giver"),
    ("flipped", "taker"),
    ("flipped", "giver"),
    ("joined", "health"),
]
LONG = bool(os.environ.get("FASTCACHE_LONG"))
POINTS = ALL if LONG else SHORT


def eventually(true: Callable[[], bool], what: Callable[[], object]) -> None:
    """As `until`, for what takes many topologies on a machine with other work to do."""
    deadline = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError):
            if true():
                return
        assert time.monotonic() < deadline, f"not in time: {what()}"
        time.sleep(0.1)


class Writer:
    """Writes rising numbers to keys of its own, and reads each: never less than what was acknowledged."""

    def __init__(self, number: int, nodes: Nodes) -> None:
        self.keys = [f"w{number}:{key}" for key in range(KEYS)]
        self.nodes = nodes
        self.acknowledged: dict[str, int] = {}
        self.wrong: list[str] = []
        self.done = self.refused = 0
        self.owner: dict[int, str] = {}
        self.lines: dict[str, redis.Redis] = {}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        value = 0
        while not self.ending.is_set():
            for key in self.keys:
                value += 1
                if self.ask(key, "SET", key, value) is not None:
                    self.acknowledged[key] = value
                    self.done += 1
                self.check(key)
                time.sleep(0.002)

    def check(self, key: str) -> None:
        found = self.ask(key, "GET", key)
        known = self.acknowledged.get(key)
        if found is not None and known is not None and int(found) < known:
            self.wrong.append(f"{key}: {int(found)} was read, and {known} was acknowledged")

    def ask(self, key: str, *words: object) -> Any:
        """Where the slot is, as far as we know; None when nobody says that it was done."""
        slot = _core.slot_of(key)
        name = self.owner.get(slot, "a")
        try:
            line = self.lines.get(name) or self.lines.setdefault(name, self.nodes.client(name, timeout=4.0))
            return line.execute_command(*words)
        except redis.exceptions.MovedError as moved:
            self.owner[slot] = NAMES[moved.port - self.nodes.first_port]
        except redis.RedisError:
            self.refused += 1
            # Somebody else may know better.
            self.owner[slot] = NAMES[(NAMES.index(name) + 1) % len(NAMES)]
            time.sleep(0.01)
        return None

    def end(self) -> None:
        self.ending.set()
        self.thread.join(60)


class Cluster:
    """Four nodes whose slots have one copy each, and health services; `d` comes and goes."""

    def __init__(self, directory: Path, services: int = 1, store: str = "") -> None:
        ports = [free_port() for _ in range(services)]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.nodes = Nodes(directory, len(NAMES), health=" ".join(urls))
        listed = [
            {"id": name, "host": "127.0.0.1", "port": self.nodes.port(name), "weight": 100 * (name != "d")}
            for name in NAMES
        ]
        extra = {"store": "etcd", "etcd-endpoint": store} if store else {}
        self.services = [
            HealthProcess(
                directory / f"health{port}", port, **PACE, **extra, **{"move-slots": 4096}, nodes=listed
            )
            for port in ports
        ]
        for service in self.services:
            service.launch()
        self.there = False
        eventually(lambda: bool(self.service.get("/leader")["leader"]), lambda: "a leader")
        eventually(self.whole, self.replication)

    @property
    def service(self) -> HealthProcess:
        """The one that leads, or any that answers."""
        for one in self.services:
            with contextlib.suppress(OSError):
                told = one.get("/leader")
                if told["leader"] == told["self"]:
                    return one
        return self.services[0]

    def replication(self) -> dict[str, Any]:
        told: dict[str, Any] = self.service.get("/replication")
        return told

    def whole(self) -> bool:
        """Whether every slot has a copy in sync."""
        told = self.replication()
        return bool(told["mains"]) and told["slotsWithoutReplica"] == 0 and told["slotsDown"] == 0

    def at_rest(self) -> bool:
        told = self.service.get("/rebalance")
        mains = {group["main"] for group in self.service.topology()["slots"]}
        return told["state"] == "idle" and ("d" in mains) == self.there and self.whole()

    def move(self) -> None:
        """`d` gets its share, or gives it back."""
        self.there = not self.there
        weights = {"weights": {"d": 100 if self.there else 0}}
        # A machine with other work to do may be too slow to save the order: it says so, and is asked again.
        eventually(
            lambda: self.service.ask("POST", "/rebalance/start", weights)[0] == HTTP_ACCEPTED,
            lambda: self.service.ask("POST", "/rebalance/start", weights),
        )

    def event(self, kind: str, after: int) -> dict[str, Any]:
        """The first event of a kind after that number."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            told = self.service.get("/events")
            found[:] = [one for one in told if one["event"] == kind and int(one["number"]) > after]
            return bool(found)

        eventually(there, lambda: f"{kind}: {self.service.get('/rebalance')}")
        return found[0]

    def last_event(self) -> int:
        return max((int(one["number"]) for one in self.service.get("/events")), default=0)

    def end(self) -> None:
        for service in self.services:
            if service.process and service.process.poll() is None:
                service.kill()
        self.nodes.end()


@contextlib.contextmanager
def written_to(cluster: Cluster) -> Iterator[list[Writer]]:
    """Writers at work; afterwards nothing that they were promised is missing."""
    writers = [Writer(number, cluster.nodes) for number in range(WRITERS)]
    try:
        yield writers
    finally:
        for one in writers:
            one.end()
    for one in writers:
        for key in one.keys:
            deadline = time.monotonic() + 20
            while one.ask(key, "GET", key) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            one.check(key)
    assert [what for one in writers for what in one.wrong] == []
    assert all(one.done > 50 for one in writers), [(one.done, one.refused) for one in writers]


def test_nothing_is_lost_whoever_is_killed_while_slots_move(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        with written_to(cluster) as writers:
            for moment, victim in POINTS:
                before = cluster.last_event()
                cluster.move()
                event = cluster.event(MOMENTS[moment], before)
                if victim == "health":
                    cluster.service.kill()
                    cluster.services[0].launch()
                else:
                    others = (name for name in NAMES if name not in {event["from"], event["to"], "d"})
                    name = {"giver": event["from"], "taker": event["to"], "other": next(others)}[victim]
                    cluster.nodes.kill(name)
                    time.sleep(0.5)
                    cluster.nodes.start(name)
                point = f"{victim} at {moment}"
                eventually(cluster.at_rest, lambda point=point: (point, cluster.service.get("/rebalance")))
                assert [what for one in writers for what in one.wrong] == [], point
                print(f"{point}: at rest, and nothing wrong", flush=True)
    finally:
        cluster.end()


def test_the_next_leader_goes_on_with_what_moves(tmp_path: Path) -> None:
    with etcd(tmp_path) as store:
        cluster = Cluster(tmp_path, services=2, store=store)
        try:
            with written_to(cluster):
                for moment in MOMENTS if LONG else ("begun", "flipped"):
                    before = cluster.last_event()
                    cluster.move()
                    cluster.event(MOMENTS[moment], before)
                    leader = cluster.service
                    leader.kill()
                    eventually(lambda gone=leader: cluster.service is not gone, lambda: "another leads")
                    leader.launch()
                    eventually(cluster.at_rest, lambda: cluster.service.get("/rebalance"))
        finally:
            cluster.end()

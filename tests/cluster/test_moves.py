"""Slots move between real nodes while clients read and write: nothing fails, is lost, or is stale."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from bench import tools
from fastcache.client import health
from fastcache.errors import FastCacheError
from tests.cluster.embedded import Embedded, free_ports, until
from tests.cluster.health_processes import HealthProcess, free_port
from tests.cluster.nodes import PASSWORD, Nodes
from tests.history.linear import FOR_EVER, Operation, Verdict, judge

# Checks that a machine with other work to do can keep up with.
CALM = ("--profile", "reference")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    made = Embedded(tmp_path / "cluster", free_ports(60))
    yield made
    made.call("down")


def service(cluster: Embedded) -> str:
    return f"http://127.0.0.1:{cluster.port_of('health')}"


def state(cluster: Embedded) -> dict[str, Any]:
    told: dict[str, Any] = health.call(service(cluster), "GET", "/rebalance", seconds=5)
    return told


def events(cluster: Embedded) -> str:
    """What the health service has done, for a failure to be understood by."""
    told = health.call(service(cluster), "GET", "/events", seconds=30)
    return "\n".join(json.dumps(one) for one in told)


def mains(cluster: Embedded) -> set[str]:
    return {group["main"] for group in health.call(service(cluster), "GET", "/topology")["slots"]}


def eventually(true: Callable[[], bool], what: str) -> None:
    """As `until`, for what takes many topologies on a machine with other work to do."""
    deadline = time.monotonic() + 240
    while True:
        # It may be too busy to answer at once.
        with contextlib.suppress(OSError, FastCacheError):
            if true():
                return
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.2)


def hurry(cluster: Embedded) -> None:
    """From now on moves do not wait for clients who ask meanwhile."""
    health.call(service(cluster), "POST", "/rebalance/start", {"share": 1.0})
    until(lambda: state(cluster)["state"] == "idle", "there is nothing to move")


class Load:
    """Clients behind the balancer that write and count without a pause, and note what they were told."""

    def __init__(self, port: int, clients: int = 3, keys: int = 120, password: str | None = None) -> None:
        self.port, self.keys, self.password = port, keys, password
        self.failed: list[str] = []
        self.history: list[Operation] = []
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(clients)]
        for one in self.threads:
            one.start()

    def work(self, number: int) -> None:
        client = redis.Redis(port=self.port, password=self.password, socket_timeout=30, retry=None)
        turn = 0
        while not self.ending.is_set():
            turn += 1
            key = f"key:{turn % self.keys}"
            value = number * 10**9 + turn
            kind = ("write", "read", "add")[turn % 3]
            name, start = f"{number}.{turn}", time.monotonic()
            key = key if kind != "add" else f"n{key}"
            try:
                if kind == "write":
                    client.set(key, value, ex=3600)
                    one = Operation(name, key, kind, start, time.monotonic(), value)
                elif kind == "add":
                    told = client.incr(key)
                    one = Operation(name, key, kind, start, time.monotonic(), 1, output=told)
                else:
                    found = client.get(key)
                    read = int(found) if found is not None else None
                    one = Operation(name, key, kind, start, time.monotonic(), output=read)
            except redis.RedisError as error:
                took = time.monotonic() - start
                self.failed.append(f"{time.time():.2f}: {kind} {key} after {took:.2f} s: {error}")
                one = Operation(name, key, kind, start, FOR_EVER, value if kind == "write" else 1)
            with self.lock:
                self.history.append(one)
        client.close()

    def end(self) -> None:
        self.ending.set()
        for one in self.threads:
            one.join(60)

    def verdicts(self) -> set[Verdict]:
        return set(judge(self.history).values())


def fill(client: redis.Redis) -> None:
    """Values of every kind, with and without a time to live."""
    pipe = client.pipeline(transaction=False)
    for number in range(60):
        pipe.rpush(f"list:{number}", *range(20))
        pipe.sadd(f"set:{number}", *range(20))
        pipe.hset(f"hash:{number}", mapping={str(one): one for one in range(20)})
        pipe.zadd(f"zset:{number}", {str(one): one for one in range(20)})
        pipe.xadd(f"stream:{number}", {"a": number}, id="5-1")
        pipe.xgroup_create(f"stream:{number}", "readers", id="0")
        pipe.setbit(f"bits:{number}", 1000, 1)
        pipe.set(f"brief:{number}", number, px=3_600_000)
        pipe.set(f"large:{number}", "x" * 50_000)
    pipe.execute()
    for number in range(60):
        client.xreadgroup("readers", "me", {f"stream:{number}": ">"})


def picture(client: redis.Redis) -> dict[str, Any]:
    """All of it as it reads."""
    seen: dict[str, Any] = {}
    for number in range(60):
        seen[f"list:{number}"] = client.lrange(f"list:{number}", 0, -1)
        seen[f"set:{number}"] = client.smembers(f"set:{number}")
        seen[f"hash:{number}"] = client.hgetall(f"hash:{number}")
        seen[f"zset:{number}"] = client.zrange(f"zset:{number}", 0, -1, withscores=True)
        seen[f"stream:{number}"] = client.xrange(f"stream:{number}")
        seen[f"pending:{number}"] = client.xpending(f"stream:{number}", "readers")
        seen[f"bits:{number}"] = client.bitcount(f"bits:{number}")
        seen[f"brief:{number}"] = client.get(f"brief:{number}")
        seen[f"large:{number}"] = client.get(f"large:{number}")
    return seen


COPIES = {
    "alone": (),
    "copied": ("--replicas", "1"),
    "strict": ("--replicas", "1", "--consistency", "strict"),
    "twice": ("--replicas", "2", "--consistency", "strict"),
}


@pytest.mark.parametrize("copies", COPIES)
def test_a_node_joins_and_another_leaves_under_load_and_nobody_notices(
    embedded: Embedded, copies: str
) -> None:
    done = embedded.whole("--nodes", "3", "--proxies", "2", *COPIES[copies], *CALM)
    assert done.returncode == 0, done.stderr
    client = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30)
    fill(client)
    before = picture(client)
    if copies != "alone":  # With its moves as far apart as they usually are.
        hurry(embedded)
    load = Load(embedded.port_of("balancer"))
    try:
        added = embedded.call("node", "add")
        assert added.returncode == 0, added.stderr + str(state(embedded))
        assert len(mains(embedded)) == 4
        plan = json.loads(embedded.call("rebalance", "plan", "-o", "json").stdout)
        assert plan["slots"] == 0
        assert picture(client) == before
        removed = embedded.call("node", "remove", f"node-{embedded.port}")
        assert removed.returncode == 0, removed.stderr + str(state(embedded))
        assert f"node-{embedded.port}" not in mains(embedded)
    finally:
        load.end()
    assert load.verdicts() == {Verdict.OK}
    assert load.failed == [], events(embedded)
    assert picture(client) == before
    assert all(3_000_000 < client.pttl(f"brief:{number}") <= 3_600_000 for number in range(60))
    assert embedded.status()[0] == 0


def copies_of_slots(cluster: Embedded) -> set[tuple[int, int]]:
    """How many replicas and learners slots have."""
    groups = health.call(service(cluster), "GET", "/topology")["slots"]
    return {(len(one["replicas"]), len(one.get("learners", ()))) for one in groups}


@pytest.mark.parametrize("consistency", ["eventual", "strict"])
def test_slots_get_another_copy_and_let_it_go_under_load_and_nobody_notices(
    embedded: Embedded, consistency: str
) -> None:
    copies = ("--replicas", "1", "--consistency", consistency)
    done = embedded.whole("--nodes", "3", "--proxies", "2", *copies, *CALM)
    assert done.returncode == 0, done.stderr
    client = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30)
    fill(client)
    before = picture(client)
    load = Load(embedded.port_of("balancer"))
    try:
        for wanted in (2, 1):
            done = embedded.call("rebalance", "start", "--replicas", str(wanted), "--max-share", "1")
            assert done.returncode == 0, done.stderr + str(state(embedded))
            assert f"The way back: fastcache rebalance start --replicas {3 - wanted}" in done.stdout
            assert copies_of_slots(embedded) == {(wanted, 0)}
            assert picture(client) == before
    finally:
        load.end()
    assert load.verdicts() == {Verdict.OK}
    assert load.failed == [], events(embedded)


class Torrent(threading.Thread):
    """Writes at a fixed rate, by the benchmarks' generator, as long as the block lasts; an error ends it."""

    def __init__(self, port: int, rate: int) -> None:
        super().__init__(daemon=True)
        self.load = ("-p", port, "-T", "set", "-k", "torrent", "-P", 1, "-c", 50, "-R", rate, "-t", 2)
        self.reached: list[float] = []
        self.trouble: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.reached.append(tools.generator("rgen", *self.load)["rps"])
            except BaseException as error:
                self.trouble = error
                return

    def __enter__(self) -> "Torrent":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(60)


@pytest.mark.skipif("FASTCACHE_LONG" not in os.environ, reason="takes all of a machine: FASTCACHE_LONG=1")
@pytest.mark.parametrize("copies", COPIES)
def test_four_nodes_become_five_and_four_under_thirty_thousand_writes_a_second(
    embedded: Embedded, copies: str
) -> None:
    """Values of every kind, with times to live; FASTCACHE_RATE is another rate."""
    rate = int(os.environ.get("FASTCACHE_RATE", "30000"))
    done = embedded.whole("--nodes", "4", "--proxies", "1", *COPIES[copies], *CALM)
    assert done.returncode == 0, done.stderr
    client = redis.Redis(port=embedded.port_of("proxy"), socket_timeout=30)
    fill(client)
    before = picture(client)
    with Torrent(embedded.port_of("proxy"), rate) as torrent:
        load = Load(embedded.port_of("proxy"))
        try:
            for words in (("add",), ("remove", f"node-{embedded.port}")):
                moved = embedded.call("node", *words)
                assert moved.returncode == 0, moved.stderr + str(state(embedded))
                assert picture(client) == before
        finally:
            load.end()
    assert torrent.trouble is None
    assert load.failed == []
    assert load.verdicts() == {Verdict.OK}
    assert len(mains(embedded)) == 4
    print(f"{min(torrent.reached):.0f} writes a second or more, {len(load.history)} judged operations")
    assert sum(torrent.reached) / len(torrent.reached) > 0.9 * rate, torrent.reached


def pid_of(cluster: Embedded, name: str) -> int:
    record = json.loads((cluster.directory / "cluster.json").read_text())
    return next(int(one["identity"]["pid"]) for one in record["processes"] if one["spec"]["name"] == name)


def kill(cluster: Embedded, name: str) -> None:
    os.kill(pid_of(cluster, name), signal.SIGKILL)


WHEN: dict[str, Callable[[Embedded], bool]] = {
    "copying": lambda cluster: any(one["state"] == "copying" for one in state(cluster)["moves"]),
    "sealed": lambda cluster: any(one["state"] in {"sealed", "flipped"} for one in state(cluster)["moves"]),
    # The first move is over, and others are not.
    "flipped": lambda cluster: '"move-done"' in events(cluster),
}


@pytest.mark.parametrize("moment", WHEN)
def test_the_health_service_falls_and_its_next_life_goes_on(embedded: Embedded, moment: str) -> None:
    assert embedded.whole("--nodes", "3", "--proxies", "1", *CALM).returncode == 0
    fill(redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30))
    hurry(embedded)
    load = Load(embedded.port_of("balancer"), clients=2)
    try:
        assert embedded.call("node", "add", "--detach").returncode == 0
        until(lambda: WHEN[moment](embedded), moment)
        kill(embedded, "health")
        assert embedded.call("up").returncode == 0
        eventually(lambda: state(embedded)["state"] == "idle" and len(mains(embedded)) == 4, "it has ended")
    finally:
        load.end()
    assert load.failed == []
    assert load.verdicts() == {Verdict.OK}


# --- nodes that fall, with checks that a busy machine can keep up with --------------------------------

PACE: dict[str, Any] = {
    "interval": 0.5,
    "suspect-interval": 0.5,
    "timeout": 2.0,
    "down-after": 2,
    "placement": "manual",
    "move-slots": 16384,
    "node-password": PASSWORD,
}


class Watched:
    """Two nodes and a health service; `a` has all slots, and half of them are to move to `b` at once."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.nodes = Nodes(directory, 2, health=f"http://127.0.0.1:{port}")
        listed = [
            {"id": name, "host": "127.0.0.1", "port": self.nodes.port(name), "weight": weight}
            for name, weight in (("a", 100), ("b", 0))
        ]
        self.service = HealthProcess(
            directory / "health",
            port,
            **PACE,
            nodes=listed,
        )
        self.readers: dict[str, redis.Redis] = {}

    def begin(self) -> None:
        self.service.launch()
        eventually(lambda: bool(self.service.get("/leader")["leader"]), "the health service leads")
        eventually(lambda: self.mains() == {"a"}, "all slots are placed")
        eventually(lambda: self.service.status("b") == "HEALTHY", "both are well")

    def mains(self) -> set[str]:
        return {group["main"] for group in self.service.topology()["slots"]}

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.service.get("/rebalance")
        return told

    def events(self) -> list[str]:
        return [event["event"] for event in self.service.get("/events")]

    def read(self, key: str) -> bytes | None:
        """As a cluster client does; None also when it is not there."""
        for name in ("a", "b"):
            client = self.readers.setdefault(name, self.nodes.client(name))
            try:
                found: bytes | None = client.get(key)
            except redis.exceptions.MovedError:
                continue
            return found
        raise AssertionError(f"nobody has the slot of {key}")

    def end(self) -> None:
        if self.service.process:
            self.service.kill()
        self.nodes.end()


@pytest.mark.parametrize("moment", ["copying", "sealed", "flipped"])
@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_node_is_killed_while_slots_move_and_all_comes_to_rest(
    tmp_path: Path, victim: str, moment: str
) -> None:
    """Whoever falls loses what he alone held; nobody else loses anything, and nothing stale is read."""
    world = Watched(tmp_path)
    try:
        world.begin()
        pipe = world.nodes.client("a").pipeline(transaction=False)
        for number in range(300):
            pipe.set(f"key:{number}", f"{number}:" + "x" * 2000)
        pipe.execute()
        world.service.ask("POST", "/rebalance/start", {"weights": {"b": 100}})
        kind = {"copying": "move-begun", "sealed": "move-flipped", "flipped": "move-done"}[moment]
        while kind not in world.events():
            time.sleep(0.005)
        world.nodes.kill(victim)
        flipped_before = "move-flipped" in world.events()
        time.sleep(1.5)
        world.nodes.start(victim)
        eventually(
            lambda: world.told()["state"] == "idle" and world.mains() == {"a", "b"}, f"rest: {world.told()}"
        )
        assert world.service.ask("POST", "/rebalance/plan", {})[1]["slots"] == 0
        found = {number: world.read(f"key:{number}") for number in range(300)}
        assert {value for number, value in found.items() if value not in {None, want(number)}} == set()
        missing = [number for number, value in found.items() if value is None]
        if victim == "b" and not flipped_before:
            assert missing == [], "b had nothing alone"
        if victim == "a" and flipped_before:
            assert len(missing) < 200, "b has its half"
        if victim == "b" and flipped_before:
            assert len(missing) < 200, "a has its half"
    finally:
        world.end()


def want(number: int) -> bytes:
    return f"{number}:".encode() + b"x" * 2000

"""Slots move between real nodes while clients read and write: nothing fails, is lost, or is stale."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fastcache.client import health
from tests.cluster.embedded import Embedded, free_ports, until
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


def mains(cluster: Embedded) -> set[str]:
    return {group["main"] for group in health.call(service(cluster), "GET", "/topology")["slots"]}


def eventually(true: Callable[[], bool], what: str) -> None:
    """As `until`, for what takes many topologies on a machine with other work to do."""
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.2)


class Load:
    """Clients behind the balancer that write and count without a pause, and note what they were told."""

    def __init__(self, port: int, clients: int = 3, keys: int = 120) -> None:
        self.port, self.keys = port, keys
        self.failed: list[str] = []
        self.history: list[Operation] = []
        self.lock = threading.Lock()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(clients)]
        for one in self.threads:
            one.start()

    def work(self, number: int) -> None:
        client = redis.Redis(port=self.port, socket_timeout=30, retry=None)
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
                self.failed.append(f"{kind} {key}: {error}")
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


def test_a_node_joins_and_another_leaves_under_load_and_nobody_notices(embedded: Embedded) -> None:
    done = embedded.whole("--nodes", "3", "--proxies", "2", *CALM)
    assert done.returncode == 0, done.stderr
    client = redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30)
    fill(client)
    before = picture(client)
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
    assert load.failed == []
    assert load.verdicts() == {Verdict.OK}
    assert picture(client) == before
    assert all(3_000_000 < client.pttl(f"brief:{number}") <= 3_600_000 for number in range(60))
    assert embedded.status()[0] == 0


def pid_of(cluster: Embedded, name: str) -> int:
    record = json.loads((cluster.directory / "cluster.json").read_text())
    return next(int(one["identity"]["pid"]) for one in record["processes"] if one["spec"]["name"] == name)


def kill(cluster: Embedded, name: str) -> None:
    import os

    os.kill(pid_of(cluster, name), signal.SIGKILL)


WHEN: dict[str, Callable[[dict[str, Any]], bool]] = {
    "copying": lambda told: any(one["state"] == "copying" for one in told["moves"]),
    "sealed": lambda told: any(one["state"] in {"sealed", "flipped"} for one in told["moves"]),
}


@pytest.mark.parametrize("moment", ["copying", "sealed"])
def test_the_health_service_falls_and_its_next_life_goes_on(embedded: Embedded, moment: str) -> None:
    assert embedded.whole("--nodes", "3", "--proxies", "1", *CALM).returncode == 0
    fill(redis.Redis(port=embedded.port_of("balancer"), socket_timeout=30))
    load = Load(embedded.port_of("balancer"), clients=2)
    try:
        assert embedded.call("node", "add", "--detach").returncode == 0
        until(lambda: WHEN[moment](state(embedded)), moment)
        kill(embedded, "health")
        assert embedded.call("up").returncode == 0
        eventually(lambda: state(embedded)["state"] == "idle" and len(mains(embedded)) == 4, "it has ended")
    finally:
        load.end()
    assert load.failed == []
    assert load.verdicts() == {Verdict.OK}

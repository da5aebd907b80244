"""The client library against real servers: direct routing, fall-back, failures, recovery, updates."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fastcache.client import AsyncFastCache, FastCache
from fastcache.errors import FastCacheError, UsageError
from fastcache.model import Health
from tests.cluster.health_processes import HealthProcess, StandIn, free_port, until

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


class RedisServer:
    """A server of the same protocol, standing for a node: what is tested is where commands arrive."""

    def __init__(self) -> None:
        self.port = free_port()
        self.plain = redis.Redis(port=self.port, decode_responses=True)
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.plain.ping())
            return False

        until("redis-server answers", answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def keys(self) -> set[str]:
        return set(self.plain.keys())


@pytest.fixture
def servers() -> Iterator[list[RedisServer]]:
    all_of_them = [RedisServer() for _ in range(3)]
    yield all_of_them
    for one in all_of_them:
        one.kill()


@pytest.fixture
def proxy() -> Iterator[RedisServer]:
    """Stands for a proxy: whatever is in it came by fall-back."""
    one = RedisServer()
    yield one
    one.kill()


def listed(servers: list[RedisServer]) -> list[dict[str, Any]]:
    return [{"id": f"n{i}", "host": "127.0.0.1", "port": one.port} for i, one in enumerate(servers, 1)]


@pytest.fixture
def health(servers: list[RedisServer], tmp_path: Path) -> Iterator[HealthProcess]:
    service = HealthProcess(tmp_path / "health", nodes=listed(servers), flags=["discovery"]).start()
    until("all are up", lambda: all(n["state"] == "up" for n in service.topology()["nodes"]))
    yield service
    service.kill()


def key_of(client: Any, node: str) -> str:
    """A key that this node owns."""
    owned = (f"key{n}" for n in range(10_000))
    return next(key for key in owned if client.view.topology.node_of(key) == node)


def test_commands_go_straight_to_the_node_that_owns_the_key(
    servers: list[RedisServer], health: HealthProcess
) -> None:
    with FastCache(health.url, decode_responses=True) as cache:
        for number in range(100):
            cache.set(f"key{number}", number)
        assert [cache.get(f"key{number}") for number in range(100)] == [str(n) for n in range(100)]
        for index, one in enumerate(servers, 1):
            held = one.keys()
            assert held
            assert all(cache.view.topology.node_of(key) == f"n{index}" for key in held)
        assert cache.incrby("counter", 5) == 5
        cache.hset("hash", mapping={"a": "1"})
        assert cache.hgetall("hash") == {"a": "1"}
        assert cache.zadd("zset", {"m": 1.5}) == 1
        assert cache.zrange("zset", 0, -1, withscores=True) in ([("m", 1.5)], [["m", 1.5]])


def test_without_proxies_multi_key_commands_are_split_and_merged_in_order(health: HealthProcess) -> None:
    with FastCache(health.url, decode_responses=True) as cache:
        pairs = {f"key{n}": str(n) for n in range(50)}
        assert cache.mset(pairs) is True
        assert cache.mget([*pairs, "missing"]) == [*pairs.values(), None]
        assert cache.exists(*pairs) == 50
        assert cache.delete(*pairs, "missing") == 50
        with pytest.raises(FastCacheError, match="CROSSSLOT"):
            cache.rename(key_of(cache, "n1"), key_of(cache, "n2"))


def test_pipelines_are_grouped_by_node_and_answer_in_order(health: HealthProcess) -> None:
    with FastCache(health.url, decode_responses=True) as cache:
        pipe = cache.pipeline()
        for number in range(60):
            pipe.set(f"key{number}", number)
            pipe.incr(f"key{number}")
            pipe.get(f"key{number}")
        expected = [reply for n in range(60) for reply in (True, n + 1, str(n + 1))]
        assert pipe.execute() == expected
        with cache.pipeline(transaction=True) as pipe:
            pipe.set("{a}1", 1)
            pipe.incr("{a}1")
            assert pipe.execute() == [True, 2]
        with cache.pipeline(transaction=True) as pipe, pytest.raises(UsageError, match="several nodes"):
            pipe.set(key_of(cache, "n1"), 1).set(key_of(cache, "n2"), 1)
            pipe.execute()
        pipe = cache.pipeline()
        pipe.set("text", "x").incr("text").get("text")
        assert [type(reply) for reply in pipe.execute(raise_on_error=False)] == [
            bool,
            redis.ResponseError,
            str,
        ]


def test_new_topologies_are_followed_without_a_restart(
    servers: list[RedisServer], health: HealthProcess
) -> None:
    with FastCache(health.url, decode_responses=True) as cache:
        epoch = cache.view.epoch
        extra = RedisServer()
        try:
            health.ask("POST", "/nodes", {"id": "n4", "host": "127.0.0.1", "port": extra.port})
            until("the client knows it", lambda: "n4" in cache.view.nodes)
            assert cache.view.epoch > epoch
            # A server that knows no moves is given slots only when somebody else is gone.
            health.ask("DELETE", "/nodes/n1?listed=removed")
            until("the client knows that one is gone", lambda: "n1" not in cache.view.nodes)
            cache.set(key_of(cache, "n4"), "here")
            assert len(extra.keys()) == 1
        finally:
            extra.kill()


def test_a_dead_node_costs_only_its_own_keys_and_its_return_is_noticed(
    servers: list[RedisServer], health: HealthProcess
) -> None:
    with FastCache(health.url, decode_responses=True) as cache:
        lost, kept = key_of(cache, "n2"), key_of(cache, "n1")
        cache.set(lost, 1)
        servers[1].kill()
        with pytest.raises((redis.ConnectionError, FastCacheError)):
            cache.set(lost, 2)
        for _ in range(20):
            assert cache.set(kept, 2)
        assert cache.health()["n2"] is Health.UNHEALTHY
        servers[1].start()

        def back() -> bool:
            with contextlib.suppress(redis.RedisError, FastCacheError):
                return bool(cache.set(lost, 3))
            return False

        until("its keys are served again", back)
        until("and it is called healthy", lambda: cache.health()["n2"] is Health.HEALTHY)


def test_when_a_node_cannot_be_reached_a_proxy_takes_its_commands(
    servers: list[RedisServer], health: HealthProcess, proxy: RedisServer
) -> None:
    health.ask("POST", "/proxies", {"id": "p1", "host": "127.0.0.1", "port": proxy.port})
    until("the proxy is up", lambda: [p["state"] for p in health.topology()["proxies"]] == ["up"])
    with FastCache(health.url, decode_responses=True) as cache:
        key = key_of(cache, "n3")
        servers[2].kill()
        assert cache.set(key, "by proxy")
        assert proxy.keys() == {key}
        pipe = cache.pipeline()
        pipe.set(key, "again").get(key)
        assert pipe.execute() == [True, "again"]
        assert cache.mget(key_of(cache, "n1"), key) == [None, "again"], "over several nodes: by proxy"


def test_routing_goes_on_without_the_health_service_and_starts_from_disk(
    health: HealthProcess, tmp_path: Path
) -> None:
    file = tmp_path / "topology.json"
    with FastCache(health.url, cache_file=file, decode_responses=True) as cache:
        cache.set("a", 1)
        health.kill()
        assert all(cache.set(f"key{n}", n) for n in range(50))
    with FastCache(health.url, cache_file=file, decode_responses=True) as cache:
        assert cache.get("a") == "1"
    with pytest.raises(FastCacheError, match="no health service answers"):
        FastCache(health.url)


def test_a_list_of_nodes_will_do(servers: list[RedisServer]) -> None:
    with FastCache(nodes=listed(servers), decode_responses=True) as cache:
        cache.mset({f"key{n}": n for n in range(100)})
        assert all(len(one.keys()) > 10 for one in servers)
        again = FastCache(nodes=list(reversed(listed(servers))), decode_responses=True)
        assert again.mget([f"key{n}" for n in range(100)]) == [str(n) for n in range(100)]
        again.close()


def test_a_server_that_knows_no_slots_is_used_as_a_proxy(proxy: RedisServer) -> None:
    with FastCache(f"redis://127.0.0.1:{proxy.port}", decode_responses=True) as cache:
        cache.set("a", 1)
        assert cache.get("a") == "1"
        assert cache.ping()
        assert proxy.keys() == {"a"}


def test_flags_switch_direct_routing_off(
    servers: list[RedisServer], health: HealthProcess, proxy: RedisServer
) -> None:
    health.ask("POST", "/proxies", {"id": "p1", "host": "127.0.0.1", "port": proxy.port})
    until("the proxy is known", lambda: health.topology()["proxies"])
    with FastCache(health.url, direct=False) as cache:
        cache.set("a", 1)
    assert proxy.keys() == {"a"}


def test_from_any_node_of_a_cluster_the_slots_are_learned_and_moves_are_followed(tmp_path: Path) -> None:
    nodes = [ClusterNode(0, 8191), ClusterNode(8192, 16383)]
    for node in nodes:
        node.others = nodes
    try:
        with FastCache(f"redis://127.0.0.1:{nodes[1].port}", decode_responses=True) as cache:
            assert len(cache.view.nodes) == 2
            assert cache.get("foo") == f"from {nodes[1].port}"  # slot 12182
            assert cache.get("bar") == f"from {nodes[0].port}"  # slot 5061
            nodes[0].first, nodes[0].last, nodes[1].last = 0, 16383, 8191  # all slots move to the first
            assert cache.get("foo") == f"from {nodes[0].port}"
    finally:
        for node in nodes:
            node.close()


class ClusterNode(StandIn):
    """Answers GET with its port, MOVED for what is another's, and CLUSTER SLOTS."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.others: list[ClusterNode] = []
        super().__init__()

    def answer(self, connection: Any) -> None:
        from fastcache import _core

        with contextlib.suppress(OSError):
            while data := connection.recv(4096):
                for request in data.split(b"*")[1:]:
                    words = request.split(b"\r\n")[2::2]
                    connection.sendall(self.reply([word.upper() for word in words[:1]] + words[1:], _core))

    def reply(self, words: list[bytes], core: Any) -> bytes:
        if words[0] == b"CLUSTER":
            rows = [
                f"*3\r\n:{one.first}\r\n:{one.last}\r\n*3\r\n$9\r\n127.0.0.1\r\n:{one.port}\r\n$1\r\nx\r\n"
                for one in self.others
                if one.first <= one.last
            ]
            return f"*{len(rows)}\r\n{''.join(rows)}".encode()
        if words[0] == b"GET":
            slot = core.slot_of(words[1])
            if not self.first <= slot <= self.last:
                owner = next(one for one in self.others if one.first <= slot <= one.last)
                return f"-MOVED {slot} 127.0.0.1:{owner.port}\r\n".encode()
            text = f"from {self.port}"
            return f"${len(text)}\r\n{text}\r\n".encode()
        if words[0] == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        return b"+OK\r\n"


def test_a_write_that_may_have_run_is_not_sent_twice(health: HealthProcess, proxy: RedisServer) -> None:
    """The owner takes the command and dies before it answers: the caller hears of it, nobody repeats it."""
    mute = StandIn()
    mute.silent = True
    nodes = [{"id": "mute", "host": "127.0.0.1", "port": mute.port}]
    with FastCache(
        f"redis://127.0.0.1:{proxy.port}", nodes=nodes, socket_timeout=0.3, protocol=2, health_checks=False
    ) as cache:
        cache.watcher.view = cache.source.static_view()
        with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
            cache.incr("counter")
        assert proxy.keys() == set()
    mute.close()


def test_the_asynchronous_client_does_the_same(
    servers: list[RedisServer], health: HealthProcess, proxy: RedisServer
) -> None:
    async def story() -> None:
        async with AsyncFastCache(health.url, decode_responses=True) as cache:
            pairs = {f"key{n}": str(n) for n in range(50)}
            await cache.mset(pairs)
            assert await cache.mget(list(pairs)) == list(pairs.values())
            assert sum(len(one.keys()) for one in servers) == 50
            values = await asyncio.gather(*(cache.incr("counter") for _ in range(100)))
            assert sorted(values) == list(range(1, 101))
            pipe = cache.pipeline()
            for number in range(30):
                pipe.set(f"p{number}", number)
                pipe.get(f"p{number}")
            assert (await pipe.execute())[1::2] == [str(n) for n in range(30)]
            lost = key_of(cache, "n2")
            health.ask("POST", "/proxies", {"id": "p1", "host": "127.0.0.1", "port": proxy.port})
            deadline = time.monotonic() + 10
            while not cache.view.proxies:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            servers[1].kill()
            with contextlib.suppress(redis.ConnectionError):  # it was open: the command may have run
                await cache.set(lost, "on its way")
            assert await cache.set(lost, "by proxy")
            assert proxy.keys() == {lost}

    asyncio.run(story())


def test_nobody_holds_the_client_back_from_being_forgotten(health: HealthProcess) -> None:
    before = threading.active_count()
    for _ in range(3):
        FastCache(health.url).close()
    node = {"id": "n9", "host": "127.0.0.1", "port": 1}
    assert json.dumps(health.ask("POST", "/nodes", node)[1])  # wakes what still polls
    until("their threads have ended", lambda: threading.active_count() <= before)

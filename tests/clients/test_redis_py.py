"""redis-py as applications use it: sync and async, RESP2 and RESP3, pools, pipelines, pub/sub."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance.servers import Server


@pytest.fixture(params=[2, 3])
def client(node: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    connected = redis.Redis(port=node.port, protocol=request.param, decode_responses=True)
    yield connected
    connected.close()


def test_the_defaults_of_version_8_connect(node: Server) -> None:
    # The default is RESP3 with CLIENT SETINFO and maintenance notifications, without a fallback.
    with redis.Redis(port=node.port) as plain:
        assert plain.set("k", "v")
        assert plain.get("k") == b"v"
        assert plain.client_getname() in (None, "", b"")


def test_values_of_every_family_come_back_as_python_values(client: Any) -> None:
    client.hset("h", mapping={"a": "1", "b": "2"})
    client.rpush("l", 1, 2, 3)
    client.sadd("s", "x", "y")
    client.zadd("z", {"m": 1.5, "n": 2})
    assert client.hgetall("h") == {"a": "1", "b": "2"}
    assert client.lrange("l", 0, -1) == ["1", "2", "3"]
    assert client.smembers("s") == {"x", "y"}
    assert [tuple(pair) for pair in client.zrange("z", 0, -1, withscores=True)] == [("m", 1.5), ("n", 2.0)]
    assert client.zscore("z", "m") == 1.5
    assert client.info("server")["redis_version"] == "7.0.15"
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.command_count() > 150
    assert client.client_info()["resp"] in ("2", "3")


def test_a_pipeline_with_a_watch_retries_until_it_wins(client: Any, node: Server) -> None:
    client.set("n", 0)
    rival = redis.Redis(port=node.port)
    tries = 0

    def increase(pipe: Any) -> None:
        nonlocal tries
        tries += 1
        current = int(pipe.get("n"))
        if tries == 1:
            rival.incr("n")
        pipe.multi()
        pipe.set("n", current + 1)

    client.transaction(increase, "n")
    assert (client.get("n"), tries) == ("2", 2)
    rival.close()


def test_a_blocking_pool_serves_many_threads(node: Server) -> None:
    pool: Any = redis.BlockingConnectionPool(port=node.port, max_connections=4, timeout=20)  # type: ignore[no-untyped-call]
    shared = redis.Redis(connection_pool=pool)

    def work() -> None:
        for _ in range(100):
            shared.incr("counter")

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.get("counter") == b"1200"
    pool.disconnect()


def test_published_messages_arrive_in_order(client: Any) -> None:
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("news")
    listener.psubscribe("n*")
    while listener.get_message(timeout=0.2):
        pass
    for number in range(50):
        client.publish("news", str(number))
    received: list[str] = []
    while len(received) < 100:
        message = listener.get_message(timeout=5)
        if message:
            received.append(message["data"])
    assert received[::2] == received[1::2] == [str(number) for number in range(50)]
    listener.close()


def test_a_blocked_pop_is_woken(client: Any, node: Server) -> None:
    popped: list[Any] = []
    with redis.Redis(port=node.port, decode_responses=True) as other:
        thread = threading.Thread(target=lambda: popped.append(other.blpop(["queue"], timeout=10)))
        thread.start()
        client.rpush("queue", "job")
        thread.join(15)
    assert [tuple(one) for one in popped] == [("queue", "job")]


def test_scan_iter_finds_every_key(client: Any) -> None:
    pipe = client.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"k{number}", number)
    pipe.execute()
    assert set(client.scan_iter("k*", count=50)) == {f"k{number}" for number in range(1000)}


@pytest.mark.parametrize("protocol", [2, 3])
def test_asyncio_clients_share_a_pool(node: Server, protocol: int) -> None:
    async def scenario() -> tuple[Any, Any]:
        client: Any = redis.asyncio.Redis(port=node.port, protocol=protocol, decode_responses=True)
        await asyncio.gather(*(client.incr("n") for _ in range(50)))
        async with client.pipeline(transaction=True) as pipe:
            replies = await pipe.set("a", 1).incr("a").get("a").execute()
        waiter = asyncio.create_task(client.blpop(["jobs"], timeout=10))
        await client.rpush("jobs", "x")
        assert list(await waiter) == ["jobs", "x"]
        total = await client.get("n")
        await client.aclose()
        return total, replies

    assert asyncio.run(scenario()) == ("50", [True, 2, "2"])


def test_passwords_are_asked_for_and_taken(node: Server) -> None:
    with redis.Redis(port=node.port) as first:
        first.config_set("requirepass", "secret")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=node.port, protocol=2).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=node.port, password="wrong").ping()
        for protocol in (2, 3):
            assert redis.Redis(port=node.port, password="secret", protocol=protocol).ping()
            assert redis.Redis(
                port=node.port, username="default", password="secret", protocol=protocol
            ).ping()
        first.config_set("requirepass", "")

"""Client-side caching through proxies: who has read a key is told of its change, whoever changes it where."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig

from tests.cluster.embedded import Embedded, free_ports, until
from tests.conformance.wire import Connection

NODES = 4
KEYS = [f"key:{number}" for number in range(12)]
GONE = b">2\r\n$10\r\ninvalidate\r\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", str(NODES), "--proxies", "2", "--profile", "reference")
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


@pytest.fixture
def writer(cluster: Embedded) -> Iterator["redis.Redis"]:
    """A client of the other proxy than that of the readers; every key has the value 1."""
    with redis.Redis(port=cluster.port_of("proxy") + 1, socket_timeout=30) as client:
        client.flushall()
        client.mset(dict.fromkeys(KEYS, 1))
        yield client


def reader(cluster: Embedded, *tracking: str, protocol: int = 3) -> Connection:
    connection = Connection(("127.0.0.1", cluster.port_of("proxy")))
    if protocol == 3:
        connection.ask("HELLO", "3")
    assert connection.ask("CLIENT", "TRACKING", "ON", *tracking) == b"+OK\r\n"
    return connection


def told(key: str) -> bytes:
    return GONE + b"*1\r\n$%d\r\n%s\r\n" % (len(key), key.encode())


def test_who_has_read_keys_of_all_nodes_is_told_once_of_each(
    cluster: Embedded, writer: "redis.Redis"
) -> None:
    one, other = reader(cluster), reader(cluster)
    for key in KEYS:
        assert one.ask("GET", key) == b"$1\r\n1\r\n"
    assert other.value("MGET", *KEYS[:4]) == [b"1"] * 4
    for key in KEYS:
        writer.set(key, 2)
        writer.set(key, 3)
        assert one.read() == told(key)
    assert sorted(other.read() for _ in range(4)) == sorted(told(key) for key in KEYS[:4])
    # What was told is told again only after it was read again.
    assert one.ask("GET", KEYS[0]) == b"$1\r\n3\r\n"
    writer.delete(*KEYS)
    assert one.read() == told(KEYS[0])
    assert one.ask("PING") == b"+PONG\r\n"


def test_own_changes_are_told_or_not_as_was_asked(cluster: Embedded, writer: "redis.Redis") -> None:
    one, quiet = reader(cluster), reader(cluster, "NOLOOP")
    for connection in (one, quiet):
        for key in KEYS:
            connection.ask("GET", key)
    assert one.ask("SET", KEYS[0], "mine") == b"+OK\r\n"
    assert one.read() == told(KEYS[0])
    assert quiet.read() == told(KEYS[0])
    for key in KEYS[1:]:
        assert quiet.ask("SET", key, "mine") == b"+OK\r\n"
        assert one.read() == told(key)
    assert quiet.ask("PING") == b"+PONG\r\n"
    assert quiet.ask("GET", KEYS[1]) == b"$4\r\nmine\r\n"
    writer.set(KEYS[1], 5)
    assert quiet.read() == told(KEYS[1])


def test_a_client_chooses_what_it_keeps(cluster: Embedded, writer: "redis.Redis") -> None:
    chosen, spared = reader(cluster, "OPTIN"), reader(cluster, "OPTOUT")
    for connection, word in ((chosen, "YES"), (spared, "NO")):
        connection.ask("GET", KEYS[0])
        assert connection.ask("CLIENT", "CACHING", word) == b"+OK\r\n"
        connection.ask("GET", KEYS[1])
        connection.ask("GET", KEYS[2])
    for key in KEYS[:3]:
        writer.set(key, 2)
    assert chosen.read() == told(KEYS[1])
    assert [spared.read(), spared.read()] == [told(KEYS[0]), told(KEYS[2])]
    for connection in (chosen, spared):
        assert connection.ask("PING") == b"+PONG\r\n"
    assert chosen.ask("CLIENT", "TRACKING", "OFF") == b"+OK\r\n"
    assert chosen.ask("GET", KEYS[1]) == b"$1\r\n2\r\n"


def test_who_wants_prefixes_is_told_of_all_keys_with_them(cluster: Embedded, writer: "redis.Redis") -> None:
    wide, narrow = reader(cluster, "BCAST"), reader(cluster, "BCAST", "PREFIX", "a:", "PREFIX", "b:")
    names = [f"{prefix}:{number}" for number in range(8) for prefix in "abc"]
    for name in names:
        writer.set(name, 1)
        assert wide.read() == told(name)
        if not name.startswith("c"):
            assert narrow.read() == told(name)
    writer.flushall()
    assert wide.read() == narrow.read() == GONE + b"_\r\n"


def test_a_client_of_the_old_protocol_has_another_told(cluster: Embedded, writer: "redis.Redis") -> None:
    listener = Connection(("127.0.0.1", cluster.port_of("proxy")))
    number = listener.value("CLIENT", "ID")
    listener.ask("SUBSCRIBE", "__redis__:invalidate")
    one = reader(cluster, "REDIRECT", str(number), protocol=2)
    for key in KEYS:
        assert one.ask("GET", key) == b"$1\r\n1\r\n"
    message = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n"
    for key in KEYS:
        writer.set(key, 2)
        assert listener.read() == message + b"$%d\r\n%s\r\n" % (len(key), key.encode())


def test_reads_in_a_transaction_count_and_commands_over_nodes_are_refused(
    cluster: Embedded, writer: "redis.Redis"
) -> None:
    one = reader(cluster)
    for words in (["MULTI"], *(["GET", key] for key in KEYS), ["EXEC"]):
        one.ask(*words)
    for key in KEYS:
        writer.set(key, 2)
        assert one.read() == told(key)
    assert one.ask("SUNION", *KEYS).startswith(b"-CROSSSLOT")


def test_values_that_redis_py_keeps_are_never_older_than_what_was_told(
    cluster: Embedded, writer: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    # It asks for a later version than the one whose commands are served, without needing anything of it.
    monkeypatch.setattr(redis.connection.CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    options: dict[str, Any] = {"cache_config": CacheConfig(), "protocol": 3}
    with redis.Redis(port=cluster.port_of("balancer"), socket_timeout=30, **options) as cached:
        for number in range(15):
            for key in KEYS:
                writer.set(key, number)
            until(lambda: [cached.get(key) for key in KEYS] == [b"%d" % number] * len(KEYS), "all are new")  # noqa: B023
        cache = cached.get_cache()
        assert cache is not None
        assert cache.size > 0


def test_what_is_kept_is_void_when_a_node_dies(cluster: Embedded, writer: "redis.Redis") -> None:
    one, wide = reader(cluster), reader(cluster, "BCAST")
    for key in KEYS:
        one.ask("GET", key)
    os.kill(int(cluster.status()[1]["nodes"][1]["pid"]), signal.SIGKILL)
    assert one.read(20) == GONE + b"_\r\n"
    assert wide.read(20) == GONE + b"_\r\n"
    assert cluster.whole("--nodes", str(NODES), "--proxies", "2", "--profile", "reference").returncode == 0
    deadline = time.monotonic() + 30
    while b"$" not in one.ask("GET", KEYS[0])[:1] and time.monotonic() < deadline:
        time.sleep(0.1)

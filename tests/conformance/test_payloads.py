"""DUMP's payloads travel both ways: what Redis dumps our node restores, and what it dumps Redis restores.

Contents come from the random commands of every data family, so all encodings of Redis 7.0 occur; a second
round lowers its thresholds, so that large encodings occur as well. And a node that has nothing of its own
begins with the file that a Redis left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.conformance.random_commands import DATA, SeededChooser, Source
from tests.conformance.servers import start_ours, start_redis
from tests.conformance.state import KeyState, differences, keyspace
from tests.conformance.wire import decode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conformance.servers import Server
    from tests.conformance.wire import Connection

COMMANDS = 1500
LARGE = (
    "hash-max-listpack-entries",
    "zset-max-listpack-entries",
    "set-max-intset-entries",
    "list-max-listpack-size",
)


def filled(server: Server, seed: int) -> None:
    """Give a server contents of every kind."""
    source = Source(SeededChooser(seed))
    connection = server.connect()
    for family in DATA:
        makers = [source.command(family).words for _ in range(COMMANDS // len(DATA))]
        connection.pipeline(words for words in makers if not str(words[0]).startswith(("B", "FLUSH")))
    long = "a long text that compresses well " * 40
    for number in range(3000):
        connection.ask("RPUSH", "long-list", f"element {number}")
    connection.ask("SET", "long", long)
    connection.ask("RPUSH", "texts", long, "x" * 20000, "-1", "70000", "9223372036854775807", "", long)
    connection.ask("HSET", "hash-of-texts", "a", long, "b", "-5", "c", "3000000000")
    connection.ask("SADD", "wide", "1", "70000", "-9000000000")
    connection.ask("ZADD", "scores", "inf", "a", "-inf", "b", "0.1", "c", "-0", "d", "1e300", "e")
    connection.close()


def contents(connection: Connection) -> dict[bytes, KeyState]:
    """The keyspace; that a string was edited in place is not carried, by Redis neither."""
    return {
        key: replace(state, encoding=b"") if state.kind == b"string" else state
        for key, state in keyspace(connection, strict=False).items()
    }


def carried(source: Server, target: Server) -> list[str]:
    """Carry every key by DUMP and RESTORE; what differs afterwards."""
    one, other = source.connect(2), target.connect(2)
    other.ask("FLUSHALL")
    keys = sorted(one.value("KEYS", "*"))
    payloads = [decode(raw).value for raw in one.pipeline(("DUMP", key) for key in keys)]
    times = [decode(raw).value for raw in one.pipeline(("PTTL", key) for key in keys)]
    assert len(keys) > 25
    replies = other.pipeline(
        ("RESTORE", key, max(0, int(time)), payload)
        for key, payload, time in zip(keys, payloads, times, strict=True)
    )
    refused = [f"{key!r}: {reply!r}" for key, reply in zip(keys, replies, strict=True) if reply != b"+OK\r\n"]
    pair = (one, other) if source.name == "redis" else (other, one)
    found = differences(*(contents(connection) for connection in pair))
    one.close()
    other.close()
    return refused + found


@pytest.mark.parametrize("large", [False, True])
def test_values_travel_by_dump_and_restore(redis: Server, ours: Server, large: bool) -> None:
    servers = (redis, ours)
    connections = [server.connect() for server in servers]
    before = {name: connections[0].value("CONFIG", "GET", name)[1] for name in LARGE}
    try:
        for connection in connections:
            for name in LARGE if large else ():
                connection.ask("CONFIG", "SET", name, "3")
        for seed, (source, target) in enumerate([servers, servers[::-1]]):
            source.clean()
            filled(source, seed)
            wrong = carried(source, target)
            if wrong:
                pytest.fail(
                    f"from {source.name}: {len(wrong)} differences\n" + "\n".join(wrong[:20]), pytrace=False
                )
    finally:
        for connection in connections:
            for name, value in before.items():
                connection.ask("CONFIG", "SET", name, value)
            connection.close()
        for server in servers:
            server.clean()


LIBRARY = "#!lua name=lib\nredis.register_function('add', function(keys, args) return args[1] + args[2] end)"


def test_a_node_begins_with_the_file_that_a_redis_left(tmp_path: Path) -> None:
    redis = start_redis(tmp_path)
    filled(redis, 3)
    one = redis.connect()
    one.pipeline(("PERSIST", key) for key in one.value("KEYS", "*"))  # However slow this machine is.
    one.ask("FUNCTION", "LOAD", LIBRARY)
    one.ask("SELECT", "9")
    one.ask("XADD", "stream", "5-1", "f", "v")
    one.ask("XGROUP", "CREATE", "stream", "group", "0")
    one.ask("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", "stream", ">")
    kinds = set()
    before = {}
    for database in ("0", "9"):
        one.ask("SELECT", database)
        before[database] = contents(one)
        kinds |= {state.kind for state in before[database].values()}
    assert kinds == {b"string", b"list", b"hash", b"set", b"zset", b"stream"}
    one.ask("SET", "expiring", "x", "PXAT", "2000000000123")
    assert one.ask("SAVE") == b"+OK\r\n"
    redis.stop()
    assert (tmp_path / "dump.rdb").exists()
    for spoilt in (False, True):
        ours = start_ours(tmp_path)
        other = ours.connect()
        for database, keys in before.items():
            other.ask("SELECT", database)
            found = contents(other)
            found.pop(b"expiring", None)
            assert not differences(keys, found)
        assert other.ask("PEXPIRETIME", "expiring") == b":2000000000123\r\n"
        assert other.ask("FCALL", "add", "0", "2", "3") == b":5\r\n"
        # What this node keeps itself takes the file's place.
        other.ask("FASTCACHE", "SNAPSHOT")
        (tmp_path / "dump.rdb").write_bytes(b"no file of Redis")
        ours.stop()
        assert spoilt or list(tmp_path.glob("*.fcsnap"))

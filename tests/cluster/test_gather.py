"""Commands, scripts and transactions whose keys lie on several nodes, through two proxies at once."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import Embedded, free_ports, until
from tests.cluster.test_kills import owner_of

NODES = 4
KEYS = [f"key:{number}" for number in range(12)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", str(NODES), "--proxies", "2", "--profile", "reference")
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


@pytest.fixture
def doors(cluster: Embedded) -> Iterator[list["redis.Redis"]]:
    """A client of each proxy; there are no keys."""
    clients = [
        redis.Redis(port=cluster.port_of("proxy") + number, socket_timeout=60, decode_responses=True)
        for number in range(2)
    ]
    clients[0].flushall()
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def apart(cluster: Embedded) -> list[str]:
    """Four keys of four nodes."""
    owner = owner_of(cluster)
    found = {owner(key): key for key in (f"apart:{number}" for number in range(1000))}
    assert len(found) == NODES
    return list(found.values())


def test_a_key_renamed_to_another_node_takes_value_and_time_along(doors: list["redis.Redis"]) -> None:
    door, other = doors
    for source, target in itertools.pairwise(KEYS):
        door.delete(*KEYS)
        door.rpush(source, *range(1000))
        door.pexpireat(source, int(time.time() * 1000) + 100_000)
        expires = door.pexpiretime(source)
        assert door.rename(source, target)
        assert other.exists(source) == 0
        assert other.lrange(target, 0, -1) == [str(number) for number in range(1000)]
        assert other.pexpiretime(target) == expires


def test_all_or_none_are_set(doors: list["redis.Redis"]) -> None:
    door, other = doors
    assert door.msetnx(dict.fromkeys(KEYS, 1))
    door.delete(*KEYS[1:])
    assert not other.msetnx(dict.fromkeys(reversed(KEYS), 2))
    assert door.exists(*KEYS) == 1


def test_scripts_at_two_proxies_and_clients_between_them_lose_no_change(
    doors: list["redis.Redis"], apart: list[str]
) -> None:
    add = "for _, key in ipairs(KEYS) do redis.call('SET', key, redis.call('GET', key) + 1) end"
    doors[0].mset(dict.fromkeys(apart[:3], 0))
    rounds = 60
    failed: list[Exception] = []

    def scripts(door: "redis.Redis") -> None:
        script = door.register_script(add)
        try:
            for _ in range(rounds):
                script(keys=apart[:3])
        except redis.RedisError as error:
            failed.append(error)

    def increments(door: "redis.Redis") -> None:
        for _ in range(rounds):
            door.incr(apart[1])
            time.sleep(0.005)

    threads = [threading.Thread(target=scripts, args=(door,)) for door in (*doors, *doors)]
    threads.append(threading.Thread(target=increments, args=(doors[1],)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    sums = [4 * rounds, 5 * rounds, 4 * rounds]
    assert doors[0].mget(apart[:3]) == [str(number) for number in sums]


def test_a_script_that_a_proxy_does_not_know_is_asked_of_the_nodes(doors: list["redis.Redis"]) -> None:
    digest = doors[0].script_load("return redis.call('MGET', unpack(KEYS))")
    doors[0].mset(dict.fromkeys(KEYS, "x"))
    for door in doors:
        assert door.script_exists(digest) == [True]
        assert door.evalsha(digest, len(KEYS), *KEYS) == ["x"] * len(KEYS)
    with pytest.raises(redis.exceptions.NoScriptError):
        doors[0].evalsha("0" * 40, 2, *KEYS[:2])


def test_keys_that_a_script_does_not_name_are_found(doors: list["redis.Redis"]) -> None:
    doors[0].mset({key: number for number, key in enumerate(KEYS)})
    reads = (
        "local sum = 0 for number = 0, 11 do sum = sum + redis.call('GET', 'key:' .. number) end return sum"
    )
    for keys in ([], KEYS[:1], KEYS[:5]):
        assert doors[1].eval(reads, len(keys), *keys) == 66
    writes = reads.replace("return sum", "redis.call('SET', 'sum', sum) return 'done'")
    assert doors[1].eval(writes, 1, KEYS[3]) == "done"
    assert doors[0].get("sum") == "66"


def test_a_transaction_with_a_command_over_nodes_is_done_whole(
    doors: list["redis.Redis"], apart: list[str]
) -> None:
    door = doors[0]
    one, two, both, _ = apart
    with door.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=10)
        pipeline = door.pipeline()
        pipeline.sadd(one, "a", "b").sadd(two, "b", "c").sinterstore(both, [one, two])
        pipeline.smove(one, two, "a").publish("news", "hello").smembers(both)
        assert pipeline.execute() == [2, 2, 1, True, 0, {"b"}]
        until(lambda: (listener.get_message(timeout=1) or {}).get("data") == "hello", "the message came")
    assert door.smembers(two) == {"a", "b", "c"}


def test_streams_of_all_nodes_are_read_in_their_order(doors: list["redis.Redis"], apart: list[str]) -> None:
    door = doors[0]
    for key in apart:
        door.xgroup_create(key, "group", mkstream=True)
    for key in (apart[3], apart[1]):
        door.xadd(key, {"f": key}, id="1-1")
    for key, entries in dict(door.xread(dict.fromkeys(apart, "0"))).items():
        assert dict(entries if isinstance(entries[0], tuple) else entries[0]) == {"1-1": {"f": key}}
    words = ["XREADGROUP", "GROUP", "group", "me", "STREAMS", *apart, *[">"] * 4]
    read = door.execute_command(*words)
    assert list(dict(read)) == [apart[1], apart[3]]
    assert door.execute_command(*words) in ({}, [], None)
    assert door.xpending(apart[3], "group")["pending"] == 1


def test_news_of_streams_of_all_nodes_are_waited_for(doors: list["redis.Redis"], apart: list[str]) -> None:
    """What comes after the question is heard, from every stream, once; and `$` is where they ended then."""
    reader, writer = doors
    writer.xadd(apart[0], {"f": "before"})
    read: list[object] = []

    def wait(*words: object) -> threading.Thread:
        thread = threading.Thread(target=lambda: read.append(reader.execute_command(*words)))
        thread.start()
        until(lambda: any(one["cmd"].startswith("xread") for one in writer.client_list()), "somebody waits")
        return thread

    def told(reply: object) -> dict[str, list[tuple[str, dict[str, str]]]]:
        pairs = dict(reply)  # type: ignore[call-overload]
        return {key: [tuple(entry) for entry in entries] for key, entries in pairs.items()}

    for number, key in enumerate(apart):
        thread = wait("XREAD", "BLOCK", 30_000, "STREAMS", *apart, *["$"] * 4)
        time.sleep(0.1)
        writer.xadd(key, {"f": number}, id=f"9999999999999-{number + 1}")
        thread.join(30)
        assert told(read.pop()) == {key: [(f"9999999999999-{number + 1}", {"f": str(number)})]}
    # Over what is there already nobody waits, and nothing is lost between two questions.
    seen = dict.fromkeys(apart, "0")
    everything = told(reader.xread(seen, block=30_000))
    assert sum(map(len, everything.values())) == 5
    began = time.monotonic()
    assert reader.xread(dict.fromkeys(apart, "9999999999999-9"), block=300) in (None, [], {})
    assert 0.25 < time.monotonic() - began < 10
    for words, text in (
        (("XREAD", "BLOCK", "x", "STREAMS", *apart, *["0"] * 4), "not an integer"),
        (("XREAD", "BLOCK", "-1", "STREAMS", *apart, *["0"] * 4), "negative"),
        (("XREAD", "BLOCK", "1", "STREAMS", *apart, *["nonsense"] * 4), "Invalid stream ID"),
        (("XREADGROUP", "GROUP", "none", "me", "BLOCK", "1", "STREAMS", *apart, *[">"] * 4), "NOGROUP"),
    ):
        with pytest.raises(redis.ResponseError, match=text):
            reader.execute_command(*words)


def test_two_of_a_group_wait_for_streams_of_all_nodes_and_each_entry_goes_to_one(
    cluster: Embedded, doors: list["redis.Redis"], apart: list[str]
) -> None:
    for key in apart:
        doors[0].xgroup_create(key, "group", mkstream=True)
    got: list[tuple[int, str]] = []
    total = 40

    def consume(number: int) -> None:
        with redis.Redis(port=cluster.port_of("proxy") + number, socket_timeout=60, protocol=3) as client:
            while len(got) < total:
                found = client.xreadgroup(
                    "group", f"c{number}", dict.fromkeys(apart, ">"), block=1000, count=1
                )
                for key, batches in (found or {}).items():  # type: ignore[union-attr]
                    for entries in batches:
                        got.extend((number, f"{key}{identity}") for identity, _ in entries)
                        client.xack(key, "group", *(identity for identity, _ in entries))

    threads = [threading.Thread(target=consume, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    # Who waits and finds nothing wakes nobody: no questions go round while nothing happens.
    before = asked_of_nodes(cluster)
    time.sleep(0.5)
    assert asked_of_nodes(cluster) - before < 200
    for number in range(total):
        doors[number % 2].xadd(apart[number % 4], {"n": number})
    for thread in threads:
        thread.join(60)
    assert len(got) == len({entry for _, entry in got}) == total
    assert all(doors[0].xpending(key, "group")["pending"] == 0 for key in apart)


def asked_of_nodes(cluster: Embedded) -> int:
    """Commands that all nodes have run."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(redis.Redis(port=cluster.port_of("node") + number)) for number in range(NODES)
        ]
        return sum(int(node.info("stats")["total_commands_processed"]) for node in nodes)


def test_a_waiting_client_gets_what_a_script_over_nodes_adds(
    doors: list["redis.Redis"], apart: list[str]
) -> None:
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(doors[1].blpop(apart[0], timeout=30)))
    waiter.start()
    until(lambda: doors[1].info("clients")["connected_clients"] >= 1, "somebody waits")
    doors[0].eval("redis.call('RPUSH', KEYS[1], 'work') redis.call('INCR', KEYS[2])", 2, *apart[:2])
    waiter.join(30)
    assert got == [(apart[0], "work")]


def test_what_cannot_be_is_refused_and_changes_nothing(doors: list["redis.Redis"], apart: list[str]) -> None:
    door = doors[0]
    door.mset(dict.fromkeys(apart, 1))
    with pytest.raises(redis.ResponseError, match="all keys is not possible"):
        door.eval("redis.call('INCR', KEYS[1]) return redis.call('DBSIZE')", 2, *apart[:2])
    assert door.get(apart[0]) == "2", "as in Redis, what a script wrote before its error stays"
    with pytest.raises(redis.ResponseError, match="ran for too long"):
        door.eval("redis.call('INCR', KEYS[1]) while true do end", 2, *apart[:2])
    assert door.get(apart[0]) == "2"
    with door.pipeline() as pipeline, pytest.raises(redis.RedisError, match="different nodes"):
        pipeline.watch(apart[0])
        pipeline.multi()
        pipeline.sunionstore("all", apart)
        pipeline.execute()
    big = b"x" * (17 << 20)
    for number in range(8):
        door.set(f"big:{number}", big)
    with pytest.raises(redis.RedisError, match="too large to be brought together"):
        door.bitop("OR", "all", *(f"big:{number}" for number in range(8)))


def test_strict_proxies_refuse_it(cluster: Embedded, doors: list["redis.Redis"], tmp_path: Path) -> None:
    file = cluster.directory / f"proxy-{cluster.port_of('proxy') + 1}" / "proxy.toml"
    before = file.read_text()
    file.write_text('transactions = "strict"\n' + before)
    try:
        assert cluster.call("renew").returncode == 0
        with pytest.raises(redis.RedisError, match="same slot"):
            doors[1].sunion(KEYS)
        doors[0].sunion(KEYS)
    finally:
        file.write_text(before)
        assert cluster.call("renew").returncode == 0

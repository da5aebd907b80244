"""A whole cluster of real processes: what clients see through HAProxy and the proxies, whatever dies."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import PROGRAM, Embedded, free_ports, until

NODES = 4
Client = Callable[..., "redis.Redis"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Four nodes, the health service, two proxies, HAProxy."""
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", str(NODES))
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


@pytest.fixture
def client(cluster: Embedded) -> Iterator[Client]:
    """Clients of a kind of process, or of a port; every test begins with all of them up and no keys."""
    assert cluster.whole("--nodes", str(NODES)).returncode == 0
    clients: list[redis.Redis] = []

    def make(kind: str = "balancer", index: int = 0, **options: object) -> redis.Redis:
        made = redis.Redis(port=cluster.port_of(kind) + index, socket_timeout=20, **options)  # type: ignore[arg-type]
        clients.append(made)
        return made

    until(lambda: all_serve(make("proxy", 0)) and all_serve(make("proxy", 1)), "every node serves")
    make("proxy").flushall()
    yield make
    for one in clients:
        one.close()


def all_serve(client: "redis.Redis") -> bool:
    """Whether a proxy reaches every node."""
    try:
        client.dbsize()
    except redis.RedisError:
        return False
    return True


def pid(cluster: Embedded, kind: str, index: int = 0) -> int:
    return int(cluster.status()[1][kind][index]["pid"])


def test_keys_are_spread_over_all_nodes_and_found_through_every_door(client: Client) -> None:
    door = client()
    for number in range(200):
        door.set(f"key:{number}", number)
    held = [client("node", index).dbsize() for index in range(NODES)]
    assert sum(held) == 200
    assert min(held) > 0
    for kind, index in (("balancer", 0), ("proxy", 0), ("proxy", 1)):
        assert client(kind, index).get("key:77") == b"77"
        assert client(kind, index).dbsize() == 200


def test_split_commands_answer_as_one_server_would(client: Client) -> None:
    door = client()
    assert door.mset({f"m:{number}": number for number in range(50)})
    wanted = [f"m:{number}" for number in (49, 7, 99, 7, 0)]
    assert door.mget(wanted) == [b"49", b"7", None, b"7", b"0"]
    assert door.exists("m:1", "m:2", "m:2", "none") == 3
    assert sorted(door.keys("m:1?")) == [b"m:1%d" % digit for digit in range(10)]
    assert door.delete(*(f"m:{number}" for number in range(60))) == 50
    assert door.dbsize() == 0


def test_replies_of_a_pipeline_come_in_the_order_of_its_requests(client: Client) -> None:
    pipeline = client().pipeline(transaction=False)
    for number in range(3000):
        pipeline.set(f"p:{number}", number)
        pipeline.get(f"p:{number}")
    replies = pipeline.execute()
    assert replies[1::2] == [b"%d" % number for number in range(3000)]


def test_values_of_megabytes_pass_both_ways(client: Client) -> None:
    value = os.urandom(1 << 20) * 8
    door = client()
    assert door.set("big", value)
    assert door.get("big") == value
    assert door.mget("big", "none", "big") == [value, None, value]


def test_clients_of_both_protocols_are_served_side_by_side(client: Client) -> None:
    for protocol in (2, 3):
        door = client(protocol=protocol)
        door.hset("h", mapping={"a": 1})
        assert door.hgetall("h") == {b"a": b"1"}
        assert door.mget("none", "none2") == [None, None]
    assert client(db=3).dbsize() == 0
    client(db=3).set("only-in-3", 1)
    assert (client(db=3).dbsize(), client().exists("only-in-3")) == (1, 0)


def test_a_blocked_client_is_woken_by_another_and_holds_up_nobody(client: Client) -> None:
    waiting = client("proxy")
    connection = waiting.connection_pool.get_connection()
    connection.send_command("BLPOP", "queue", 20)
    other = client("proxy")
    until(lambda: bool(other.ping()), "others are served")
    assert other.get("none") is None
    other.rpush("queue", "work")
    assert connection.read_response() == [b"queue", b"work"]
    connection.disconnect()


def test_a_scan_meets_every_key_of_every_node_once(client: Client) -> None:
    door = client("proxy")
    keys = {b"scan:%d" % number for number in range(500)}
    door.mset(dict.fromkeys(keys, 1))
    for count in (1000, 7):
        assert sorted(door.scan_iter(count=count)) == sorted(keys)
    assert sorted(door.scan_iter(match="scan:1?")) == sorted(b"scan:1%d" % digit for digit in range(10))
    with pytest.raises(redis.ResponseError, match="invalid cursor"):
        door.execute_command("SCAN", "nonsense")


def test_a_watched_key_that_changes_stops_the_transaction_and_one_that_stays_does_not(client: Client) -> None:
    door, other = client("proxy"), client("proxy")
    door.mset({"{t}a": 1, "{t}b": 1})
    for change, outcome in ((False, [True, 2]), (True, None)):
        with door.pipeline() as pipeline:
            pipeline.watch("{t}a")
            assert pipeline.get("{t}a") == b"1"
            if change:
                other.set("{t}a", "another's")
            pipeline.multi()
            pipeline.set("{t}a", "1")
            pipeline.incr("{t}b")
            if outcome is None:
                with pytest.raises(redis.WatchError):
                    pipeline.execute()
            else:
                assert pipeline.execute() == outcome
    assert other.mget("{t}a", "{t}b") == [b"another's", b"2"]


def test_a_watch_that_was_given_up_stops_nothing(client: Client) -> None:
    door, other = client("proxy"), client("proxy")
    with door.pipeline() as pipeline:
        pipeline.watch("{t}a")
        pipeline.unwatch()
        other.set("{t}a", 5)
        pipeline.multi()
        pipeline.incr("{t}a")
        assert pipeline.execute() == [6]


def test_a_transaction_over_several_nodes_runs_on_each_and_answers_in_order(client: Client) -> None:
    for protocol in (2, 3):
        door = client("proxy", protocol=protocol)
        door.flushall()
        pipeline = door.pipeline()
        pipeline.mset({f"key:{number}": number for number in range(20)})
        for number in range(20):
            pipeline.incr(f"key:{number}").expire(f"key:{number}", 100)
        pipeline.ping().mget("key:3", "none", "key:19")
        replies = pipeline.execute()
        assert replies[0] is True
        assert replies[1:41:2] == [number + 1 for number in range(20)]
        assert replies[41:] == [True, [b"4", None, b"20"]]
        assert door.exists(*(f"key:{number}" for number in range(20))) == 20


def test_select_in_a_transaction_holds_for_what_follows_and_for_this_client_alone(client: Client) -> None:
    door, other = client("proxy"), client("proxy")
    pipeline = door.pipeline().set("a", 0).execute_command("SELECT", 3).set("a", 3).set("b", 3).set("c", 3)
    assert pipeline.execute() == [True] * 5
    assert other.mget("a", "b", "c") == [b"0", None, None]
    assert client("proxy", db=3).mget("a", "b", "c") == [b"3"] * 3


def test_a_transaction_that_cannot_be_done_is_refused_whole(client: Client) -> None:
    door = client("proxy")
    keys = [f"key:{number}" for number in range(20)]
    with pytest.raises(redis.RedisError, match="hash to the same slot"):
        door.pipeline().set(keys[0], 1).execute_command("FCALL", "f", 20, *keys).execute()
    with pytest.raises(redis.RedisError, match="inside MULTI"):
        door.pipeline().set(keys[0], 1).execute_command("SUBSCRIBE", "x").execute()
    assert door.exists(*keys) == 0


def test_watched_keys_of_several_nodes_stop_the_transaction_before_anything_ran(client: Client) -> None:
    door, other = client("proxy"), client("proxy")
    keys = [f"key:{number}" for number in range(12)]
    for changed in (None, *keys):
        door.mset(dict.fromkeys(keys, 0))
        with door.pipeline() as pipeline:
            pipeline.watch(*keys)
            pipeline.multi()
            pipeline.set(keys[0], "done").set("elsewhere", "done").set("and-there", "done")
            if changed is None:
                assert pipeline.execute() == [True] * 3
                continue
            other.set(changed, "another's")
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert door.mget(set(keys) - {changed}) == [b"0"] * 11


def test_waiting_for_keys_of_several_nodes_takes_one_element_of_the_first_key_that_has_one(
    client: Client,
) -> None:
    keys = [f"queue:{number}" for number in range(12)]
    for protocol in (2, 3):
        door, other = client("proxy", protocol=protocol), client("proxy", 1)
        other.rpush(keys[9], "nine")
        other.rpush(keys[4], "four", "five")
        assert list(door.blpop(keys, 5)) == [keys[4].encode(), b"four"]
        assert list(door.blpop(keys, 5)) == [keys[4].encode(), b"five"]
        assert list(door.brpop(keys, 5)) == [keys[9].encode(), b"nine"]
        assert door.blpop(keys, 0.1) is None
        other.zadd(keys[7], {"a": 1.5})
        assert list(door.bzpopmin(keys, 5)) == [keys[7].encode(), b"a", 1.5]
        assert other.exists(*keys) == 0
        other.set(keys[2], "of another kind")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            door.blpop(keys, 5)
        other.delete(keys[2])


def test_an_element_moves_between_lists_of_two_nodes_or_stays_where_it_was(client: Client) -> None:
    door = client("proxy")
    one, other = "a", "b"  # Slots 15495 and 3300.
    assert door.lmove(one, other, "LEFT", "RIGHT") is None
    door.rpush(one, "1", "2", "3")
    assert door.lmove(one, other, "LEFT", "RIGHT") == b"1"
    assert door.rpoplpush(one, other) == b"3"
    assert (door.lrange(one, 0, -1), door.lrange(other, 0, -1)) == ([b"2"], [b"3", b"1"])
    door.set("c", "no list")
    for source in (one, other):
        before = door.lrange(source, 0, -1)
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            door.lmove(source, "c", "RIGHT", "LEFT")
        assert door.lrange(source, 0, -1) == before
    with pytest.raises(redis.ResponseError, match="syntax error"):
        door.execute_command("LMOVE", one, other, "UP", "LEFT")
    with pytest.raises(redis.ResponseError, match="timeout is negative"):
        door.blmove(one, other, -1)


def test_of_many_who_wait_to_move_an_element_each_moves_one(client: Client) -> None:
    door = client("proxy")
    assert door.blmove("a", "b", 0.05) is None
    moved: list[object] = []
    movers = [
        threading.Thread(
            target=lambda number=number: moved.append(client("proxy", number % 2).blmove("a", "b", 20))
        )
        for number in range(6)
    ]
    for mover in movers:
        mover.start()
    for number in range(6):
        client("proxy", 1).rpush("a", number)
    for mover in movers:
        mover.join(30)
    assert sorted(moved) == [b"%d" % number for number in range(6)]  # type: ignore[type-var]
    assert sorted(door.lrange("b", 0, -1)) == sorted(moved)  # type: ignore[type-var]
    assert door.exists("a") == 0


def test_users_of_a_proxy_may_no_more_than_they_may(client: Client) -> None:
    door = client("proxy")
    door.execute_command("ACL SETUSER limited on >word ~mine* +@all -incr")
    try:
        limited = client("proxy", username="limited", password="word")
        limited.set("mine", 1)
        for script in (("EVAL", "return redis.call('GET', 'other')", 0), ("FCALL", "f", 0)):
            with pytest.raises(redis.ResponseError, match="who may do everything"):
                limited.execute_command(*script)
        with pytest.raises(redis.ResponseError, match="GET option of SORT denied"):
            limited.execute_command("SORT", "mine", "BY", "nothing", "GET", "{mine}*")
        with limited.pipeline() as pipeline:
            pipeline.get("mine")
            pipeline.append("mine", "0")
            queued = client("proxy", username="limited", password="word").client()
            for words in (("MULTI",), ("GET", "mine"), ("APPEND", "mine", "0")):
                queued.execute_command(*words)
            door.execute_command("ACL SETUSER limited -append")
            replies = queued.execute_command("EXEC")
        assert replies[0] == b"1"
        assert "rules changed" in str(replies[1])
        assert door.get("mine") == b"1"
    finally:
        door.execute_command("ACL DELUSER limited")


def test_of_many_who_wait_each_gets_what_no_other_gets(client: Client) -> None:
    keys = [f"queue:{number}" for number in range(8)]
    connections = []
    for index in range(10):
        connection = client("proxy", index % 2).connection_pool.get_connection()
        connection.send_command("BLPOP", *keys, 20)
        connections.append(connection)
    other = client("proxy")
    assert other.ping()
    for number in range(10):
        other.rpush(keys[number * 5 % 8], number)
    got = sorted(int(connection.read_response()[1]) for connection in connections)
    assert got == list(range(10))
    assert other.exists(*keys) == 0
    for connection in connections:
        connection.disconnect()


def test_who_waits_can_be_unblocked_and_leaves_nothing_behind(client: Client) -> None:
    other = client("proxy")
    for keys in (["one"], ["one", "two", "three", "four", "five"]):
        waiting = client("proxy").connection_pool.get_connection()
        waiting.send_command("CLIENT", "ID")
        identity = waiting.read_response()
        for reason, message in (("TIMEOUT", None), ("ERROR", "UNBLOCKED")):
            waiting.send_command("BLPOP", *keys, 0)
            unblock = ("CLIENT", "UNBLOCK", identity, reason)
            until(lambda: other.execute_command(*unblock) == 1, "it waits")  # noqa: B023
            if message is None:
                assert waiting.read_response() is None
            else:
                with pytest.raises(redis.ResponseError, match=message):
                    waiting.read_response()
        waiting.disconnect()
        other.rpush("one", "kept")
        assert other.lpop("one") == b"kept"


def test_what_nodes_tell_is_told_as_one(cluster: Embedded, client: Client) -> None:
    door = client("proxy")
    for number in range(40):
        door.set(f"key:{number}", "x" * 1000)
    told = door.info()
    each = [client("node", index).info() for index in range(NODES)]
    assert told["db0"]["keys"] == sum(one["db0"]["keys"] for one in each) == 40
    assert told["used_memory"] > sum(one["used_memory"] for one in each) * 0.9
    assert (told["tcp_port"], told["loading"]) == (cluster.port_of("proxy"), 0)
    assert told["redis_version"].startswith("7.")

    assert door.config_set("notify-keyspace-events", "KEA")
    assert [
        client("node", index).config_get("notify*")["notify-keyspace-events"] for index in range(NODES)
    ] == ["AKE"] * NODES
    assert door.config_set("notify-keyspace-events", "")
    with pytest.raises(redis.ResponseError, match="through a proxy"):
        door.config_set("requirepass", "new")

    door.slowlog_reset()
    door.config_set("slowlog-log-slower-than", 0)
    for number in range(8):
        door.get(f"key:{number}")
    door.config_set("slowlog-log-slower-than", 1_000_000)
    slow = door.slowlog_get(100)
    assert {b"GET key:%d" % number for number in range(8)} <= {entry["command"] for entry in slow}
    assert door.slowlog_len() == len(slow)
    assert door.memory_usage("key:1") > 1000
    assert door.object("encoding", "key:1") in {b"raw", b"embstr"}
    assert door.config_resetstat()


def test_messages_reach_listeners_at_any_proxy_once_and_in_order(client: Client) -> None:
    listeners = [client("proxy", index, protocol=2 + index).pubsub() for index in (0, 1)]
    channels = [f"news:{number}" for number in range(8)]
    for listener in listeners:
        listener.subscribe(*channels)
        for _ in channels:
            assert listener.get_message(timeout=10)["type"] == "subscribe"
    pattern = client("proxy").pubsub()
    pattern.psubscribe("news:*")
    assert pattern.get_message(timeout=10)["type"] == "psubscribe"

    speaker = client()
    for number in range(40):
        assert speaker.publish(channels[number % 8], number) > 0
    for listener in (*listeners, pattern):
        heard: dict[bytes, list[int]] = {}
        for _ in range(40):
            message = listener.get_message(timeout=10)
            heard.setdefault(message["channel"], []).append(int(message["data"]))
        assert len(heard) == 8
        assert all(numbers == sorted(numbers) for numbers in heard.values())
        listener.unsubscribe() if listener is not pattern else listener.punsubscribe()
        message = listener.get_message(timeout=10)
        assert message["type"] in {"unsubscribe", "punsubscribe"}


def test_a_listener_hears_again_after_the_node_of_its_channel_was_restarted(
    cluster: Embedded, client: Client
) -> None:
    listener = client("proxy", 1).pubsub()
    listener.psubscribe("*")
    assert listener.get_message(timeout=10)["type"] == "psubscribe"
    os.kill(pid(cluster, "nodes", 0), signal.SIGKILL)
    assert cluster.whole("--nodes", str(NODES)).returncode == 0
    speaker = client("proxy")
    until(lambda: all_serve(speaker), "the node is found again")
    until(lambda: all(published(speaker, f"c{number}") for number in range(20)), "all nodes are listened to")
    assert listener.get_message(timeout=10)["type"] == "pmessage"


def published(client: "redis.Redis", channel: str) -> bool:
    """Whether somebody heard it."""
    return bool(client.publish(channel, "x"))


def test_a_dead_node_costs_only_its_own_keys_and_comes_back(cluster: Embedded, client: Client) -> None:
    door = client("proxy")
    for number in range(100):
        door.set(f"key:{number}", number)
    victim = pid(cluster, "nodes", 1)
    lost = set(client("node", 1).keys("*"))
    assert 0 < len(lost) < 100
    os.kill(victim, signal.SIGKILL)

    for number in range(100):
        key = b"key:%d" % number
        if key in lost:
            with pytest.raises(redis.RedisError, match=r"node node-\d+ at|UNKNOWN outcome"):
                door.get(key)
        else:
            assert door.get(key) == b"%d" % number
    with pytest.raises(redis.RedisError, match="does not answer"):
        door.mget(f"key:{number}" for number in range(100))
    until(lambda: cluster.status()[0] == 3, "the status is degraded")

    assert cluster.whole("--nodes", str(NODES)).returncode == 0
    until(lambda: all_serve(door), "the node is found again")
    assert door.set(min(lost), "back")


def test_requests_go_on_without_the_health_service_and_so_does_a_restarted_proxy(
    cluster: Embedded, client: Client
) -> None:
    door = client()
    door.mset({f"key:{number}": number for number in range(50)})
    os.kill(pid(cluster, "services"), signal.SIGKILL)
    assert door.mget(f"key:{number}" for number in range(50)) == [b"%d" % number for number in range(50)]

    # A proxy that starts now has only its file.
    configuration = cluster.directory / f"proxy-{cluster.port_of('proxy')}" / "proxy.toml"
    port = cluster.port_of("proxy") + 9
    alone = cluster.directory / "alone.toml"
    text = configuration.read_text().replace(f'port = "{cluster.port_of("proxy")}"', f'port = "{port}"')
    alone.write_text(text.replace("serving.sock", "alone.sock"))
    program = shutil.which("fastcache", path=str(Path(os.sys.executable).parent))  # type: ignore[attr-defined]
    assert program
    process = subprocess.Popen([program, "proxy", "--config", str(alone)], stdout=subprocess.DEVNULL)
    try:
        restarted = client("proxy", 9)
        until(lambda: serves(restarted), "the restarted proxy routes")
        assert restarted.mget("key:1", "key:49") == [b"1", b"49"]
    finally:
        process.terminate()
        assert process.wait(20) == 0


def serves(client: "redis.Redis") -> bool:
    try:
        return client.dbsize() == 50
    except redis.RedisError:
        return False


def test_a_killed_proxy_is_not_missed_by_those_who_come_through_haproxy(
    cluster: Embedded, client: Client
) -> None:
    door = client(retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 100))  # type: ignore[attr-defined]
    door.set("key", "value")
    os.kill(pid(cluster, "proxies", 0), signal.SIGKILL)
    for _ in range(50):
        assert door.get("key") == b"value"


def test_redis_benchmark_through_haproxy_ends_without_an_error(cluster: Embedded, client: Client) -> None:
    client()
    load = ("-n", "5000", "-r", "1000", "-P", "8", "-c", "20", "-q", "-t", "set,get,incr,lpush,hset,mset")
    done = subprocess.run(
        ["redis-benchmark", "-p", str(cluster.port_of("balancer")), *load],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in (done.stdout + done.stderr).lower()


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_a_proxy_stands_in_front_of_plain_redis_servers(tmp_path: Path) -> None:
    first = free_ports(3)
    quiet = ("--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path))
    members = ", ".join(f'"r{at}=127.0.0.1:{first + at}"' for at in (0, 1))
    file = tmp_path / "proxy.toml"
    file.write_text(f'port = {first + 2}\nbind = "127.0.0.1"\nnodes = [{members}]\n')
    commands = [["redis-server", "--port", str(first + at), *quiet] for at in (0, 1)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    processes.append(subprocess.Popen([PROGRAM, "proxy", "--config", file], stderr=subprocess.DEVNULL))
    try:
        for protocol in (2, 3):
            with redis.Redis(port=first + 2, protocol=protocol, socket_timeout=20) as door:
                until(lambda: all_serve(door), "both servers are reached")
                assert door.mset({f"key:{number}": number for number in range(50)})
                assert door.mget("key:7", "key:49") == [b"7", b"49"]
                assert door.dbsize() == 50
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_password_lets_clients_in_and_keeps_others_out(embedded: Embedded) -> None:
    assert embedded.whole("--nodes", "2", "--proxies", "1", "--set", "requirepass=s3cret").returncode == 0
    port = embedded.port_of("balancer")
    with redis.Redis(port=port, password="s3cret") as known, redis.Redis(port=port) as stranger:
        assert known.mset({"a": 1, "b": 2, "c": 3})
        assert known.mget("a", "b", "c") == [b"1", b"2", b"3"]
        with pytest.raises(redis.AuthenticationError):
            stranger.get("a")
    for kind in ("nodes", "proxies"):
        process = f"/proc/{pid(embedded, kind)}"
        for file in ("cmdline", "environ"):
            assert b"s3cret" not in Path(process, file).read_bytes()


def test_what_follows_a_wait_in_a_pipeline_is_served_once_the_wait_is_over(client: Client) -> None:
    other = client("proxy")
    for keys in (("q",), tuple(f"q:{number}" for number in range(6))):
        waiting = client("proxy").connection_pool.get_connection()
        waiting.send_packed_command(
            waiting.pack_commands([("BLPOP", *keys, 20), ("PING",), ("ECHO", "hi"), ("GET", "none")])
        )
        other.rpush(keys[0], "x")
        replies = [waiting.read_response() for _ in range(4)]
        assert replies == [[keys[0].encode(), b"x"], b"PONG", b"hi", None]
        waiting.disconnect()


def test_a_pause_holds_requests_back_and_a_reply_nobody_wants_does_not_come(client: Client) -> None:
    door, other = client("proxy"), client("proxy")
    connection = door.connection_pool.get_connection()
    connection.send_command("CLIENT", "REPLY", "OFF")
    connection.send_command("SET", "a", 1)
    connection.send_command("MSET", "b", 2, "c", 3, "d", 4)
    connection.send_command("CLIENT", "REPLY", "ON")
    assert connection.read_response() == b"OK"
    connection.send_command("CLIENT", "REPLY", "SKIP")
    connection.send_command("GET", "a")
    connection.send_command("MGET", "a", "b", "c", "d")
    assert connection.read_response() == [b"1", b"2", b"3", b"4"]
    connection.send_command("CLIENT", "PAUSE", 300)
    assert connection.read_response() == b"OK"
    begun = time.monotonic()
    assert other.get("a") == b"1"
    assert time.monotonic() - begun > 0.2
    connection.send_command("WAIT", 1, 100000)
    assert connection.read_response() == 0
    connection.disconnect()

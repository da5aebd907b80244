"""A proxy is renewed: another program with the same connections, and nobody notices."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tests.cluster.embedded import Embedded, free_ports, until
from tests.cluster.load import Load

CLIENTS = 40


@pytest.fixture(scope="module", params=["1", "3"], ids=["one worker", "three workers"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three nodes, the health service, one proxy, HAProxy."""
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", "3", "--proxies", "1", "--workers", request.param)
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


@pytest.fixture
def door(cluster: Embedded) -> int:
    """The proxy's port."""
    return cluster.port_of("proxy")


def renewed(cluster: Embedded) -> None:
    done = cluster.call("renew")
    assert done.returncode == 0, done.stderr


def log(cluster: Embedded) -> str:
    port = cluster.port_of("proxy")
    return (cluster.directory / f"proxy-{port}" / "proxy.log").read_text()


def test_renewals_under_load_fail_no_request_and_close_no_connection(cluster: Embedded, door: int) -> None:
    with Load(door, CLIENTS) as direct, Load(cluster.port_of("balancer"), CLIENTS) as balanced:
        for _ in range(3):
            before = run_id(door)
            renewed(cluster)
            assert run_id(door) != before
    for way, seen in (("direct", direct.seen), ("through HAProxy", balanced.seen)):
        print(
            f"three renewals, {CLIENTS} clients {way}: {seen.requests} requests, {seen.failed} failed,"
            f" {seen.connections_lost} connections lost, slowest {seen.percentile(1):.0f} ms"
        )
        assert seen.requests > 100
        assert (seen.failed, seen.connections_lost, seen.wrong) == (0, 0, 0), seen.failures


def run_id(port: int) -> str:
    with redis.Redis(port=port, socket_timeout=20) as client:
        return str(client.info("server")["run_id"])


def test_what_is_known_of_a_client_stays_known(cluster: Embedded, door: int) -> None:
    with redis.Redis(port=door, protocol=3, db=4, client_name="somebody", socket_timeout=20) as client:
        one = client.client()
        one.ping()
        number = one.client_id()
        pipeline = one.connection
        pipeline.send_command("MULTI")
        assert pipeline.read_response() == b"OK"
        pipeline.send_command("SET", "queued", "before")
        assert pipeline.read_response() == b"QUEUED"
        renewed(cluster)
        pipeline.send_command("GET", "queued")
        assert pipeline.read_response() == b"QUEUED"
        pipeline.send_command("EXEC")
        assert pipeline.read_response() == [b"OK", b"before"]
        assert one.client_id() == number
        assert one.client_info()["name"] == "somebody"
        assert (one.client_info()["db"], one.client_info()["resp"]) == (4, "3")
        with redis.Redis(port=door) as another:
            assert another.client_id() > number


def test_who_waits_for_a_key_goes_on_waiting_and_nothing_is_lost(cluster: Embedded, door: int) -> None:
    found: list[object] = []
    with redis.Redis(port=door, socket_timeout=30) as client, redis.Redis(port=door) as other:
        # One list on one node, several on several nodes.
        waits = [["list"], ["list", "a", "b", "c"]]
        threads = [
            threading.Thread(target=lambda keys=keys: found.append(client.blpop(keys, timeout=25)))
            for keys in waits
        ]
        for thread in threads:
            thread.start()
        until(lambda: sum(one["cmd"] == "blpop" for one in other.client_list()) == 2, "both wait")
        renewed(cluster)
        assert not found
        other.rpush("list", "one", "two")
        for thread in threads:
            thread.join(20)
        assert sorted(found) == [(b"list", b"one"), (b"list", b"two")]
        assert other.exists("list") == 0


@pytest.mark.parametrize("later", [0.02, 0.15, 0.4])
def test_what_comes_into_streams_while_the_program_changes_is_not_missed(
    cluster: Embedded, door: int, later: float
) -> None:
    first = cluster.port_of("node")
    read: list[object] = []
    with (
        redis.Redis(port=door, socket_timeout=30) as client,
        redis.Redis(port=door) as other,
        redis.RedisCluster("127.0.0.1", first) as nodes,
    ):
        # "$" is where a stream ended when the request came, and not when the new program asks anew.
        waits = [{"lone": "$"}, {"left": "$", "right": "$", "third": "$"}]
        for name in ("lone", "left", "right", "third"):
            nodes.xadd(name, {"is": "old"})
        threads = [
            threading.Thread(target=lambda streams=streams: read.append(client.xread(streams, block=25_000)))
            for streams in waits
        ]
        for thread in threads:
            thread.start()
        until(lambda: sum(one["cmd"] == "xread" for one in other.client_list()) == 2, "both wait")
        renewal = threading.Thread(target=renewed, args=(cluster,))
        renewal.start()
        time.sleep(later)
        expected = [
            [[name.encode(), [(nodes.xadd(name, {"is": "new"}), {b"is": b"new"})]]]
            for name in ("lone", "right")
        ]
        renewal.join(30)
        for thread in threads:
            thread.join(30)
        assert sorted(read, key=str) == expected


def test_messages_that_come_while_the_program_changes_are_heard_once(cluster: Embedded, door: int) -> None:
    with (
        redis.Redis(port=door, socket_timeout=20) as client,
        redis.Redis(port=cluster.port_of("node")) as node,
    ):
        listener = client.pubsub(ignore_subscribe_messages=True)
        listener.subscribe("news")
        listener.psubscribe("ne*s")
        assert listener.get_message(timeout=5) is None
        ending = threading.Event()
        sent: list[int] = []

        def publish() -> None:
            # At the nodes, which go on while the proxy changes. Only one of them has the channel.
            nodes = [redis.Redis(port=cluster.port_of("node") + number) for number in range(3)]
            owner = next(one for one in nodes if one.pubsub_numsub("news")[0][1])
            while not ending.wait(0.005):
                owner.publish("news", len(sent))
                sent.append(len(sent))

        publisher = threading.Thread(target=publish)
        publisher.start()
        renewed(cluster)
        ending.set()
        publisher.join(20)
        assert len(sent) > 10
        heard: dict[str, list[int]] = {"message": [], "pmessage": []}
        deadline = time.monotonic() + 20
        while min(map(len, heard.values())) < len(sent) and time.monotonic() < deadline:
            if message := listener.get_message(timeout=1):
                heard[message["type"]].append(int(message["data"]))
        assert heard["message"] == sent
        assert heard["pmessage"] == sent
        assert node.ping()


def test_a_watched_key_counts_as_changed(cluster: Embedded, door: int) -> None:
    with redis.Redis(port=door, socket_timeout=20) as client:
        pipeline = client.pipeline()
        pipeline.watch("balance")
        renewed(cluster)
        pipeline.multi()
        pipeline.set("balance", 1)
        with pytest.raises(redis.WatchError):
            pipeline.execute()
        assert client.get("balance") is None


def test_a_configuration_that_would_not_start_leaves_the_proxy_as_it_was(
    cluster: Embedded, door: int
) -> None:
    file = cluster.directory / f"proxy-{door}" / "proxy.toml"
    good = file.read_text()
    before = run_id(door)
    try:
        file.write_text(good + 'maxclients = "none"\n')
        refused = cluster.call("renew")
        assert refused.returncode == 1
        assert "refuses its configuration" in refused.stderr
        assert run_id(door) == before
        assert "maxclients" in log(cluster)
    finally:
        file.write_text(good)
    file.write_text(good + 'maxclients = "77"\n')
    try:
        renewed(cluster)
        with redis.Redis(port=door) as client:
            assert client.info("clients")["maxclients"] == 77
    finally:
        file.write_text(good)


def test_a_request_that_takes_long_is_answered_before_anything_changes(cluster: Embedded, door: int) -> None:
    slow = "local a = 0 for i = 1, ARGV[1] do a = a + i % 7 end return redis.call('INCR', KEYS[1])"
    answers: list[object] = []
    with redis.Redis(port=door, socket_timeout=60) as client, redis.Redis(port=door) as other:
        work = threading.Thread(target=lambda: answers.append(client.eval(slow, 1, "count", 10_000_000)))
        work.start()
        until(lambda: any(one["cmd"] == "eval" for one in other.client_list()), "it is under way")
        renewed(cluster)
        work.join(60)
        assert answers == [1]


def test_being_told_twice_is_being_told_once(cluster: Embedded, door: int) -> None:
    pid = int(cluster.status()[1]["proxies"][0]["pid"])
    before = run_id(door)
    for _ in range(20):
        os.kill(pid, signal.SIGHUP)
    until(lambda: run_id(door) != before, "it is renewed")
    assert int(cluster.status()[1]["proxies"][0]["pid"]) == pid

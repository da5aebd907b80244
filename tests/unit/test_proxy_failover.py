"""What a proxy does while a node is replaced: two nodes and a proxy in this process, topologies by hand."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis
from redis.connection import MaintenanceState
from redis.maint_notifications import EndpointType, MaintNotificationsConfig

from fastcache import _core
from tests.cluster.embedded import free_ports

HERE = ["127.0.0.1"]
WAIT_MS = 3000
PATIENCE = 0.4


@dataclass
class Pair:
    """Two nodes, and a proxy in front of them."""

    proxy: _core.Proxy
    nodes: list[_core.Node]
    port: int

    def topology(self, epoch: int, main: int, *, replica: bool = True) -> None:
        """Have the proxy obey a topology in which one of the nodes is the main of everything."""
        members = [{"id": f"n{at}", "host": "127.0.0.1", "port": self.port + at} for at in (0, 1)]
        group: dict[str, object] = {"main": f"n{main}", "ranges": "0-16383"}
        if replica:
            group["replicas"] = [f"n{1 - main}"]
        document = {"epoch": epoch, "nodes": members, "slots": [group]}
        assert self.proxy.set_topology(_core.Topology(json.dumps(document).encode()), HERE)

    def client(self, **options: object) -> "redis.Redis":
        """A client of the proxy that never tries again by itself."""
        retry = redis.retry.Retry(redis.backoff.NoBackoff(), 0)  # type: ignore[attr-defined]
        return redis.Redis(port=self.port + 2, socket_timeout=20, retry=retry, **options)  # type: ignore[arg-type]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The main is the first node, the second one its replica (empty: nothing is copied here)."""
    port = free_ports(3)
    nodes = [_core.Node([("port", str(port + at)), ("bind", "127.0.0.1")]) for at in (0, 1)]
    proxy = _core.Proxy([("port", str(port + 2)), ("bind", "127.0.0.1"), ("failover-wait", str(WAIT_MS))])
    for each in (*nodes, proxy):
        each.start()
    both = Pair(proxy, nodes, port)
    both.topology(1, 0)
    yield both
    for each in (proxy, *nodes):
        each.stop()


def test_a_write_waits_for_the_new_main_and_is_done_there_once(pair: Pair) -> None:
    door = pair.client()
    assert door.set("k", 1)
    pair.nodes[0].stop()
    answers: list[object] = []
    writers = [threading.Thread(target=lambda: answers.append(pair.client().incr("n"))) for _ in range(5)]
    for writer in writers:
        writer.start()
    time.sleep(0.3)
    assert answers == []
    pair.topology(2, 1, replica=False)
    for writer in writers:
        writer.join(20)
    assert sorted(answers, key=str) == [1, 2, 3, 4, 5]
    assert pair.client().get("n") == b"5"
    assert pair.proxy.trouble() > 0


def test_a_request_that_is_sent_after_a_topology_was_set_goes_by_it(pair: Pair) -> None:
    for at in (0, 1):
        with redis.Redis(port=pair.port + at) as node:
            node.set("k", at)
    door = pair.client()
    for epoch in range(2, 1000):
        # This it answers by itself, and when it wakes again it looks at this client first.
        assert door.client_id() > 0
        pair.topology(epoch, epoch % 2, replica=False)
        assert door.get("k") == b"%d" % (epoch % 2), epoch


def test_a_read_is_answered_by_the_replica_at_once(pair: Pair) -> None:
    with redis.Redis(port=pair.port + 1) as replica:
        replica.set("k", "of the replica")
    door = pair.client()
    assert door.get("k") is None
    pair.nodes[0].stop()
    begun = time.monotonic()
    assert door.get("k") == b"of the replica"
    assert time.monotonic() - begun < WAIT_MS / 2000


def test_a_pipeline_keeps_its_order_over_a_failover(pair: Pair) -> None:
    door = pair.client()
    door.ping()
    pair.nodes[0].stop()
    timer = threading.Timer(0.3, lambda: pair.topology(2, 1, replica=False))
    timer.start()
    pipeline = door.pipeline(transaction=False)
    for number in range(200):
        pipeline.rpush("l", number)
    assert pipeline.execute() == list(range(1, 201))
    assert door.lrange("l", 0, -1) == [b"%d" % number for number in range(200)]
    timer.join()


def test_a_write_that_no_new_main_comes_for_fails_in_time_and_without_a_replica_at_once(pair: Pair) -> None:
    door = pair.client()
    assert door.set("k", 1)
    pair.nodes[0].stop()
    begun = time.monotonic()
    with pytest.raises(redis.RedisError):
        door.set("k", 2)
    assert WAIT_MS / 1000 * 0.8 < time.monotonic() - begun < WAIT_MS / 1000 + 10
    pair.topology(2, 0, replica=False)
    begun = time.monotonic()
    with pytest.raises(redis.RedisError, match="does not answer"):
        door.set("k", 2)
    assert time.monotonic() - begun < WAIT_MS / 2000


def test_who_asked_for_it_is_told_of_a_failover_and_before_the_proxy_stops(pair: Pair) -> None:
    connection = pair.client(protocol=3).connection_pool.get_connection()
    connection.send_command("CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "none")
    assert connection.read_response() == b"OK"
    sock = connection._sock
    sock.settimeout(20)
    pair.nodes[0].stop()
    writer = threading.Thread(target=lambda: pair.client().incr("n"))
    writer.start()
    assert sock.recv(100).startswith(b">3\r\n$12\r\nFAILING_OVER\r\n:1\r\n")
    time.sleep(0.4)  # The dead node is tried again meanwhile; that is no end of the failover.
    pair.topology(2, 1, replica=False)
    writer.join(20)
    assert sock.recv(100).startswith(b">2\r\n$11\r\nFAILED_OVER\r\n:2\r\n")
    pair.proxy.stop()
    assert sock.recv(100).startswith(b">4\r\n$6\r\nMOVING\r\n:3\r\n")


def attentive(pair: Pair) -> "redis.Redis":
    """redis-py as it is, with little patience: what it is told of maintenance makes it wait longer."""
    config = MaintNotificationsConfig(enabled=True, relaxed_timeout=30, endpoint_type=EndpointType.NONE)
    client = pair.client(protocol=3, maint_notifications_config=config)
    client.connection_pool.connection_kwargs["socket_timeout"] = PATIENCE
    return client


def test_redis_py_waits_for_a_failover_of_which_it_is_told(pair: Pair) -> None:
    told = attentive(pair)
    untold = pair.client(protocol=3, maint_notifications_config=MaintNotificationsConfig(enabled=False))
    untold.connection_pool.connection_kwargs["socket_timeout"] = PATIENCE
    assert told.set("k", 1)
    assert untold.set("k", 1)
    pair.nodes[0].stop()
    new_main = threading.Timer(3 * PATIENCE, lambda: pair.topology(2, 1, replica=False))
    new_main.start()
    failed: list[object] = []

    def impatient() -> None:
        try:
            untold.incr("m")
        except redis.TimeoutError as error:
            failed.append(error)

    other = threading.Thread(target=impatient)
    other.start()
    assert told.incr("n") == 1
    other.join(20)
    new_main.join(20)
    assert len(failed) == 1
    assert told.get("n") == b"1"


def test_redis_py_hears_that_the_proxy_is_about_to_stop(pair: Pair) -> None:
    client = attentive(pair)
    assert client.set("k", 1)
    stopping = threading.Thread(target=pair.proxy.stop)
    stopping.start()
    pool = client.connection_pool
    deadline = time.monotonic() + 20
    while pool.connection_kwargs.get("maintenance_state") != MaintenanceState.MOVING:
        assert time.monotonic() < deadline
        with contextlib.suppress(redis.ConnectionError):
            client.get("k")  # It reads what it is told with the next reply.
    stopping.join(30)
    assert not stopping.is_alive()


def test_a_proxy_without_a_topology_says_that_it_is_not_ready() -> None:
    port = free_ports(2)
    node = _core.Node([("port", str(port)), ("bind", "127.0.0.1")])
    proxy = _core.Proxy([("port", str(port + 1)), ("bind", "127.0.0.1")])
    both = Pair(proxy, [node], port - 1)
    node.start()
    proxy.start()
    try:
        door = both.client()
        for words in (("PING",), ("GET", "k"), ("MGET", "k", "l"), ("DBSIZE",)):
            with pytest.raises(redis.BusyLoadingError, match="which nodes there are"):
                door.execute_command(*words)
        assert door.client_id() > 0
        document = {
            "epoch": 1,
            "nodes": [{"id": "n", "host": "127.0.0.1", "port": port}],
            "slots": [{"main": "n", "ranges": "0-16383"}],
        }
        assert proxy.set_topology(_core.Topology(json.dumps(document).encode()), HERE)
        assert door.ping()
        assert door.set("k", 1)
    finally:
        proxy.stop()
        node.stop()

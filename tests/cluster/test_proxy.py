"""A whole cluster of real processes: what clients see through HAProxy and the proxies, whatever dies."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import Embedded, free_ports, until

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

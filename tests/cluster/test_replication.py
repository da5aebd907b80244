"""Nodes that copy to one another: filled, kept up, lost, found again, promoted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import until
from tests.cluster.nodes import PASSWORD, Nodes

Cluster = Callable[..., Nodes]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made: list[Nodes] = []

    def make(count: int = 2, **settings: str) -> Nodes:
        made.append(Nodes(tmp_path, count, **settings))
        return made[-1]

    yield make
    for nodes in made:
        nodes.end()


def fill(client: redis.Redis, count: int, prefix: str = "key") -> None:
    """Values of every kind, in many slots."""
    pipe = client.pipeline(transaction=False)
    for number in range(count):
        pipe.set(f"{prefix}:{number}", number)
    pipe.rpush(f"{prefix}:list", *range(50))
    pipe.sadd(f"{prefix}:set", *range(50))
    pipe.hset(f"{prefix}:hash", mapping={str(number): number for number in range(50)})
    pipe.zadd(f"{prefix}:zset", {str(number): number for number in range(50)})
    pipe.set(f"{prefix}:brief", "x", ex=1000)
    pipe.execute()


def same(nodes: Nodes, one: str, other: str, prefix: str = "key", count: int = 300) -> None:
    """What one has as a main, the other has as a copy."""
    main, copy = nodes.client(one), nodes.client(other)
    copy.execute_command("READONLY")
    for number in range(count):
        assert copy.get(f"{prefix}:{number}") == main.get(f"{prefix}:{number}")
    assert copy.lrange(f"{prefix}:list", 0, -1) == main.lrange(f"{prefix}:list", 0, -1)
    assert copy.smembers(f"{prefix}:set") == main.smembers(f"{prefix}:set")
    assert copy.hgetall(f"{prefix}:hash") == main.hgetall(f"{prefix}:hash")
    assert copy.zrange(f"{prefix}:zset", 0, -1, withscores=True) == main.zrange(
        f"{prefix}:zset", 0, -1, withscores=True
    )
    assert abs(copy.pttl(f"{prefix}:brief") - main.pttl(f"{prefix}:brief")) < 2000


def test_a_replica_is_filled_and_kept_up_and_serves_reads_alone(cluster: Cluster) -> None:
    nodes = cluster()
    fill(nodes.client("a"), 300)
    nodes.obey(nodes.topology({"main": "a", "replicas": [], "learners": ["b"]}))
    until(lambda: nodes.in_sync("a"), "the learner has everything")
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    fill(nodes.client("a"), 300, "more")
    assert nodes.client("a").delete("key:7") == 1
    until(lambda: nodes.in_sync("a"), "the replica has everything")
    same(nodes, "a", "b")
    same(nodes, "a", "b", "more")
    with pytest.raises(redis.exceptions.MovedError):
        nodes.client("b").get("key:1")
    with pytest.raises(redis.exceptions.MovedError):
        nodes.client("b").set("key:1", 1)
    assert nodes.client("b").dbsize() == 0
    # A command of its own connection each: WAIT tells of what its connection has written.
    pipe = nodes.client("a").pipeline(transaction=False)
    assert pipe.set("waited", 1).execute_command("WAIT", 1, 10_000).execute()[-1] == 1
    replication = nodes.client("a").info("replication")
    assert (replication["role"], replication["connected_slaves"]) == ("master", 1)
    replica = nodes.client("b").info("replication")
    assert (replica["role"], replica["master_link_status"]) == ("slave", "up")
    assert nodes.client("b").execute_command("ROLE")[0] == b"slave"
    assert nodes.client("a").execute_command("ROLE")[2][0][1] == str(nodes.port("b")).encode()


def test_a_replica_that_was_away_for_a_moment_goes_on_where_it_was(cluster: Cluster) -> None:
    nodes = cluster()
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    fill(nodes.client("a"), 300)
    until(lambda: nodes.in_sync("a"), "the replica has everything")
    # The connection breaks, and what is written meanwhile is in the backlog.
    for row in nodes.client("a").client_list():
        if row["name"] == "replica-b":
            nodes.client("a").client_kill_filter(_id=row["id"])
    fill(nodes.client("a"), 300, "later")
    until(lambda: nodes.in_sync("a"), "the replica has everything again")
    same(nodes, "a", "b", "later")
    assert nodes.figure("a", "resyncs_full_total") == 1
    assert nodes.figure("a", "resyncs_partial_total") == 1


def test_a_replica_too_slow_for_the_backlog_is_filled_anew(cluster: Cluster) -> None:
    nodes = cluster(repl_backlog_size="1mb", max_unreplicated_ms="0")
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    until(lambda: nodes.in_sync("a"), "the replica is there")
    nodes.pause("b")
    main = nodes.client("a")
    for _ in range(40):
        pipe = main.pipeline(transaction=False)
        for number in range(100):
            pipe.set(f"large:{number}", "x" * 10_000)
        pipe.execute()
    nodes.resume("b")
    fill(main, 300)
    until(lambda: nodes.in_sync("a"), "the replica has everything")
    same(nodes, "a", "b")
    assert nodes.figure("a", "resyncs_full_total") >= 2


def test_writes_are_refused_while_the_oldest_that_the_replica_lacks_is_too_old(cluster: Cluster) -> None:
    nodes = cluster(max_unreplicated_ms="300")
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    until(lambda: nodes.in_sync("a"), "the replica is there")
    main = nodes.client("a")
    assert main.set("key", "value")
    nodes.pause("b")

    def refused() -> bool:
        try:
            main.set("key", "value")
        except redis.ResponseError as error:
            return "NOREPLICAS the oldest write that b does not have" in str(error)
        return False

    until(refused, "writes are refused")
    assert main.get("key") == b"value"
    nodes.resume("b")
    until(lambda: not refused(), "writes are taken again")


def test_a_replica_that_lost_everything_is_filled_anew(cluster: Cluster) -> None:
    nodes = cluster()
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    fill(nodes.client("a"), 300)
    until(lambda: nodes.in_sync("a"), "the replica has everything")
    nodes.kill("b")
    fill(nodes.client("a"), 300, "alone")
    nodes.start("b")
    nodes.obey(nodes.topology({"main": "a", "replicas": [], "learners": ["b"]}))
    until(lambda: nodes.in_sync("a"), "the learner has everything")
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    same(nodes, "a", "b")
    same(nodes, "a", "b", "alone")


def test_a_promoted_replica_serves_what_it_has_and_the_old_main_follows(cluster: Cluster) -> None:
    nodes = cluster()
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    fill(nodes.client("a"), 300)
    until(lambda: nodes.in_sync("a"), "the replica has everything")
    nodes.kill("a")
    nodes.obey(nodes.topology({"main": "b", "replicas": []}))
    promoted = nodes.client("b")
    assert promoted.get("key:77") == b"77"
    assert promoted.set("key:77", "new")
    nodes.start("a")
    nodes.obey(nodes.topology({"main": "b", "replicas": [], "learners": ["a"]}))
    until(lambda: nodes.in_sync("b"), "the old main has everything")
    nodes.obey(nodes.topology({"main": "b", "replicas": ["a"]}))
    same(nodes, "b", "a")


def test_nobody_gets_a_stream_by_an_older_topology_or_without_the_password(cluster: Cluster) -> None:
    nodes = cluster()
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}))
    ask = ("FASTCACHE", "STREAM", "test", 1, "b", "0-16383", "none", 0)
    with pytest.raises(redis.ResponseError, match="STALE epoch 1 is older than 2"):
        nodes.client("a").execute_command(*ask)
    with pytest.raises(redis.ResponseError, match="another cluster"):
        nodes.client("a").execute_command("FASTCACHE", "STREAM", "other", 2, "b", "0-16383", "none", 0)
    with redis.Redis(port=nodes.port("a")) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.execute_command(*ask)


def test_each_of_three_nodes_keeps_a_copy_of_the_next_one(cluster: Cluster) -> None:
    nodes = cluster(3)
    groups = [
        {"main": "a", "replicas": ["b"], "ranges": "0-5460"},
        {"main": "b", "replicas": ["c"], "ranges": "5461-10922"},
        {"main": "c", "replicas": ["a"], "ranges": "10923-16383"},
    ]
    nodes.obey(nodes.topology(*groups))
    client = redis.RedisCluster(host="127.0.0.1", port=nodes.port("a"), password=PASSWORD)
    for number in range(300):
        client.set(f"key:{number}", number)
    for name in nodes.names:
        until(lambda name=name: nodes.in_sync(name), f"the replica of {name} has everything")  # type: ignore[misc]
    assert sum(nodes.client(name).dbsize() for name in nodes.names) == 300
    nodes.client("a").flushall()
    until(lambda: nodes.in_sync("a"), "the replica of a has everything")
    left = {name: nodes.client(name).dbsize() for name in nodes.names}
    assert left["a"] == 0
    assert left["b"] > 0
    assert left["c"] > 0
    nodes.kill("b")
    groups[1] = {"main": "c", "replicas": [], "ranges": "5461-10922"}
    groups[0]["replicas"] = []
    nodes.obey(nodes.topology(*groups))
    assert nodes.client("c").dbsize() == left["b"] + left["c"]
    client.close()

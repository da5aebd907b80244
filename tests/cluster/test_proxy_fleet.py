"""What concerns the clients of all proxies is told and done whatever proxy is asked."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cluster.embedded import Embedded, free_ports, until

PROXIES = 3
Door = Callable[..., "redis.Redis"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three nodes, three proxies of two workers each, the health service, HAProxy."""
    whole = Embedded(tmp_path_factory.mktemp("c"), free_ports(50))
    up = whole.whole("--nodes", "3", "--proxies", str(PROXIES), "--workers", "2", "--profile", "reference")
    assert up.returncode == 0, up.stderr
    yield whole
    whole.call("down")


@pytest.fixture
def door(cluster: Embedded) -> Iterator[Door]:
    """Clients of one connection each, of a proxy by its number."""
    made: list[redis.Redis] = []

    def client(proxy: int, name: str = "", **options: Any) -> redis.Redis:
        one = redis.Redis(
            port=cluster.port_of("proxy") + proxy,
            socket_timeout=30,
            client_name=name or None,
            retry=None,
            single_connection_client=True,
            **options,
        )
        one.ping()
        made.append(one)
        return one

    yield client
    for one in made:
        with contextlib.suppress(redis.RedisError):
            one.close()


def pid(cluster: Embedded, proxy: int) -> int:
    return int(cluster.status()[1]["proxies"][proxy]["pid"])


def listening(
    client: "redis.Redis",
    *,
    channels: tuple[str, ...] = (),
    patterns: tuple[str, ...] = (),
    shards: tuple[str, ...] = (),
) -> Any:
    """Somebody who listens, and has been told so."""
    listener = client.pubsub()
    ways = ((channels, listener.subscribe), (patterns, listener.psubscribe), (shards, listener.ssubscribe))
    for names, begin in ways:
        if names:
            begin(*names)
        for _ in names:
            assert listener.get_message(timeout=20) is not None
    return listener


def count(client: "redis.Redis", channel: str) -> int:
    return int(dict(client.pubsub_numsub(channel))[channel.encode()])


def test_listeners_are_counted_over_all_proxies(door: Door) -> None:
    channels = [f"count:{number}" for number in range(6)]  # Of all nodes.
    listeners = [listening(door(proxy), channels=tuple(channels)) for proxy in (0, 0, 0, 0, 1, 2)]
    listeners += [listening(door(proxy), patterns=("count:*",)) for proxy in (1, 1, 2)]
    for proxy in range(PROXIES):
        asked = door(proxy)
        assert dict(asked.pubsub_numsub(*channels, "nobody")) == {
            **{name.encode(): 6 for name in channels},
            b"nobody": 0,
        }
        assert asked.pubsub_numpat() == 1
        assert sorted(asked.pubsub_channels("count:*")) == sorted(name.encode() for name in channels)
        assert [asked.publish(name, "x") for name in channels] == [9] * 6
    listeners[0].unsubscribe(channels[0])
    assert listeners[0].get_message(timeout=20) is not None
    asked = door(2)
    until(lambda: count(asked, channels[0]) == 5, "one listens no more")
    assert count(asked, channels[1]) == 6
    for one in listeners[:4]:
        one.close()
    until(lambda: count(asked, channels[1]) == 2, "those whose connection ended are not counted")
    for one in listeners[4:]:
        one.close()
    until(lambda: count(asked, channels[1]) == 0 == asked.pubsub_numpat(), "nobody listens")
    assert asked.publish(channels[1], "x") == 0


def test_listeners_of_sharded_channels_are_counted_too(door: Door) -> None:
    listeners = [listening(door(proxy), shards=("shard",)) for proxy in (0, 0, 1)]
    for proxy in range(PROXIES):
        assert door(proxy).execute_command("PUBSUB", "SHARDNUMSUB", "shard") == [b"shard", 3]
    assert door(2).execute_command("SPUBLISH", "shard", "x") == 3
    assert all(one.get_message(timeout=20)["data"] == b"x" for one in listeners)


def test_a_renewed_proxy_s_listeners_count_as_before(cluster: Embedded, door: Door) -> None:
    kept = [listening(door(0), channels=("renewed",)) for _ in range(5)]
    asked = door(1)
    assert count(asked, "renewed") == 5
    assert cluster.call("renew").returncode == 0
    until(lambda: count(door(2), "renewed") == 5, "all are counted")
    kept[0].close()
    until(lambda: count(door(2), "renewed") == 4, "one has left")
    assert door(1).publish("renewed", "x") == 4


def test_the_clients_of_all_proxies_are_listed_and_closed_from_any(door: Door) -> None:
    mine = [door(number % PROXIES, f"mine{number}") for number in range(2 * PROXIES)]
    for asked in mine:
        listed = {one["name"]: one for one in asked.client_list() if one["name"].startswith("mine")}
        assert sorted(listed) == [f"mine{number}" for number in range(len(mine))]
    assert len({one["id"] for one in mine[0].client_list()}) == len(mine[0].client_list())
    numbers = [str(mine[index].client_id()) for index in (4, 0, 2)]
    found = mine[1].client_list(client_id=numbers)
    assert [one["name"] for one in found] == ["mine4", "mine0", "mine2"]
    assert mine[0].client_kill_filter(_id=numbers[0]) == 1
    assert "mine4" not in {one["name"] for one in mine[3].client_list()}
    address = next(one["addr"] for one in mine[0].client_list() if one["name"] == "mine2")
    assert mine[0].client_kill(address)
    assert "mine2" not in {one["name"] for one in mine[3].client_list()}
    with pytest.raises(redis.ResponseError, match="No such client"):
        mine[0].client_kill(address)
    with pytest.raises(redis.ResponseError, match="syntax error"):
        mine[0].execute_command("CLIENT", "LIST", "NONSENSE")
    # Proxies that ask one another are no clients.
    assert not [one for one in mine[0].client_list() if one["cmd"].startswith("fastcache")]


def test_who_waits_at_one_proxy_is_let_go_at_another(door: Door) -> None:
    waiting, other = door(0), door(1)
    number = waiting.client_id()
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(waiting.blpop("nothing", timeout=25)))
    thread.start()
    until(lambda: other.client_unblock(number) == 1, "it waits and is let go")
    thread.join(20)
    assert got == [None]
    assert other.client_unblock(number) == 0


def test_a_pause_holds_at_all_proxies_and_ends_at_all(door: Door) -> None:
    clients = [door(proxy) for proxy in range(PROXIES)]
    clients[0].client_pause(60_000)
    served: list[bytes | None] = []
    threads = [threading.Thread(target=lambda one=one: served.append(one.get("none"))) for one in clients[1:]]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert served == []
    clients[0].client_unpause()
    for thread in threads:
        thread.join(20)
    assert served == [None] * len(threads)


def state_of(task: Path) -> str:
    """A thread's state: a letter."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def test_a_proxy_that_stands_still_costs_a_moment_and_is_left_out(cluster: Embedded, door: Door) -> None:
    here, beside = door(0, "here"), door(2, "there")
    stopped = pid(cluster, 2)
    os.kill(stopped, signal.SIGSTOP)
    # Its threads go on until the one that took the signal has had its turn.
    until(
        lambda: all(state_of(task) == "T" for task in Path(f"/proc/{stopped}/task").iterdir()),
        "it stands still",
    )
    try:
        began = time.monotonic()
        names = {one["name"] for one in here.client_list()}
        first = time.monotonic() - began
        assert "here" in names
        assert "there" not in names
        assert first < 10, "a second, on a machine that has time"
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(lambda: "there" in {one["name"] for one in here.client_list()}, "it is asked again")
    assert beside.ping()


def test_a_proxy_that_was_killed_takes_its_listeners_along(cluster: Embedded, door: Door) -> None:
    lost = [listening(door(2), channels=("gone",)) for _ in range(2)]
    kept = listening(door(1), channels=("gone",))
    asked = door(0)
    assert count(asked, "gone") == 3
    os.kill(pid(cluster, 2), signal.SIGKILL)
    until(lambda: count(asked, "gone") == 1, "nodes have forgotten who was killed")
    assert asked.publish("gone", "x") == 1
    assert kept.get_message(timeout=20)["data"] == b"x"
    assert len(lost) == 2
    began = time.monotonic()
    assert [one for one in asked.client_list() if one["sub"] == "1"]
    assert time.monotonic() - began < 10

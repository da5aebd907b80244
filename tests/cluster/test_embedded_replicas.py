"""`fastcache up --replicas 1`: a node dies and nothing is missing; a node hands over in order."""

import json
import os
import signal
import threading
import time
import urllib.request
from contextlib import suppress

import pytest
import redis
from redis.crc import key_slot

from fastcache.embedded.start import GIVES_WAY
from tests.cluster.embedded import Embedded, until

KEYS = 40
PATIENCE = 90.0


def door(embedded: Embedded) -> redis.Redis:
    return redis.Redis(port=embedded.port_of("proxy"), socket_timeout=5, decode_responses=True)


def until_all_read(client: redis.Redis) -> None:
    """Every key has its value; errors on the way are what a failover looks like from outside."""
    deadline = time.monotonic() + PATIENCE
    missing = set(range(KEYS))
    while missing:
        for number in sorted(missing):
            try:
                value = client.get(f"key:{number}")
            except redis.RedisError:
                break
            assert value == f"value {number}", f"key:{number} was lost"
            missing.discard(number)
        assert time.monotonic() < deadline, f"{len(missing)} keys cannot be read"
        if missing:
            time.sleep(0.1)


def until_whole(embedded: Embedded) -> None:
    deadline = time.monotonic() + PATIENCE
    while (told := embedded.status()[1].get("replication", {})).get("slotsWithoutReplica", 1):
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


@pytest.mark.parametrize("consistency", ["strict"])
def test_a_node_dies_or_hands_over_and_no_key_is_missing(embedded: Embedded, consistency: str) -> None:
    up = embedded.whole("--nodes", "3", "--replicas", "1", "--consistency", consistency, "--proxies", "1")
    assert up.returncode == 0, up.stderr
    until_whole(embedded)
    client = door(embedded)
    for number in range(KEYS):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                client.set(f"key:{number}", f"value {number}")
                break
            except redis.RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    _, status = embedded.status()
    assert status["replication"]["strict"] is True
    preferred = os.getpriority(os.PRIO_PROCESS, embedded.pid(0))
    assert os.getpriority(os.PRIO_PROCESS, status["services"][0]["pid"]) == preferred + GIVES_WAY
    os.kill(embedded.pid(0), signal.SIGKILL)
    until_all_read(client)
    assert embedded.status()[0] == 3, "a node is missing"

    assert embedded.call("up").returncode == 0
    until_whole(embedded)
    second = f"node-{embedded.port + 1}"
    plan = embedded.call("switchover", second)
    assert plan.returncode == 2
    assert f"{second} -> " in plan.stdout
    assert "this is only the plan" in plan.stderr
    done = embedded.call("switchover", second, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{second} has handed over to" in done.stdout
    until_all_read(client)
    assert "paused" in embedded.call("pause").stdout
    assert "is on" in embedded.call("resume").stdout


def test_a_library_loaded_through_a_proxy_is_on_every_node_and_stays_when_one_dies(
    embedded: Embedded,
) -> None:
    up = embedded.whole("--nodes", "3", "--replicas", "1", "--proxies", "1")
    assert up.returncode == 0, up.stderr
    until_whole(embedded)
    client = door(embedded)
    # Each node hears it from the proxy and from others, whichever comes first; nobody minds.
    for answer in range(20):
        code = f"#!lua name=lib{answer}\nredis.register_function('f{answer}', function() return {answer} end)"
        assert client.function_load(code) == f"lib{answer}"
        assert client.fcall(f"f{answer}", 1, f"key:{answer}") == answer
    for answer in range(10):
        assert client.function_delete(f"lib{answer}")
    left = {f"lib{answer}" for answer in range(10, 20)}
    os.kill(embedded.pid(0), signal.SIGKILL)
    assert embedded.call("up").returncode == 0
    until_whole(embedded)
    for number in range(3):
        node = redis.Redis(port=embedded.port + number, socket_timeout=5, decode_responses=True)
        deadline = time.monotonic() + PATIENCE
        while (held := {each[1] for each in node.function_list()}) != left:
            assert time.monotonic() < deadline, held
            time.sleep(0.1)


def test_while_a_main_is_away_its_copy_answers_reads_that_need_not_be_strict(embedded: Embedded) -> None:
    up = embedded.whole("--nodes", "3", "--replicas", "1", "--proxies", "1")
    assert up.returncode == 0, up.stderr
    until_whole(embedded)
    client = redis.Redis(port=embedded.port_of("proxy"), socket_timeout=30, protocol=3, decode_responses=True)
    for number in range(KEYS):
        assert client.set(f"key:{number}", f"value {number}")
    told = client.execute_command("FASTCACHE", "COMPARE", *(f"key:{number}" for number in range(KEYS)))
    assert len(told) == KEYS
    assert {main for main, _ in told} == {f"node-{embedded.port + number}" for number in range(3)}
    assert all(list(copies.values()) == ["same"] for _, copies in told), told
    # Nobody takes its place: what follows is answered by copies that stay copies.
    assert "paused" in embedded.call("pause").stdout
    of_it = [number for number, (main, _) in enumerate(told) if main == f"node-{embedded.port}"]
    assert of_it
    os.kill(embedded.pid(0), signal.SIGKILL)
    assert [client.get(f"key:{number}") for number in range(KEYS)] == [f"value {n}" for n in range(KEYS)]
    assert client.mget(f"key:{of_it[0]}", f"{{key:{of_it[0]}}}2") == [f"value {of_it[0]}", None]
    strict = redis.Redis(port=embedded.port_of("proxy"), socket_timeout=30, retry=None, protocol=3)
    assert strict.execute_command("FASTCACHE", "CONSISTENCY", "STRICT") == b"OK"
    for refused in (
        lambda: strict.get(f"key:{of_it[0]}"),
        lambda: client.set(f"key:{of_it[0]}", "new"),
    ):
        with pytest.raises(redis.RedisError):
            refused()
    assert client.get(f"key:{of_it[0]}") == f"value {of_it[0]}"


@pytest.mark.parametrize(("consistency", "replicas"), [("eventual", 1), ("strict", 2)])
def test_a_node_that_is_told_to_stop_hands_over_before_it_does(
    embedded: Embedded, consistency: str, replicas: int
) -> None:
    copies = ("--replicas", str(replicas), "--consistency", consistency)
    up = embedded.whole("--nodes", "3", *copies, "--proxies", "1")
    assert up.returncode == 0, up.stderr
    until_whole(embedded)
    client = door(embedded)
    until(lambda: written(client), "the cluster takes writes")
    acknowledged = []
    stopping = embedded.pid(0)
    late = Latecomer(embedded.port_of("node"))
    for number in range(3000):
        if number == 300:
            os.kill(stopping, signal.SIGTERM)
        client.set(f"counted:{number}", number)  # An error fails the test.
        acknowledged.append(number)
    until(lambda: embedded.status()[0] == 3, "the node has stopped")
    # Who has not heard of it yet is told where to go, and does not lose a request with the connection.
    assert late.told_for() > 0.3
    values = [client.get(f"counted:{each}") for each in acknowledged]
    assert values == [str(each) for each in acknowledged]
    with urllib.request.urlopen(f"http://127.0.0.1:{embedded.port_of('health')}/events") as reply:
        events = json.load(reply)
    assert {event["how"] for event in events if event["event"] == "failover"} == {"switchover"}, events


class Latecomer:
    """Somebody who asks a node for slots of its own until the connection ends."""

    def __init__(self, port: int) -> None:
        self.moved: list[float] = []
        self.client = redis.Redis(port=port, socket_timeout=30, retry=None)
        slots = self.client.execute_command("CLUSTER", "SLOTS")
        own = {
            slot for one in slots if int(one[2][1]) == port for slot in range(int(one[0]), int(one[1]) + 1)
        }
        self.key = next(key for n in range(1000) if key_slot((key := f"key:{n}").encode()) in own)
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    def ask(self) -> None:
        connection = self.client.connection_pool.get_connection()
        with suppress(redis.ConnectionError):
            while True:
                connection.send_command("GET", self.key)
                try:
                    connection.read_response()
                except redis.exceptions.MovedError:
                    self.moved.append(time.monotonic())
                time.sleep(0.005)

    def told_for(self) -> float:
        """For how long it heard that others have them."""
        self.thread.join(30)
        assert self.moved, "it was never told"
        return self.moved[-1] - self.moved[0]


def written(client: redis.Redis) -> bool:
    try:
        return bool(client.set("first", "value"))
    except redis.RedisError:
        return False

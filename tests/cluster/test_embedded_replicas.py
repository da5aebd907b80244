"""`fastcache up --replicas 1`: a node dies and nothing is missing; a node hands over in order."""

import os
import signal
import time

import pytest
import redis

from tests.cluster.embedded import Embedded

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

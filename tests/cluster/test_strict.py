"""Strict mode between real nodes: what was acknowledged is on both, and a deposed main says nothing false."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import until
from tests.cluster.nodes import Nodes

STRICT = ("strict",)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Nodes]:
    """A main `a` and its replica `b`, in strict mode, in sync."""
    nodes = Nodes(tmp_path, 2)
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}, flags=STRICT))
    until(lambda: nodes.in_sync("a"), "the replica is there")
    yield nodes
    nodes.end()


def test_what_was_acknowledged_survives_the_main(pair: Nodes) -> None:
    main = pair.client("a")
    killer = threading.Timer(1.0, pair.kill, ("a",))
    killer.start()
    acknowledged = []
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        while True:
            number = len(acknowledged)
            main.set(f"key:{number}", number)
            acknowledged.append(number)
    killer.join()
    assert len(acknowledged) > 20
    pair.obey(pair.topology({"main": "b", "replicas": []}, flags=STRICT))
    promoted = pair.client("b")
    lost = [number for number in acknowledged if promoted.get(f"key:{number}") != str(number).encode()]
    assert not lost


def test_without_its_replica_a_main_refuses_strict_writes_and_reads_on_once_it_may(pair: Nodes) -> None:
    main = pair.client("a")
    assert main.set("key", "value")
    pair.kill("b")
    until(lambda: not pair.streams("a"), "the loss is noticed")
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        main.set("key", "other")
    answers: list[object] = []
    reader = threading.Thread(target=lambda: answers.append(pair.client("a").get("key")))
    reader.start()
    time.sleep(0.7)  # The lease is over: nobody has said yet that `a` may go on alone.
    assert not answers
    pair.obey(pair.topology({"main": "a", "replicas": [], "learners": ["b"]}, flags=STRICT))
    reader.join(timeout=20)
    assert answers == [b"value"]
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        main.set("key", "other")
    assert main.execute_command("FASTCACHE", "CONSISTENCY", "EVENTUAL") == b"OK"
    pair.start("b")
    pair.obey(pair.topology({"main": "a", "replicas": [], "learners": ["b"]}, flags=STRICT))
    until(lambda: pair.in_sync("a"), "the learner has everything")
    pair.obey(pair.topology({"main": "a", "replicas": ["b"]}, flags=STRICT))
    until(lambda: bool(pair.client("a").set("key", "again")), "strict again")


def test_a_main_that_stood_still_while_another_was_promoted_answers_nothing_old(pair: Nodes) -> None:
    old = pair.client("a")
    assert old.set("key", "old")
    pair.pause("a")
    pair.obey(pair.topology({"main": "b", "replicas": [], "learners": ["a"]}, flags=STRICT), "b")
    promoted = pair.client("b")
    promoted.execute_command("FASTCACHE", "CONSISTENCY", "EVENTUAL")
    assert promoted.set("key", "new")
    pair.resume("a")
    # It has not heard of the new topology, and finds nobody to confirm that it is the main.
    with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        old.get("key")
    with pytest.raises(redis.ResponseError, match=r"NOREPLICAS|UNKNOWN"):
        old.set("key", "too late")
    assert promoted.get("key") == b"new"
    pair.epoch -= 1
    pair.obey(pair.topology({"main": "b", "replicas": [], "learners": ["a"]}, flags=STRICT), "a")
    with pytest.raises(redis.exceptions.MovedError):
        old.get("key")


def test_who_waited_for_a_key_hears_of_it_when_both_have_it(pair: Nodes) -> None:
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(pair.client("a").blpop(["list"], timeout=20)))
    waiting.start()
    until(lambda: pair.figure("a", "blocked_clients") == 1, "it waits")
    assert pair.client("a").rpush("list", "x") == 1
    waiting.join(timeout=20)
    assert answers == [[b"list", b"x"]]

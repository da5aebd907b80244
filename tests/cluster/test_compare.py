"""Copies that were damaged, between real nodes: found behind strict reads and on demand, and repaired."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.cluster.embedded import until
from tests.cluster.nodes import Nodes

STRICT = ("strict",)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Nodes]:
    """A main `a` and its replica `b`, in strict mode, in sync, that can be damaged."""
    nodes = Nodes(tmp_path, 2, enable_debug_command="yes")
    nodes.obey(nodes.topology({"main": "a", "replicas": ["b"]}, flags=STRICT))
    until(lambda: nodes.in_sync("a"), "the replica is there")
    yield nodes
    nodes.end()


def copy_of(nodes: Nodes, name: str) -> redis.Redis:
    client = nodes.client(name)
    client.execute_command("READONLY")
    return client


def compared(nodes: Nodes, name: str, *keys: str) -> list[dict[bytes, bytes]]:
    told = nodes.client(name).execute_command("FASTCACHE", "COMPARE", *keys)
    assert all(main == name.encode() for main, _ in told)
    return [copies for _, copies in told]


def test_a_strict_read_finds_a_damaged_copy_and_repairs_it_behind_the_reply(pair: Nodes) -> None:
    main, copy = pair.client("a"), copy_of(pair, "b")
    for number in range(5):
        assert main.set(f"key:{number}", "right")
    copy.execute_command("DEBUG", "DAMAGE", "key:1", "wrong")
    copy.execute_command("DEBUG", "DAMAGE", "key:2")
    assert [copy.get(f"key:{number}") for number in range(4)] == [b"right", b"wrong", None, b"right"]

    def repaired() -> bool:
        values = [main.get(f"key:{number}") for number in range(5)]
        assert values == [b"right"] * 5, "strict reads are of the main throughout"
        return [copy.get(f"key:{number}") for number in range(5)] == values

    until(repaired, "the copies are as they were")
    until(lambda: pair.figure("a", "copies_repaired_total") == 2, "both were told")
    assert pair.figure("a", "copies_differed_total") == 2
    log = pair.directory / "a" / "log"
    until(lambda: "a copy has something else than its main copy=b" in log.read_text(), "it stands in the log")
    assert pair.in_sync("a"), "no stream was disturbed"


def test_keys_are_compared_when_somebody_asks(pair: Nodes) -> None:
    main, copy = pair.client("a"), copy_of(pair, "b")
    assert main.set("{t}1", "right")
    assert main.sadd("{t}2", "x", "y") == 2
    assert compared(pair, "a", "{t}1", "{t}2", "{t}none") == [{b"b": b"same"}] * 3
    copy.execute_command("DEBUG", "DAMAGE", "{t}2", "no set")
    copy.execute_command("DEBUG", "DAMAGE", "{t}none", "something")
    copy.execute_command("DEBUG", "DAMAGE", "{t}other", "something")
    told = compared(pair, "a", "{t}1", "{t}2", "{t}none")
    assert told == [{b"b": b"same"}, {b"b": b"repaired"}, {b"b": b"repaired"}]
    assert copy.smembers("{t}2") == {b"x", b"y"}
    # The rest of the slot was looked at, too.
    until(lambda: copy.exists("{t}other") == 0, "what only the copy had is gone")
    with pytest.raises(redis.exceptions.MovedError):
        copy.execute_command("FASTCACHE", "COMPARE", "{t}1")
    pair.pause("b")
    assert compared(pair, "a", "{t}1") == [{b"b": b"away"}]
    pair.resume("b")


def test_two_copies_that_agree_against_their_main_are_left_for_people(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, 3, enable_debug_command="yes")
    try:
        nodes.obey(nodes.topology({"main": "a", "replicas": ["b", "c"]}))
        until(lambda: nodes.in_sync("a") and len(nodes.streams("a")) == 2, "both copies are there")
        assert nodes.client("a").set("key", "right")
        until(lambda: nodes.in_sync("a"), "both have it")
        nodes.client("a").execute_command("DEBUG", "DAMAGE", "key", "the main's memory failed")
        assert compared(nodes, "a", "key") == [{b"b": b"differs", b"c": b"differs"}]
        assert copy_of(nodes, "b").get("key") == b"right"
        # Another main's word counts then, and it is the one that was wrong which is repaired.
        nodes.obey(nodes.topology({"main": "b", "replicas": ["c"], "learners": ["a"]}))
        until(lambda: nodes.in_sync("b") and len(nodes.streams("b")) == 2, "the copies follow")
        assert compared(nodes, "b", "key")[0][b"c"] == b"same"
        until(lambda: compared(nodes, "b", "key")[0][b"a"] == b"same", "the former main has been filled")
        nodes.obey(nodes.topology({"main": "b", "replicas": ["a", "c"]}))
        assert copy_of(nodes, "a").get("key") == b"right"
    finally:
        nodes.end()


def test_nobody_damages_a_node_that_does_not_allow_it(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, 1)
    try:
        with pytest.raises(redis.ResponseError, match="DEBUG command not allowed"):
            nodes.client("a").execute_command("DEBUG", "DAMAGE", "key", "wrong")
    finally:
        nodes.end()

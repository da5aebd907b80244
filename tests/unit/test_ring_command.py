"""What `fastcache ring` tells."""

import json
from pathlib import Path

from click.testing import CliRunner

from fastcache import _core
from fastcache.cli.ring import command
from fastcache.errors import FastCacheError, UsageError


def ring(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(command, [*arguments, "-o", "json"], catch_exceptions=False)
    told: dict[str, object] = json.loads(result.output)
    return told


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments))
    assert isinstance(result.exception, UsageError | FastCacheError)
    return result.exception.message


def test_fifty_nodes_are_even() -> None:
    told = ring("--nodes", "50")
    assert told["busiestOverFairShare"] <= 1.02
    assert told["mostAboveFairShare"] <= 1
    assert told["slotsMoved"] == 0
    assert sum(node["slots"] for node in told["nodes"]) == 16384


def test_an_added_node_moves_its_share() -> None:
    told = ring("--nodes", "50", "--add", "new,rack=r2,weight=200")
    new = next(node for node in told["nodes"] if node["id"] == "new")
    assert told["slotsMoved"] == new["slots"] == new["gains"] <= 1.02 * 16384 * 2 / 52
    assert (new["rack"], new["weight"]) == ("r2", 200)


def test_a_removed_and_a_drained_node_lose_everything() -> None:
    told = ring("--nodes", "10", "--remove", "node-01", "--weight", "node-02=0")
    assert [node["slots"] for node in told["nodes"] if node["id"] == "node-02"] == [0]
    assert "node-01" not in [node["id"] for node in told["nodes"]]


def test_a_key_is_found() -> None:
    told = ring("--nodes", "3", "--replicas", "1", "--key", "foo")
    (key,) = told["keys"]
    assert key["slot"] == 12182
    assert len(key["holders"]) == 2


def test_a_topology_on_disk_is_taken_as_it_is(tmp_path: Path) -> None:
    nodes = [{"id": name, "host": name, "port": 1} for name in "ab"]
    slots = [{"main": "a", "ranges": "0-8191"}, {"main": "b", "ranges": "8192-16383"}]
    _core.Topology(json.dumps({"epoch": 3, "nodes": nodes, "slots": slots}).encode()).save(tmp_path / "t")
    told = ring("--topology", str(tmp_path / "t"), "--key", "foo")
    assert told["slotsMoved"] == 0
    assert told["keys"][0]["holders"] == ["b"]


def test_the_table_says_what_a_change_would_move() -> None:
    result = CliRunner().invoke(command, ["--nodes", "3", "--add", "x", "--key", "foo"])
    assert "The change would move 4096 of 16384 slots (25.0%)." in result.output
    assert "Key 'foo' is in slot 12182" in result.output


def test_nonsense_is_refused_by_name() -> None:
    assert "there is no such node" in refusal("--nodes", "3", "--remove", "x")
    assert "there is such a node" in refusal("--nodes", "3", "--add", "node-01")
    assert "none of host" in refusal("--nodes", "3", "--add", "x,colour=red")
    assert "whole number" in refusal("--nodes", "3", "--weight", "node-01=much")
    assert "no member with a weight" in refusal("--nodes", "1", "--weight", "node-01=0")
    assert "cannot be asked" in refusal("--health", "http://127.0.0.1:1")

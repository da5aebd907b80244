"""A health service whose store is empty, over nodes that serve: it goes on with what they know."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cluster.health_processes import HealthProcess, etcd, free_port, until
from tests.cluster.nodes import PASSWORD, Nodes

WITH_ETCD = pytest.param(
    "etcd", marks=pytest.mark.skipif(not shutil.which("etcd"), reason="etcd is not installed")
)


def served(nodes: Nodes, keys: dict[str, str]) -> bool:
    """Whether the node that has all slots has all keys."""
    client = nodes.client("b")
    return all(client.get(key) == value.encode() for key, value in keys.items())


def obeyed(nodes: Nodes, name: str) -> int:
    """The epoch that a node obeys."""
    told: dict[bytes, int] = nodes.client(name).execute_command("FASTCACHE", "TOPOLOGY")
    return told[b"epoch"]


@pytest.mark.parametrize("store", ["sqlite", WITH_ETCD, "sqlite, nodes that register"])
def test_an_empty_store_takes_over_what_nodes_know(tmp_path: Path, store: str) -> None:
    port = free_port()
    nodes = Nodes(tmp_path, 3, health=f"http://127.0.0.1:{port}")
    listed = [{"id": name, "host": "127.0.0.1", "port": nodes.port(name)} for name in nodes.names]
    common: dict[str, Any] = {"profile": "reference", "node-password": PASSWORD}
    try:
        # Slots that no ring would place: all of them are one node's.
        weighed = [{**one, "weight": 100 if one["id"] == "b" else 0} for one in listed]
        first = HealthProcess(tmp_path / "first", port, nodes=weighed, **common).start()
        until("slots are placed", lambda: {one["main"] for one in first.topology()["slots"]} == {"b"})
        until(
            "all know it",
            lambda: all(obeyed(nodes, name) == first.topology()["epoch"] for name in nodes.names),
        )
        before = first.topology()
        keys = {f"key:{number}": str(number) for number in range(50)}

        def written() -> bool:
            try:
                return all(nodes.client("b").set(key, value) for key, value in keys.items())
            except redis.ResponseError:
                return False

        until("the node knows what is its own", written)
        assert first.stop() == 0
        with etcd(tmp_path) if store == "etcd" else contextlib.nullcontext("") as url:
            more = {"store": "etcd", "etcd-endpoint": url} if url else {}
            second = HealthProcess(
                tmp_path / "second",
                port,
                nodes=[] if "register" in store else listed,
                placement="manual",
                **common,
                **more,
            ).start()
            try:
                for one in listed if "register" in store else ():
                    assert second.ask("POST", "/nodes", one)[0] == 201
                until("there is a topology", lambda: second.topology()["slots"])
                after = second.topology()
                assert after["cluster"] == before["cluster"]
                assert after["epoch"] > before["epoch"]
                assert {one["main"] for one in after["slots"]} == {"b"}
                assert served(nodes, keys)
                assert "what nodes know is taken over" in second.log.read_text()
                # And the nodes obey whoever took it over.
                until(
                    "nodes obey", lambda: all(obeyed(nodes, name) >= after["epoch"] for name in nodes.names)
                )
            finally:
                second.stop()
    finally:
        nodes.end()

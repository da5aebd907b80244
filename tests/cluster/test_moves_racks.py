"""Nodes of racks come and go under load: nobody notices, and no rack gets two copies of a slot."""

import contextlib
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cluster.embedded import PROGRAM, free_ports
from tests.cluster.health_processes import HealthProcess, free_port
from tests.cluster.nodes import PASSWORD, Nodes
from tests.cluster.test_moves import Load, eventually, fill, picture
from tests.history.linear import Verdict

# Racks of two nodes each. The last node comes later, so that every rack always has room for its part.
SHAPES = {"three racks, one copy": (3, 1), "four racks, two copies": (4, 2)}
ACCEPTED, CREATED, OK = 202, 201, 200


class Racks:
    """Nodes on hosts of their own, in racks; a health service; a proxy that clients use."""

    def __init__(self, directory: Path, racks: int, copies: int) -> None:
        self.copies = copies
        port, count = free_port(), 2 * racks
        url = f"http://127.0.0.1:{port}"
        hosts = [f"127.0.0.{number + 2}" for number in range(count)]
        self.nodes = Nodes(directory, count, health=url, bind=" ".join(["127.0.0.1", *hosts]))
        self.rack = {name: f"r{number % racks}" for number, name in enumerate(self.nodes.names)}
        self.members: dict[str, dict[str, Any]] = {
            name: {"id": name, "host": host, "port": self.nodes.port(name), "rack": self.rack[name]}
            for name, host in zip(self.nodes.names, hosts, strict=True)
        }
        self.last = self.nodes.names[-1]
        self.service = HealthProcess(
            directory / "health",
            port,
            **{"interval": 0.5, "suspect-interval": 0.5, "timeout": 2.0, "down-after": 3},
            **{"move-share": 1.0},  # What clients notice of moves that do not wait for them.
            **{"move-slots": 4096, "replicas": copies, "flags": ["replication"], "node-password": PASSWORD},
            nodes=[one for name, one in self.members.items() if name != self.last],
        ).start()
        self.at_rest(set(self.members) - {self.last})
        self.port = free_ports(1)
        file = directory / "proxy.toml"
        wanted = {"port": str(self.port), "bind": "127.0.0.1", "health": url, "requirepass": PASSWORD}
        file.write_text("".join(f'{name} = "{value}"\n' for name, value in wanted.items()))
        with (directory / "proxy.log").open("wb") as log:
            self.proxy = subprocess.Popen(
                [PROGRAM, "proxy", "--config", file], stdout=log, stderr=subprocess.STDOUT
            )
        self.client = redis.Redis(port=self.port, password=PASSWORD, socket_timeout=30)
        eventually(self.serves, "the proxy serves")

    def serves(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return self.client.dbsize() == 0
        return False

    def groups(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.service.topology()["slots"]
        return found

    def ask(self, method: str, path: str, body: object, wanted: int) -> None:
        status, told, _ = self.service.ask(method, path, body)
        assert status == wanted, told

    def at_rest(self, holders: set[str]) -> None:
        """Wait until these nodes, and no others, hold the slots, with all copies in sync."""

        def there() -> bool:
            groups = self.groups()
            whole = all(len(one["replicas"]) == self.copies and not one.get("learners") for one in groups)
            held = {name for one in groups for name in (one["main"], *one["replicas"])}
            mains = {one["main"] for one in groups}
            try:
                told = self.service.get("/rebalance")
            except urllib.error.URLError:
                return False
            return whole and held == mains == holders and told["state"] == "idle" and not told["moves"]

        eventually(there, f"slots are held by {sorted(holders)}")

    def sharing(self) -> list[dict[str, Any]]:
        """Groups of slots that have two of their copies, the main included, in one rack."""
        racks = [
            (one, [self.rack[name] for name in (one["main"], *one["replicas"])]) for one in self.groups()
        ]
        return [one for one, of_it in racks if len(set(of_it)) < len(of_it)]

    def end(self) -> None:
        if self.service.process:
            self.service.kill()
        self.proxy.kill()
        self.proxy.wait()
        self.nodes.end()


@contextlib.contextmanager
def racks_of(directory: Path, shape: str) -> Iterator[Racks]:
    racks = Racks(directory, *SHAPES[shape])
    try:
        yield racks
    finally:
        racks.end()


@pytest.mark.parametrize("shape", SHAPES)
def test_nodes_come_and_go_and_no_rack_gets_two_copies_of_a_slot(tmp_path: Path, shape: str) -> None:
    with racks_of(tmp_path, shape) as racks:
        assert racks.sharing() == [], "at first"
        fill(racks.client)
        before = picture(racks.client)
        all_of_them, load = set(racks.members), Load(racks.port, password=PASSWORD)
        try:
            racks.ask("POST", "/nodes", racks.members[racks.last], CREATED)
            racks.at_rest(all_of_them)
            assert racks.sharing() == [], "a node was added"
            for verb, name in (("drained", "b"), ("removed", "a")):
                racks.ask("POST", "/rebalance/start", {"weights": {name: 0}}, ACCEPTED)
                racks.at_rest(all_of_them - {name})
                if verb == "removed":
                    racks.ask("DELETE", f"/nodes/{name}?listed=removed", None, OK)
                    racks.nodes.kill(name)
                    racks.at_rest(all_of_them - {name})
                else:
                    assert racks.sharing() == [], "a node was drained"
                    racks.ask("POST", "/rebalance/start", {"weights": {name: 100}}, ACCEPTED)
                    racks.at_rest(all_of_them)
                assert racks.sharing() == [], f"a node was {verb}"
                assert picture(racks.client) == before
        finally:
            load.end()
        assert load.failed == [], racks.service.get("/events")
        assert load.verdicts() == {Verdict.OK}

"""What an embedded cluster consists of, and when a running one is another than wished for."""

from pathlib import Path

import pytest

from fastcache.embedded.plan import Wish, cluster, differs
from fastcache.errors import UsageError

HOME = Path("/somewhere")


def test_without_a_word_there_are_three_nodes_from_7001_on() -> None:
    specs = cluster(Wish(), HOME)
    assert [spec.name for spec in specs] == ["node-7001", "node-7002", "node-7003"]
    assert {spec.endpoint.host for spec in specs} == {"127.0.0.1"}
    assert len({spec.directory for spec in specs}) == 3


def test_settings_reach_every_node_but_cannot_change_its_place() -> None:
    wish = Wish(nodes=2, node_port=9000, settings=(("maxmemory", "1mb"), ("port", "1")))
    for port, spec in enumerate(cluster(wish, HOME), start=9000):
        settings = dict(spec.settings)
        assert settings["maxmemory"] == "1mb"
        assert settings["port"] == str(port)


def test_nodes_past_the_last_port_are_refused() -> None:
    with pytest.raises(UsageError, match="65535"):
        cluster(Wish(nodes=10, node_port=65530), HOME)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (Wish(), ""),
        (Wish(nodes=3, node_port=7001), ""),
        (Wish(nodes=5), "3 nodes already run, and 5 are wanted"),
        (Wish(node_port=8001), "from port 7001 on, and 8001 is wanted"),
        (Wish(settings=(("maxmemory", "1mb"),)), "with other settings"),
    ],
)
def test_a_wish_for_something_else_than_runs_is_told(wish: Wish, reason: str) -> None:
    assert reason in differs(wish, cluster(Wish(), HOME))
    assert bool(reason) == bool(differs(wish, cluster(Wish(), HOME)))

"""What an embedded cluster consists of, and when a running one is another than wished for."""

from pathlib import Path

import pytest

from fastcache.embedded.plan import STAGES, Wish, again, cluster, differs, told
from fastcache.errors import UsageError

HOME = Path("/somewhere")


def test_three_nodes_have_all_that_stands_before_them() -> None:
    specs = cluster(Wish(nodes=3), HOME)
    nodes, others = specs[:3], specs[3:]
    assert [spec.name for spec in nodes] == ["node-7001", "node-7002", "node-7003"]
    assert [spec.name for spec in others] == ["health", "proxy-6382", "proxy-6383", "haproxy"]
    assert [spec.endpoint.port for spec in others] == [8080, 6382, 6383, 6380]
    assert {spec.endpoint.host for spec in specs} == {"127.0.0.1"}
    assert len({spec.directory for spec in specs}) == len(specs)
    assert [spec.kind for spec in specs] == sorted((s.kind for s in specs), key=STAGES.index)


def test_nodes_alone_and_a_machine_without_haproxy_are_possible() -> None:
    assert {spec.kind for spec in cluster(Wish(only_nodes=True), HOME)} == {"node"}
    assert "balancer" not in {spec.kind for spec in cluster(Wish(balancer=False), HOME)}
    assert told(cluster(Wish(only_nodes=True, nodes=1), HOME)) == "1 node"
    assert told(cluster(Wish(), HOME)) == "50 nodes, the health service, 5 proxies and HAProxy"
    assert told(cluster(Wish(nodes=3), HOME)) == "3 nodes, the health service, 2 proxies and HAProxy"


def test_two_processes_on_one_port_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="node-6382 and proxy-6382 would both listen on port 6382"):
        cluster(Wish(nodes=1, node_port=6382), HOME)


def test_a_password_reaches_everybody_who_asks_for_it() -> None:
    specs = cluster(Wish(settings=(("requirepass", "s3cret"), ("maxmemory", "1mb"))), HOME)
    by_kind = {spec.kind: dict(spec.settings) for spec in specs}
    assert by_kind["node"]["requirepass"] == by_kind["proxy"]["requirepass"] == "s3cret"
    assert by_kind["health"]["node-password"] == "s3cret"
    assert "maxmemory" not in by_kind["proxy"]


def test_a_path_too_long_for_a_unix_socket_means_tcp() -> None:
    assert all(spec.unix for spec in cluster(Wish(), HOME) if spec.kind in {"node", "proxy"})
    assert not any(spec.unix for spec in cluster(Wish(), HOME / ("long" * 30)))


def test_settings_reach_every_node_but_cannot_change_its_place() -> None:
    wish = Wish(nodes=2, node_port=9000, settings=(("maxmemory", "1mb"), ("port", "1")))
    for port, spec in enumerate(cluster(wish, HOME)[:2], start=9000):
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
        (Wish(proxies=5), "2 proxies already run, and 5 are wanted"),
        (Wish(only_nodes=True), "more than nodes"),
        (Wish(port=6379), "no balancer on port 6379"),
        (Wish(profile="reference"), "another profile"),
        (Wish(settings=(("maxmemory", "1mb"),)), "with other settings"),
    ],
)
def test_a_wish_for_something_else_than_runs_is_told(wish: Wish, reason: str) -> None:
    running = cluster(Wish(nodes=3), HOME)
    assert reason in differs(wish, running)
    assert bool(reason) == bool(differs(wish, running))


def test_a_cluster_that_comes_back_is_the_one_that_was_there_but_for_what_is_said() -> None:
    wish = Wish(nodes=3, node_port=7101, replicas=1, consistency="strict", settings=(("maxmemory", "1mb"),))
    last = cluster(wish, HOME)
    assert again(Wish(), last, HOME) == last
    assert again(Wish(nodes=3), last, HOME) == last
    assert again(Wish(nodes=4), last, HOME) == cluster(
        Wish(
            nodes=4,
            node_port=7101,
            replicas=1,
            consistency="strict",
            profile="fast",
            settings=(("maxmemory", "1mb"),),
        ),
        HOME,
    )
    assert again(Wish(), (), HOME) == cluster(Wish(), HOME)
    assert {spec.kind for spec in again(Wish(only_nodes=True), last, HOME)} == {"node"}

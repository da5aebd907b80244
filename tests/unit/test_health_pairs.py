"""Pairs: nodes that hold the same slots."""

from typing import Any

from fastcache.health.groups import slots_in
from fastcache.health.pairs import found, placed


def document(count: int, hosts: int, replicas: int = 1) -> dict[str, Any]:
    nodes = [{"id": f"n{n}", "host": f"h{n % hosts}", "weight": 100} for n in range(count)]
    return {"nodes": nodes, "replicas": replicas, "virtual_nodes": 150}


def holders(slots: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {(one["main"], *one["replicas"]) for one in slots}


def test_nodes_pair_up_over_hosts_and_each_pair_has_its_share() -> None:
    slots = placed(document(4, 2), [], ())
    assert holders(slots) == {("n0", "n1"), ("n2", "n3")}
    assert [sum(1 for _ in slots_in(one["ranges"])) for one in slots] == [8192, 8192]
    assert holders(placed(document(6, 3, replicas=2), [], ())) == {("n0", "n1", "n2"), ("n3", "n4", "n5")}


def test_pairs_that_are_named_are_taken_with_their_first_node_as_main() -> None:
    slots = placed(document(4, 4), [], (("n3", "n0"), ("n1", "n2")))
    assert holders(slots) == {("n3", "n0"), ("n1", "n2")}


def test_pairs_stay_together_after_a_failover_and_when_others_come() -> None:
    before = placed(document(4, 4), [], ())
    moved = [
        {**one, "main": "n1", "replicas": [], "learners": ["n0"]} if one["main"] == "n0" else one
        for one in before
    ]
    after = placed(document(6, 6), moved, ())
    assert {("n1", "n0"), ("n2", "n3")} <= holders(after)
    assert all(one["main"] != "n0" for one in after)


def test_one_that_is_left_over_waits_or_fills_a_pair_that_lost_a_node() -> None:
    assert found(document(5, 5)["nodes"], [], 2) == [("n0", "n1"), ("n2", "n3")]
    slots = [
        {"main": "n0", "ranges": "0-9", "replicas": []},
        {"main": "n2", "ranges": "10", "replicas": ["n3"]},
    ]
    nodes = [node for node in document(5, 5)["nodes"] if node["id"] != "n1"]
    assert sorted(found(nodes, slots, 2)) == [("n0", "n4"), ("n2", "n3")]


def test_every_pair_is_on_two_hosts_also_where_their_number_is_odd() -> None:
    nodes = [
        {"id": f"node-h{host}-{port}", "host": f"h{host}"} for host in range(5) for port in range(7001, 7011)
    ]
    for size, whole in ((2, 25), (3, 16)):
        pairs = found(nodes, [], size)
        assert len([pair for pair in pairs if len(pair) == size]) == whole
        hosts = [{name.split("-")[1] for name in pair} for pair in pairs if len(pair) == size]
        assert all(len(here) == size for here in hosts), "a host that is lost must not take a slot along"
    uneven = [*nodes[:12], *nodes[20:22]]
    apart = [pair for pair in found(uneven, [], 2) if len({name.split("-")[1] for name in pair}) == 2]
    assert len(apart) == 4, "as many as there can be beside a host that has most of the nodes"

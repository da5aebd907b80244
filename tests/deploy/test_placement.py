"""How nodes come to their share of the slots after they were renewed: the module fastcache_placement."""

from typing import Any

from .conftest import load

placement = load("roles/fastcache/library/fastcache_placement.py")


def topology(slots: list[tuple[str, str, str]], **weights: int) -> dict[str, Any]:
    """Groups as (main, copies, ranges); a copy written `b?` is still learning."""
    nodes = sorted(
        {name.strip("?") for main, copies, _ in slots for name in (main, *copies.split())} | set(weights)
    )
    return {
        "nodes": [{"id": name, "weight": weights.get(name, 100)} for name in nodes],
        "slots": [
            {
                "main": main,
                "replicas": [name.strip("?") for name in copies.split()],
                "learners": [name.strip("?") for name in copies.split() if name.endswith("?")],
                "ranges": ranges,
            }
            for main, copies, ranges in slots
        ],
    }


def carried_out(document: dict[str, Any], step: tuple[str, str, list[int]]) -> dict[str, Any]:
    """The topology after a switchover of these slots."""
    giver, taker, slots = step
    groups = []
    for group in document["slots"]:
        mine = set(placement.slots_in(group["ranges"]))
        given = mine & set(slots) if group["main"] == giver else set()
        if mine - given:
            groups.append(group | {"ranges": placement.ranges(sorted(mine - given))})
        if given:
            changed = {
                "main": taker,
                "replicas": [giver],
                "learners": [],
                "ranges": placement.ranges(sorted(given)),
            }
            groups.append(changed)
    return document | {"slots": groups}


def served(document: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in document["slots"]:
        counts[group["main"]] = counts.get(group["main"], 0) + len(placement.slots_in(group["ranges"]))
    return counts


def evened_out(document: dict[str, Any], nodes: list[str]) -> dict[str, Any]:
    for _ in range(20):
        step = placement.next_step(document, nodes)
        if step is None:
            return document
        document = carried_out(document, step)
    raise AssertionError("it never ends")


def test_a_node_that_comes_back_gets_its_share_from_those_who_took_over() -> None:
    after_its_start = topology(
        [("b", "a", "0-4095"), ("c", "a", "4096-8191"), ("b", "c", "8192-12287"), ("c", "b", "12288-16383")]
    )
    document = evened_out(after_its_start, ["a"])
    assert abs(served(document)["a"] - 16384 // 3) <= 1
    assert abs(served(document)["b"] - served(document)["c"]) <= 1
    assert placement.next_step(document, ["a"]) is None, "a second run finds nothing to do"


def test_nothing_is_given_to_a_copy_that_is_not_whole_nor_to_nodes_that_were_not_named() -> None:
    assert placement.next_step(topology([("b", "a?", "0-99")]), ["a"]) is None
    assert placement.next_step(topology([("b", "a", "0-99")]), ["c"]) is None
    assert placement.next_step(topology([("b", "a", "0-99")]), ["a"]) == ("b", "a", list(range(50)))


def test_what_a_node_lacks_comes_over_others_where_no_copy_leads_straight_to_it() -> None:
    """The rich one's copies are with b, and only slots of b have copies with the one that lacks."""
    document = topology([("a", "b", "0-79"), ("b", "c", "80-119"), ("c", "a", "120-149")])
    assert served(evened_out(document, ["c"])) == {"a": 50, "b": 50, "c": 50}


def test_weights_count_and_an_even_cluster_is_left_alone() -> None:
    even = topology([("a", "b", "0-5461"), ("b", "c", "5462-10922"), ("c", "a", "10923-16383")])
    assert placement.next_step(even, ["a", "b", "c"]) is None
    weighty = topology([("b", "a", "0-99")], a=300, b=100)
    assert served(evened_out(weighty, ["a"])) == {"a": 75, "b": 25}
    assert placement.next_step(topology([("b", "a", "0-99")], a=0), ["a"]) is None


def test_slots_are_written_as_a_topology_lists_them() -> None:
    assert placement.ranges([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert placement.slots_in("0-2,7,9-10") == [0, 1, 2, 7, 9, 10]
    assert placement.slots_in("") == []

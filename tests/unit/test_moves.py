"""What moves, in which order, and what becomes of a move: decisions alone, without nodes."""

import random
from collections import Counter

import pytest

from fastcache import _core
from fastcache.health import moves
from fastcache.health.compose import count, placed
from fastcache.health.groups import slots_in
from fastcache.health.moves import COPYING, FLIPPED, Document, Limits, Row, View
from fastcache.model import Health

ALL = Limits(a_node=1, slots=16384)
STREAMS = Row("streaming")
TARGETS: dict[str, dict[int, str]] = {}


def steps(document: Document) -> list[moves.Step]:
    """What is still to move; where slots belong is worked out once for the same members."""
    key = repr((document["nodes"], document["epoch"] == 7))
    if key not in TARGETS:
        TARGETS.clear()
        TARGETS[key] = moves.target(document)
    return moves.steps(document, TARGETS[key])


def cluster(weights: dict[str, int]) -> Document:
    """A topology in which everybody holds his share, of what its weights were when it was placed."""
    nodes = [{"id": n, "host": f"h{n}", "rack": "", "weight": w} for n, w in sorted(weights.items())]
    document: Document = {
        "epoch": 7,
        "flags": [],
        "moves": [],
        "nodes": nodes,
        "replicas": 0,
        "virtual_nodes": 150,
    }
    return {**document, "slots": placed(document, {}, True)}


def weighed(document: Document, weights: dict[str, int]) -> Document:
    """The same slots, with these nodes and weights."""
    nodes = [{"id": n, "host": f"h{n}", "rack": "", "weight": w} for n, w in sorted(weights.items())]
    return {**document, "nodes": nodes}


def held(document: Document) -> dict[str, int]:
    """How many slots each main has."""
    total: dict[str, int] = {}
    for group in document["slots"]:
        total[group["main"]] = total.get(group["main"], 0) + count(group["ranges"])
    return total


def well(*names: str) -> dict[str, Health]:
    return dict.fromkeys(names, Health.HEALTHY)


def after(document: Document, view: View, limits: Limits = ALL) -> tuple[Document, moves.Decision]:
    """The next topology."""
    decision = moves.decided(document, steps(document), view, limits)
    return {
        **document,
        "epoch": document["epoch"] + 1,
        "moves": decision.moves,
        "slots": decision.slots,
    }, decision


def test_a_newcomer_gets_its_share_and_nobody_else_gets_anything() -> None:
    document = weighed(cluster(dict.fromkeys("abc", 100)), dict.fromkeys("abcd", 100))
    planned = steps(document)
    assert {step.taker for step in planned} == {"d"}
    assert sum(len(step.slots) for step in planned) == 4096
    assert moves.due(document)


def test_a_drained_node_gives_everything_and_then_there_is_nothing_to_do() -> None:
    document = weighed(cluster(dict.fromkeys("abc", 100)), {"a": 100, "b": 0, "c": 100})
    planned = steps(document)
    assert {step.giver for step in planned} == {"b"}
    assert sum(len(step.slots) for step in planned) == held(document)["b"]
    assert steps(cluster(dict.fromkeys("abc", 100))) == []
    assert not moves.due(cluster(dict.fromkeys("abc", 100)))


def test_with_nobody_left_slots_stay_where_they_are() -> None:
    assert steps(weighed(cluster({"a": 100}), {"a": 0})) == []


@pytest.mark.parametrize("limit", [1, 2])
def test_no_node_takes_part_in_more_moves_than_the_limit(limit: int) -> None:
    document = weighed(cluster(dict.fromkeys("abcd", 100)), dict.fromkeys("abcdefg", 100))
    document, _ = after(document, View(well(*"abcdefg")), Limits(limit, 64))
    busy = [name for move in document["moves"] for name in (move["from"], move["to"])]
    assert document["moves"]
    assert max(busy.count(name) for name in busy) <= limit
    assert all(count(move["ranges"]) <= 64 for move in document["moves"])


def test_a_move_is_copied_flipped_and_over() -> None:
    document = weighed(cluster({"a": 100}), {"a": 100, "b": 100})
    document, _ = after(document, View(well("a", "b")))
    (move,) = document["moves"]
    assert (move["from"], move["to"], move["state"]) == ("a", "b", COPYING)
    assert held(document) == {"a": 16384}
    behind = Row("streaming", lag_records=10**6)
    rows = {("a", move["id"]): behind, ("b", move["id"]): STREAMS}
    assert after(document, View(well("a", "b"), rows=rows))[0]["moves"] == [move]
    document, decision = after(
        document, View(well("a", "b"), rows={("a", move["id"]): STREAMS, ("b", move["id"]): STREAMS})
    )
    assert [event.kind for event in decision.events] == ["move-flipped"]
    assert document["moves"][0]["state"] == FLIPPED
    assert held(document) == {"a": 8192, "b": 8192}
    waiting = {("a", move["id"]): Row("handing"), ("b", move["id"]): Row("awaited")}
    assert after(document, View(well("a", "b"), rows=waiting))[1].events == []
    document, decision = after(document, View(well("a", "b"), rows={("b", move["id"]): Row("open")}))
    assert [event.kind for event in decision.events] == ["move-done"]
    assert document["moves"] == []


def test_who_rests_begins_nothing_and_ends_what_is_under_way() -> None:
    document = cluster({"a": 100, "b": 100, "c": 100})
    document = weighed(document, {"a": 100, "b": 100, "c": 0})
    resting, decision = after(document, View(well("a", "b", "c"), rests=True))
    assert not decision.events
    assert not resting.get("moves")
    begun, _ = after(document, View(well("a", "b", "c")))
    (move, *_) = begun["moves"]
    rows = {(move[side], move["id"]): moves.Row("streaming") for side in ("from", "to")}
    _, decision = after(begun, View(well("a", "b", "c"), rows=rows, rests=True))
    assert [event.kind for event in decision.events] == ["move-flipped"]


@pytest.mark.parametrize("fallen", ["a", "b"])
def test_what_is_being_copied_is_given_up_when_either_falls(fallen: str) -> None:
    document = weighed(cluster({"a": 100}), {"a": 100, "b": 100})
    document, _ = after(document, View(well("a", "b")))
    nodes = {**well("a", "b"), fallen: Health.UNHEALTHY}
    document, decision = after(document, View(nodes))
    assert [event.kind for event in decision.events] == ["move-given-up"]
    assert document["moves"] == []
    assert held(document) == {"a": 16384}


def flipped() -> tuple[Document, str]:
    document = weighed(cluster({"a": 100}), {"a": 100, "b": 100})
    document, _ = after(document, View(well("a", "b")))
    name = document["moves"][0]["id"]
    rows = {("a", name): STREAMS, ("b", name): STREAMS}
    return after(document, View(well("a", "b"), rows=rows))[0], name


def test_a_taker_that_falls_before_it_was_given_anything_gives_back() -> None:
    document, name = flipped()
    nodes = {"a": Health.HEALTHY, "b": Health.UNHEALTHY}
    rows = {("a", name): Row("handing")}
    same, decision = after(document, View(nodes, rows=rows))
    assert decision.ask_to_keep == [("a", name)], "the giver must promise it first"
    assert (same["moves"], held(same)) == (document["moves"], {"a": 8192, "b": 8192})
    back, decision = after(document, View(nodes, rows=rows, kept=frozenset({name})))
    assert [event.kind for event in decision.events] == ["move-undone"]
    assert (back["moves"], held(back)) == ([], {"a": 16384})


def test_a_taker_that_falls_with_everything_keeps_its_slots() -> None:
    document, name = flipped()
    nodes = {"a": Health.HEALTHY, "b": Health.UNHEALTHY}
    done, decision = after(document, View(nodes, rows={("a", name): Row("sent")}))
    assert [event.kind for event in decision.events] == ["move-done"]
    assert held(done) == {"a": 8192, "b": 8192}


def test_a_giver_that_falls_leaves_the_slots_to_the_taker_and_one_that_is_silent_does_not() -> None:
    document, name = flipped()
    nodes = {"a": Health.UNHEALTHY, "b": Health.HEALTHY}
    rows = {("b", name): Row("awaited")}
    assert after(document, View(nodes, rows=rows))[0]["moves"] == document["moves"]
    done, _ = after(document, View(nodes, frozenset({"a"}), rows))
    assert (done["moves"], held(done)) == ([], {"a": 8192, "b": 8192})


def test_random_memberships_come_to_rest_at_fair_shares() -> None:
    """Nodes come, go and are weighed anew while slots move; every slot has one main in every topology."""
    dice = random.Random(11)
    for _ in range(2):
        names = list("abcdef")
        weights = dict.fromkeys(names[: dice.randint(2, 4)], 100)
        document = cluster(weights)
        for turn in range(100):
            if turn < 15 and dice.random() < 0.3:
                name = dice.choice(names)
                weights = {**weights, name: dice.choice([0, 50, 100])}
                if not any(weights.values()):
                    weights[name] = 100
                document = weighed(document, weights)
            nodes = {
                name: Health.UNHEALTHY if turn < 15 and dice.random() < 0.1 else Health.HEALTHY
                for name in weights
            }
            dead = frozenset(name for name in nodes if nodes[name] is Health.UNHEALTHY)
            rows: dict[tuple[str, str], Row] = {}
            kept = set()
            for move in document["moves"]:
                state = "streaming" if move["state"] == COPYING else dice.choice(["awaited", "open"])
                rows[move["to"], move["id"]] = Row(state)
                rows[move["from"], move["id"]] = Row("streaming" if state == "streaming" else "handing")
                if state == "awaited" and dice.random() < 0.5:
                    kept.add(move["id"])
            document, _decision = after(document, View(nodes, dead, rows, frozenset(kept)), Limits(1, 3000))
            slots = sorted(slot for group in document["slots"] for slot in slots_in(group["ranges"]))
            assert slots == list(range(16384))
            if turn > 15 and not document["moves"] and not steps(document):
                break
        else:
            raise AssertionError("it does not come to rest")
        total = sum(weights.values())
        for name, weight in weights.items():
            share = 16384 * weight / total
            assert share - 1 <= held(document).get(name, 0) <= share + 1


def test_of_a_million_keys_the_fifth_node_gets_a_fifth_and_nothing_else_moves() -> None:
    """The audit of movement and evenness by keys, as clients see them, not by slots."""
    keys = 1_000_000
    before = cluster(dict.fromkeys("abcd", 100))
    after = weighed(before, dict.fromkeys("abcde", 100))
    had, has = moves.mains_of(before), moves.target(after)
    in_slot = Counter(_core.slot_of(f"user:{number}:profile") for number in range(keys))
    moved = {slot: count for slot, count in in_slot.items() if had[slot] != has[slot]}
    assert {has[slot] for slot in moved} == {"e"}, "nobody but the newcomer gets anything"
    assert sum(moved.values()) <= 1.02 * keys / 5
    held = Counter[str]()
    for slot, found in in_slot.items():
        held[has[slot]] += found
    assert max(held.values()) <= 1.05 * keys / 5
    assert min(held.values()) >= 0.95 * keys / 5
    print(f"{sum(moved.values()) / (keys / 5):.4f} of the ideal moved; {max(held.values()) / (keys / 5):.4f}")

"""Who becomes main, replica and learner, as tables: what is known, and what follows from it."""

import pytest

from fastcache.health.evidence import Evidence, Report, Row
from fastcache.health.groups import Document, first_to_hear
from fastcache.health.links import Link, after_row
from fastcache.health.roles import Decision, NodeView, View, Wish, assign
from fastcache.model import Health

UP, DOWN = Health.HEALTHY, Health.UNHEALTHY
EPOCH = 7


def document(*slots: Document, runs: str = "") -> Document:
    """A topology of a, b and c in their first lives; `runs` as `b=b1` for later ones."""
    lives = {name: f"{name}0" for name in "abc"} | dict(pair.split("=") for pair in runs.split())
    return {
        "epoch": EPOCH,
        "nodes": [{"id": name, "run": run} for name, run in lives.items()],
        "slots": list(slots),
    }


def group(
    main: str, replicas: str = "", learners: str = "", ranges: str = "0-9", keepers: str = ""
) -> Document:
    extra = {"learners": learners.split()} if learners else {}
    extra |= {"keepers": keepers.split()} if keepers else {}
    return {"main": main, "ranges": ranges, "replicas": replicas.split(), **extra}


def nodes(down: str = "", **others: NodeView) -> dict[str, NodeView]:
    known = {name: NodeView(DOWN if name in down.split() else UP, f"{name}0") for name in "abc"}
    return known | others


def link(
    state: str = "streaming", *, epoch: int = EPOCH, seq: int = 10, acked: int = 10, **more: object
) -> Link:
    return Link(epoch, state, seq, acked, **more)  # type: ignore[arg-type]


def leave_alone(slots: list[Document], _away: frozenset[str]) -> list[Document]:
    """Whoever holds a copy goes on holding it."""
    return [
        {**one, "replicas": list(dict.fromkeys([*one["replicas"], *one.get("learners", [])]))}
        for one in slots
    ]


def decide(before: Document, view: View) -> Decision:
    return assign(before, view, leave_alone)


def kinds(decision: Decision) -> list[str]:
    return [event.kind for event in decision.events]


STRICT_CASES = [
    # What is in force, who is down, and who is the main afterwards.
    (group("a", "b"), "", "a"),
    (group("a", "b"), "a", "b"),
    (group("a", "b c"), "a", "b"),
    (group("a", "b c"), "a b", "c"),
    (group("a", "b"), "a b", "a"),  # Both are gone: the slots stay where they are.
    (group("a", "", "b"), "a", "a"),  # A learner lacks what it lacks.
    (group("a", "b", "b"), "a", "a"),  # Joining: the main may not wait for it yet.
    (group("a", "b c", "b"), "a", "c"),
]


@pytest.mark.parametrize(("before", "down", "main"), STRICT_CASES)
def test_in_strict_mode_only_a_plain_replica_that_is_up_takes_over(
    before: Document, down: str, main: str
) -> None:
    view = View(nodes(down), strict=True)
    after = decide(document(before), view)
    assert [one["main"] for one in after.slots] == [main]
    if main != before["main"]:
        assert before["main"] in after.slots[0]["learners"], "the old main has to be filled again"
        assert main not in after.slots[0]["replicas"]


def test_the_other_replicas_stay_replicas_of_the_new_main() -> None:
    after = decide(document(group("a", "b c")), View(nodes("a"), strict=True, copies=2))
    assert after.slots == [group("b", "c", "a")]


def test_who_fell_with_the_main_is_not_waited_for_by_its_heir_and_may_still_save_the_slots() -> None:
    strict = {"strict": True, "copies": 2}
    after = decide(document(group("a", "b c")), View(nodes("a b"), **strict))  # type: ignore[arg-type]
    assert after.slots == [group("c", "", "b a", keepers="b a")]
    # The heir falls before anybody joined, and has lost its memory: it waits for who has it, and gives way.
    before, reborn = document(*after.slots), NodeView(UP, "c1")
    held = decide(before, View(nodes("a b", c=reborn), **strict))  # type: ignore[arg-type]
    assert [one["main"] for one in held.slots] == ["c"]
    lost = NodeView(UP, "b1")
    saved = decide(before, View(nodes("", b=lost, c=reborn), **strict))  # type: ignore[arg-type]
    assert [one["main"] for one in saved.slots] == ["a"]


def test_without_strictness_the_most_advanced_copy_takes_over_a_replica_before_a_learner() -> None:
    told = {("b", "a"): link(seq=5, run="a0"), ("c", "a"): link(seq=9, run="a0")}
    view = View(nodes("a"), links={("a", "c"): link(seq=12, acked=8)}, received=told, copies=2)
    after = decide(document(group("a", "b c")), view)
    assert after.slots[0]["main"] == "c"
    assert dict(after.events[0].fields)["lost"] == 3, "the main had told of 12, and c has 9"
    after = decide(document(group("a", "b", "c")), view)
    assert after.slots[0]["main"] == "b"
    after = decide(document(group("a", "", "c")), view)
    assert after.slots[0]["main"] == "c", "a copy that is complete beats none"
    copying = View(nodes("a"), received={("c", "a"): link("copying", seq=9, run="a0")})
    assert decide(document(group("a", "", "c")), copying).slots[0]["main"] == "a"


def test_a_main_that_restarted_gives_way_to_its_replica_although_it_answers() -> None:
    again = nodes(a=NodeView(UP, "a1"))
    after = decide(document(group("a", "b")), View(again, strict=True))
    assert after.slots == [group("b", "", "a")]
    assert after.runs["a"] == "a1"


def test_a_main_that_restarted_alone_is_taken_as_it_is_unless_what_it_lost_may_come_back() -> None:
    alone = View(nodes("b", a=NodeView(UP, "a1")), strict=True)
    assert decide(document(group("a")), alone).runs["a"] == "a1"
    waiting = decide(document(group("a", "b")), alone)
    assert waiting.runs["a"] == "a0", "b is away and has everything: a must not serve emptiness"
    assert waiting.slots == [group("a", "b")]
    for_good = View(nodes(a=NodeView(UP, "a1"), b=NodeView(DOWN, "b0", away=601)), strict=True)
    assert decide(document(group("a", "b")), for_good).runs["a"] == "a1"


def test_a_copy_that_was_let_go_just_before_its_main_restarted_saves_what_it_has() -> None:
    again = nodes(a=NodeView(UP, "a1"))
    whole = View(again, received={("b", "a"): link("connecting", seq=10, run="a0")}, strict=True)
    assert decide(document(group("a", "", "b")), whole).slots[0]["main"] == "b"
    for useless in (link("copying", seq=10, run="a0"), link("connecting", seq=10, run="a9")):
        view = View(again, received={("b", "a"): useless}, strict=True)
        assert decide(document(group("a", "", "b")), view).slots[0]["main"] == "a"


def test_the_last_replica_and_the_main_before_are_keepers_until_somebody_else_is_waited_for() -> None:
    silent = nodes(b=NodeView(UP, "b0", silent=True), c=NodeView(DOWN, "c0"))
    broken = {("a", "b"): link("connecting", broken_since=10.0, stalled_since=10.0)}
    let_go = decide(document(group("a", "b", "c")), View(silent, links=broken, now=10.4, strict=True))
    assert let_go.slots == [group("a", "", "c b", keepers="b")]
    fallen = decide(document(group("a", "b")), View(nodes("a"), strict=True))
    assert fallen.slots == [group("b", "", "a", keepers="a")]
    before = document(group("b", "", "a", keepers="a"))
    again = decide(before, View(nodes(a=NodeView(UP, "a1")), strict=True))
    assert again.slots == [group("b", "", "a")], "it has lost its memory"
    back = {("b", "a"): link()}
    joining = decide(before, View(nodes(), links=back, strict=True))
    assert joining.slots == [group("b", "a", "a", keepers="a")], "who waits for it does nothing without it"
    other = document(group("b", "", "a c", keepers="a"))
    joining = decide(other, View(nodes("a"), links={("b", "c"): link()}, strict=True))
    assert joining.slots == [group("b", "c", "a c", keepers="a")], "c may not have been waited for yet"
    joined = decide(document(*joining.slots), View(nodes("a"), links={("b", "c"): link()}, strict=True))
    assert joined.slots == [group("b", "c", "a")], "from now on it lacks what c has"


def test_the_last_replica_is_a_keeper_also_while_another_one_joins() -> None:
    stuck = {("a", "b"): link("connecting", broken_since=7.0, stalled_since=7.0)}
    stuck |= {("a", "c"): link("connecting", broken_since=9.5, stalled_since=9.5)}
    after = decide(document(group("a", "b c", "c")), View(nodes(), links=stuck, now=10.0, strict=True))
    assert after.slots == [group("a", "c", "c b", keepers="b")]
    again = nodes(a=NodeView(UP, "a1"))
    for told, heir in ((link("connecting", seq=-1, run=""), "b"), (link(seq=10, run="a0"), "c")):
        view = View(again, received={("c", "a"): told}, strict=True)
        assert decide(document(*after.slots), view).slots[0]["main"] == heir, (
            "whoever was waited for is whole"
        )


def test_a_keeper_saves_what_a_main_has_lost_also_while_it_is_brought_up_to_date() -> None:
    received = {("b", "a"): link("copying", seq=-1)}
    again = nodes(a=NodeView(UP, "a1"))
    before = document(group("a", "", "b c", keepers="b"))
    assert decide(before, View(again, received=received, strict=True)).slots[0]["main"] == "b"
    alive = decide(before, View(nodes("a"), received=received, strict=True))
    assert alive.slots[0]["main"] == "a", "a that is only silent may be answering reads"
    away = decide(before, View(again | nodes("b", a=NodeView(UP, "a1")), strict=True))
    assert away.slots[0]["main"] == "a"
    assert away.runs["a"] == "a0", "it waits for b"
    gone = nodes(a=NodeView(UP, "a1"), b=NodeView(UP, "b1"))
    assert decide(before, View(gone, strict=True)).runs["a"] == "a1"


def test_a_copy_that_advances_is_no_learner_in_strict_mode() -> None:
    before = document(group("a", "b"))
    seen: Link | None = None
    for second, sent in enumerate([5, 9, 12, 12, 40, 40, 41]):
        told = Link(EPOCH, "copying", run="a0", sent_bytes=sent)
        seen = after_row(seen, told, 10.0 + second)
        known = {("a", "b"): seen}
        for strict in (True, False):
            after = decide(before, View(nodes(), links=known, now=10.5 + second, strict=strict))
            kept = strict or second < 2
            assert after.slots == ([group("a", "b")] if kept else [group("a", "", "b", keepers="b")])
    assert seen is not None
    assert (
        decide(before, View(nodes(), links={("a", "b"): seen}, now=18.1, strict=True)).slots
        != before["slots"]
    )


def test_a_replica_that_restarted_or_fell_is_a_learner_before_its_main_goes_on_alone() -> None:
    for keepers, known in (("b", nodes("b")), ("", nodes(b=NodeView(UP, "b1")))):
        after = decide(document(group("a", "b")), View(known, strict=True))
        assert after.slots == [group("a", "", "b", keepers=keepers)]
        assert kinds(after) == ["grant"]
    both = decide(document(group("a", "b")), View(nodes("a", b=NodeView(UP, "b1")), strict=True))
    assert both.slots[0]["main"] == "a", "b has nothing any more"


def test_a_stream_that_stays_broken_makes_a_learner_and_asking_does_not_hurry_it() -> None:
    before = document(group("a", "b"))
    quiet = nodes(b=NodeView(UP, "b0", silent=True))
    broken = {("a", "b"): link("connecting", broken_since=10.0)}
    assert decide(before, View(quiet, links=broken, now=10.2)).slots == before["slots"]
    assert decide(before, View(quiet, links=broken, now=10.4)).slots == [group("a", "", "b", keepers="b")]
    old = {("a", "b"): link("connecting", epoch=6, broken_since=10.0)}
    assert decide(before, View(quiet, links=old, now=10.4)).slots == before["slots"], "under another topology"
    asked = View(quiet, links=broken, grants=frozenset({("a", "b")}), now=10.2)
    assert decide(before, asked).slots == before["slots"], "who asks may be about to fall itself"


def test_a_replica_that_answers_is_given_time_and_none_is_given_up_for_a_main_that_may_be_falling() -> None:
    before = document(group("a", "b"))
    for state in ("connecting", "copying"):
        broken = {("a", "b"): link(state, broken_since=10.0)}
        assert decide(before, View(nodes(), links=broken, now=11.9)).slots == before["slots"]
        assert decide(before, View(nodes(), links=broken, now=12.1)).slots == [
            group("a", "", "b", keepers="b")
        ]
        falling = nodes(a=NodeView(UP, "a0", silent=True))
        assert decide(before, View(falling, links=broken, now=19.0)).slots == before["slots"]


def test_a_replica_that_is_brought_up_to_date_may_be_promoted_and_a_learner_may_not() -> None:
    received = {("b", "a"): link("copying", seq=-1)}
    for strict in (True, False):
        seen = View(nodes("a"), received=received, strict=strict)
        assert decide(document(group("a", "b")), seen).slots[0]["main"] == "b"
        assert decide(document(group("a", "", "b")), seen).slots[0]["main"] == "a"


def test_a_learner_becomes_a_replica_in_two_steps_each_seen_under_the_topology_in_force() -> None:
    def steps(before: Document, seen: Link) -> list[Document]:
        return decide(document(before), View(nodes(), links={("a", "b"): seen})).slots

    learner, joining, plain = group("a", "", "b"), group("a", "b", "b"), group("a", "b")
    assert steps(learner, link()) == [joining]
    assert steps(joining, link()) == [plain]
    assert steps(learner, link(epoch=6)) == [learner]
    assert steps(joining, link(epoch=6)) == [joining], "the main has not said yet that it waits"
    assert steps(learner, link("copying")) == [learner]
    assert steps(joining, link(acked=9, floor=10)) == [joining], "something of before is missing"
    assert steps(joining, link(seq=20, acked=10, floor=10)) == [plain]


def test_a_floor_holds_until_the_topology_or_the_run_changes() -> None:
    first = after_row(None, link(seq=5, acked=1, run="a0"), 1.0)
    assert (first.floor, first.in_sync) == (5, False)
    second = after_row(first, link(seq=9, acked=6, run="a0"), 1.3)
    assert (second.floor, second.in_sync) == (5, True)
    assert after_row(second, link(epoch=8, seq=9, acked=6, run="a0"), 1.6).floor == 9
    assert after_row(second, link(seq=2, acked=2, run="a1"), 1.6).floor == 2


def test_a_pause_stops_promotions_and_new_copies_but_no_grants() -> None:
    def paused(down: str) -> View:
        return View(nodes(down), strict=True, paused=True)

    assert decide(document(group("a", "b")), paused("a")).slots == [group("a", "b")]
    assert decide(document(group("a", "b")), paused("b")).slots == [group("a", "", "b", keepers="b")]


def test_an_operator_moves_a_main_to_a_copy_in_sync_and_to_another_only_by_force() -> None:
    before = document(group("a", "b"), group("a", "", "c", "10-19"))
    after = decide(before, View(nodes(), strict=True, wish=Wish("a")))
    assert [one["main"] for one in after.slots] == ["a", "b"], "in the order of a topology"
    after = decide(before, View(nodes(), strict=True, wish=Wish("a", "c", force=True)))
    assert {one["ranges"]: one["main"] for one in after.slots} == {"0-9": "a", "10-19": "c"}


def test_an_operator_moves_only_the_slots_he_names() -> None:
    before = document(group("a", "b"), group("a", "c", "", "10-19"), group("b", "a", "", "20-29"))
    wish = Wish("a", "b", slots=frozenset((3, 4, 12, 25)))
    after = decide(before, View(nodes(), strict=True, wish=wish))
    assert {one["ranges"]: one["main"] for one in after.slots} == {
        "0-2,5-9": "a",
        "10-19": "a",
        "3-4": "b",
        "20-29": "b",
    }
    # Slots that b does not hold, or that are not a's, stay; and then the topology is word for word the same.
    wish = Wish("a", "b", slots=frozenset((12, 25)))
    assert decide(before, View(nodes(), strict=True, wish=wish)).slots == before["slots"]


def test_nobody_waits_for_a_copy_that_is_about_to_stop() -> None:
    before = document(group("b", "a"), group("a", "b", "", "10-19"))
    leaving = View(nodes(), leaving=frozenset("a"), wish=Wish("a"))
    after = decide(before, leaving)
    assert {one["ranges"]: (one["main"], one["replicas"]) for one in after.slots} == {"0-19": ("b", [])}
    links = {("b", "a"): link(epoch=EPOCH)}
    learning = document(group("b", "", "a", "0-19"))
    assert decide(learning, View(nodes(), links=links, leaving=frozenset("a"))).slots == learning["slots"]
    assert decide(learning, View(nodes(), links=links)).slots[0]["replicas"] == ["a"], "once it stays"


def test_who_stays_away_is_replaced_and_goes_once_the_new_copy_is_in_sync() -> None:
    def on_c(slots: list[Document], away: frozenset[str]) -> list[Document]:
        assert away == {"b"}
        return [{**one, "replicas": ["c"]} for one in slots]

    gone = nodes(b=NodeView(DOWN, "b0", away=700))
    after = assign(document(group("a", "", "b")), View(gone), on_c)
    assert after.slots == [group("a", "", "c")]
    after = assign(
        document(group("a", "b", "c")),
        View(nodes(b=NodeView(DOWN, "b0", away=700), c=NodeView(UP, "c0"))),
        on_c,
    )
    assert after.slots == [group("a", "", "c")]


def test_slots_of_a_node_that_left_go_to_its_replica() -> None:
    left = {name: view for name, view in nodes().items() if name != "a"}
    after = decide(document(group("a", "b")), View(left, strict=True))
    assert after.slots == [group("b")]


def test_groups_with_one_fate_are_one_and_told_once() -> None:
    before = document(group("a", "b", ranges="0-9"), group("a", "b", "b", "10-19"))
    after = decide(before, View(nodes(), links={("a", "b"): link()}))
    assert after.slots == [group("a", "b", ranges="0-19")]
    after = decide(document(group("a", "b"), group("a", "b", "c", "10-19")), View(nodes("a"), strict=True))
    (event,) = [one for one in after.events if one.kind == "failover"]
    assert dict(event.fields)["slots"] == 20


def test_new_mains_hear_first() -> None:
    before = document(group("a", "b"), group("b", "c", ranges="10-19"))
    after = document(group("b", "", "a"), group("b", "c", ranges="10-19"))
    assert first_to_hear(before, after) == ("b",)
    assert first_to_hear(before, before) == ()
    assert first_to_hear({}, after) == (), "in a new cluster nobody is replaced"


def test_a_copy_that_its_main_does_not_mention_is_broken() -> None:
    evidence = Evidence()
    before = document(group("a", "b"))
    assert evidence.take(Report("a", "a0", EPOCH), before, 5.0)
    assert evidence.links["a", "b"].broken_since == 5.0
    assert evidence.take(Report("a", "a0", EPOCH, (Row("b", True, "streaming", "a0", 3, 3),)), before, 6.0)
    assert evidence.links["a", "b"].in_sync
    assert not evidence.take(
        Report("a", "a0", EPOCH, (Row("b", True, "streaming", "a0", 9, 9),)), before, 7.0
    )


def test_requests_count_under_the_topology_in_which_they_were_made() -> None:
    evidence = Evidence()
    evidence.ask("a", "b", 7)
    assert evidence.grants(7) == {("a", "b")}
    assert evidence.grants(8) == frozenset()
    evidence.forget("b")
    assert evidence.grants(7) == frozenset()

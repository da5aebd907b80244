"""Turns of hosts and budgets of racks: what is promised of them, by examples and by drawn inventories."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcache.runbook import turns as rules

HOSTS = ["h1", "h2", "h3", "h4"]
RACKS = {"h1": "r1", "h2": "r2", "h3": "r1", "h4": "r2"}


@st.composite
def inventories(draw: st.DrawFn) -> dict[str, Any]:
    """Hosts in racks with budgets, some of them away."""
    count = draw(st.integers(1, 12))
    hosts = draw(st.permutations([f"h{number}" for number in range(count)]))
    racks = {host: f"r{draw(st.integers(0, 3))}" for host in hosts}
    budgets = {rack: draw(st.integers(1, 4)) for rack in sorted(set(racks.values()))}
    away = draw(st.sets(st.sampled_from(hosts)))
    return {"hosts": hosts, "racks": racks, "budgets": budgets, "away": away}


@given(inventories())
def test_every_host_has_one_turn_within_its_racks_budget(drawn: dict[str, Any]) -> None:
    found = rules.turns(**drawn)
    assert sorted(host for turn in found for host in turn) == sorted(drawn["hosts"])
    for turn in found:
        (rack,) = {drawn["racks"][host] for host in turn}
        assert len(turn) <= drawn["budgets"][rack]


@given(inventories())
def test_no_turn_could_be_saved(drawn: dict[str, Any]) -> None:
    racks = list(drawn["racks"].values())
    least = sum(-(-racks.count(rack) // budget) for rack, budget in drawn["budgets"].items())
    assert len(rules.turns(**drawn)) == least


@given(inventories())
def test_a_rack_is_done_before_the_next_one_begins_when_any_budget_allows_more(drawn: dict[str, Any]) -> None:
    order = [drawn["racks"][turn[0]] for turn in rules.turns(**drawn)]
    starts = [rack for nth, rack in enumerate(order) if nth == 0 or order[nth - 1] != rack]
    if max(drawn["budgets"].values()) > 1:
        assert len(starts) == len(set(starts))


@given(inventories())
def test_with_a_budget_of_one_hosts_go_one_by_one_as_they_stand(drawn: dict[str, Any]) -> None:
    budgets = dict.fromkeys(drawn["budgets"], 1)
    found = rules.turns(drawn["hosts"], drawn["racks"], budgets, drawn["away"])
    assert found == [[host] for host in drawn["hosts"]]


@given(inventories())
def test_a_turn_begins_only_where_all_that_is_away_is_of_one_rack_and_within_its_budget(
    drawn: dict[str, Any],
) -> None:
    racks, budgets, away = drawn["racks"], drawn["budgets"], drawn["away"]
    for turn in rules.turns(**drawn):
        gone = away | set(turn)
        fits = {racks[host] for host in gone} == {racks[turn[0]]} and len(gone) <= budgets[racks[turn[0]]]
        assert (rules.in_the_way(turn, racks, budgets, away) == "") is fits


def test_hosts_of_a_rack_go_together_as_many_as_the_budget_says() -> None:
    assert rules.turns(HOSTS, RACKS, {"r1": 2, "r2": 2}) == [["h1", "h3"], ["h2", "h4"]]
    assert rules.turns(HOSTS, RACKS, {"r1": 2, "r2": 1}) == [["h1", "h3"], ["h2"], ["h4"]]
    assert rules.turns(HOSTS, RACKS, {}) == [["h1"], ["h2"], ["h3"], ["h4"]]


def test_the_turn_of_a_host_that_failed_comes_first_it_may_mend_it() -> None:
    assert rules.turns(HOSTS, RACKS, {"r1": 2, "r2": 2}, {"h4"}) == [["h4", "h2"], ["h1", "h3"]]


@pytest.mark.parametrize(
    ("turn", "away", "budget", "why"),
    [
        ([], [], 1, ""),
        (["h1"], [], 1, ""),
        ([], ["h1"], 1, "rack r1 may miss 1 of its hosts at once"),
        ([], ["h1"], 2, ""),
        ([], ["h1", "h3"], 2, "rack r1 may miss 2"),
        (["h1", "h3"], ["h1"], 2, ""),
        (["h1", "h3"], ["h2"], 2, "h1, h2, h3 would be away at once, of racks r1, r2; not well: h2"),
        ([], ["h1", "h2"], 3, "of racks r1, r2"),
        (["h1", "h2"], [], 2, "of racks r1, r2; all are well"),
    ],
)
def test_what_failed_counts_against_the_budget(
    turn: list[str], away: list[str], budget: int, why: str
) -> None:
    said = rules.in_the_way(turn, RACKS, {"r1": budget, "r2": budget}, away)
    assert why in said if why else said == ""


def test_a_host_is_away_when_one_of_its_members_is_not_healthy_or_not_known() -> None:
    members = [{"name": f"{kind}-{host}", "host": host} for kind in ("node", "proxy") for host in HOSTS]
    told = [{"nodeId": one["name"], "status": "HEALTHY"} for one in members]
    assert rules.away_of(members, told) == []
    told[5]["status"] = "UNHEALTHY"
    assert rules.away_of(members, told[1:]) == ["h1", "h2"]


# --- what an inventory says -------------------------------------------------------------------------


def test_a_rack_has_the_smallest_budget_that_its_hosts_say_and_one_where_they_say_none() -> None:
    hostvars = {
        "h1": {"fastcache_rack": "r1", "fastcache_rack_budget": 3},
        "h3": {"fastcache_rack": "r1", "fastcache_rack_budget": "2"},
        "h2": {},
    }
    assert rules.budgets_of(hostvars, hostvars) == {"r1": 2, "h2": 1}


@pytest.mark.parametrize("said", [0, "0", -1, "two", 1.5, ""])
def test_a_budget_that_is_no_number_of_hosts_is_refused(said: object) -> None:
    with pytest.raises(ValueError, match="fastcache_rack_budget of h1 is"):
        rules.budgets_of(["h1"], {"h1": {"fastcache_rack_budget": said}})


SIX = {f"h{number}": f"r{number % 3}" for number in range(6)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"budgets": {"r0": 1, "r1": 1, "r2": 1}, "copies": 0}, ""),
        ({"unsaid": ["h5", "h4"]}, "nobody has said in which rack stand h4, h5"),
        ({"copies": 0}, "there are no copies"),
        ({"copies": 3}, "where 4 racks have nodes; 3 have"),
        ({"nodes": ["h0", "h3"]}, "where 3 racks have nodes; 1 have"),
        ({"nodes": [*SIX, "h0"]}, "rack r0 has 3 of 7 nodes"),
        ({"proxies": ["h0", "h3"]}, "all proxies stand in rack r0"),
        ({"proxies": []}, ""),
        ({"pairs": True}, "both nodes of a pair may stand in one rack"),
    ],
)
def test_a_budget_that_copies_and_racks_cannot_bear_is_refused_with_what_to_do(
    change: dict[str, Any], why: str
) -> None:
    given_ = {"nodes": list(SIX), "proxies": list(SIX), "racks": SIX, "budgets": {"r0": 2}, "copies": 2}
    found = rules.refused(**given_ | change)
    assert len(found) == bool(why), found
    for sentence in found:
        assert why in sentence
        assert sentence.endswith("or leave fastcache_rack_budget at 1")

"""In which turns a change takes the hosts, when a turn may begin, and which budgets are refused. Pure.

A rack's budget says how many of its hosts may be away at once, whatever for: because it is their turn, or
because they failed. Hosts of two racks are never away at once: copies are kept in other racks, so that what
is away with one rack is whole in the others. Both the runbook (rolling.py) and the playbooks go by this file;
these load it by its path (roles/fastcache/filter_plugins), so it imports nothing but the standard library.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

BUDGET, RACK = "fastcache_rack_budget", "fastcache_rack"
#: What an inventory means that says nothing: host by host.
DEFAULT_BUDGET = 1
ADVICE = f"or leave {BUDGET} at {DEFAULT_BUDGET}"


def racks_of(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The rack of each host; one of which nothing is said fails alone."""
    return {host: str(hostvars.get(host, {}).get(RACK, host)) for host in hosts}


def budgets_of(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The budget of each rack: where its hosts say different ones, the smallest."""
    budgets: dict[str, int] = {}
    for host, rack in racks_of(hosts, hostvars).items():
        said = str(hostvars.get(host, {}).get(BUDGET, DEFAULT_BUDGET))
        if not said.isdecimal() or int(said) < 1:
            raise ValueError(
                f"{BUDGET} of {host} is {said}: it is a number of hosts that may be away at once, 1 or more"
            )
        budgets[rack] = min(int(said), budgets.get(rack, int(said)))
    return budgets


def turns(
    hosts: Sequence[str], racks: Mapping[str, str], budgets: Mapping[str, int], away: Collection[str] = ()
) -> list[list[str]]:
    """The hosts in groups that go together, one group after another.

    With budgets of one the order stays as it is. Otherwise a rack is done before the next one begins: racks
    of hosts that are `away` first, and such hosts first of their rack, for their turn may be what mends them.
    """
    if all(budgets.get(racks[host], DEFAULT_BUDGET) == 1 for host in hosts):
        return [[host] for host in hosts]
    by_rack: dict[str, list[str]] = {}
    for host in hosts:
        by_rack.setdefault(racks[host], []).append(host)
    found = []
    for rack in sorted(by_rack, key=lambda rack: not any(host in away for host in by_rack[rack])):
        members = sorted(by_rack[rack], key=lambda host: host not in away)
        size = budgets.get(rack, DEFAULT_BUDGET)
        found += [members[first : first + size] for first in range(0, len(members), size)]
    return found


def in_the_way(
    turn: Collection[str], racks: Mapping[str, str], budgets: Mapping[str, int], away: Collection[str]
) -> str:
    """Why this turn may not begin while some hosts are away; empty when it may.

    Without hosts in the turn it is asked whether there is room for any turn at all.
    """
    gone = sorted({*turn, *away})
    places = sorted({racks[host] for host in gone})
    if not gone:
        return ""
    failed = f"not well: {', '.join(sorted(away))}" if away else "all are well"
    if len(places) > 1:
        return f"{', '.join(gone)} would be away at once, of racks {', '.join(places)}; {failed}"
    budget = budgets.get(places[0], DEFAULT_BUDGET)
    if len(gone) > budget - (not turn):
        rest = "one host or more for the turn" if not turn else ", ".join(sorted(turn))
        return (
            f"rack {places[0]} may miss {budget} of its hosts at once ({BUDGET}), and this is too many: "
            f"{failed}; the turn is of {rest}"
        )
    return ""


def away_of(members: Iterable[Mapping[str, Any]], told: Iterable[Mapping[str, Any]]) -> list[str]:
    """The hosts of those members that the health service, by what it told of each, does not call healthy."""
    healthy = {one["nodeId"] for one in told if one["status"] == "HEALTHY"}
    return sorted({str(one["host"]) for one in members if one["name"] not in healthy})


def refused(
    nodes: Sequence[str],
    proxies: Collection[str],
    racks: Mapping[str, str],
    budgets: Mapping[str, int],
    copies: int,
    unsaid: Collection[str] = (),
    *,
    pairs: bool = False,
) -> list[str]:
    """Why budgets of more than one host are not safe here, a sentence each with what to do.

    `nodes`: the host of every node; `proxies`: of every proxy; `unsaid`: hosts whose rack nobody has said;
    `pairs`: copies are placed in pairs of nodes, which keep off one another's hosts and know no racks.
    """
    large = sorted(rack for rack, budget in budgets.items() if budget > 1)
    if not large:
        return []
    wanted = f"{BUDGET} is {max(budgets.values())}"
    found = []
    if unsaid:
        found.append(
            f"{wanted}, and nobody has said in which rack stand {', '.join(sorted(unsaid))}: give each host "
            f"{RACK}, the same to those that fail together, {ADVICE}"
        )
    if copies < 1:
        found.append(
            f"{wanted}, and there are no copies: the keys of all hosts of a turn would be away. Have "
            f"fastcache_replicas of 1 or more, {ADVICE}"
        )
    if pairs:
        found.append(
            f"{wanted}, and replica-placement is pairs: both nodes of a pair may stand in one rack. Have "
            f"copies placed by the ring, {ADVICE}"
        )
    return found + crowded(nodes, proxies, racks, copies, wanted)


def crowded(
    nodes: Sequence[str], proxies: Collection[str], racks: Mapping[str, str], copies: int, wanted: str
) -> list[str]:
    """Racks that are too few, or hold too much, for the others to serve without one of them."""
    found = []
    places = [racks[host] for host in nodes]
    needed = copies + 1
    if copies >= 1 and len(set(places)) < needed:
        found.append(
            f"{wanted}, and with fastcache_replicas of {copies} every copy of a key can only stand in a rack "
            f"of its own where {needed} racks have nodes; {len(set(places))} have. Spread the hosts over "
            f"more racks ({RACK}), have fewer copies, {ADVICE}"
        )
    elif copies >= 1:
        found += [
            f"{wanted}, and rack {rack} has {places.count(rack)} of {len(places)} nodes: the other racks "
            f"have no room for copies of them all. Give no rack more than {len(places)}/{needed} of the "
            f"nodes, {ADVICE}"
            for rack in sorted(set(places))
            if places.count(rack) * needed > len(places)
        ]
    fronts = {racks[host] for host in proxies}
    if len(fronts) == 1:
        found.append(
            f"{wanted}, and all proxies stand in rack {fronts.pop()}: with a turn there clients might find "
            f"none. Have proxies in another rack, too, {ADVICE}"
        )
    return found

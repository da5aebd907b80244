"""Turns of a change and their rules, for playbooks: what fastcache/runbook/turns.py decides.

That file is taken by its path: a controller needs Ansible and this project, but no FastCache installed.
"""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
rules = SimpleNamespace(**runpy.run_path(str(PROJECT / "fastcache" / "runbook" / "turns.py")))

Groups = Mapping[str, Sequence[str]]
Hostvars = Mapping[str, Mapping[str, Any]]


def turns(groups: Groups, group: str, hostvars: Hostvars) -> list[list[str]]:
    """The hosts of a group that a play has made, in turns; the group itself while nobody is in it.

    Such a group has its hosts in the order in which they answered; turns go by the inventory's. Who was away
    when the change began is in the group fastcache_away.
    """
    if not groups.get(group):
        return [[group]]
    hosts = [host for host in groups["all"] if host in groups[group]]
    racks, budgets = rules.racks_of(hosts, hostvars), rules.budgets_of(hosts, hostvars)
    found: list[list[str]] = rules.turns(hosts, racks, budgets, groups.get("fastcache_away", ()))
    return found


def unsafe_budgets(groups: Groups, hostvars: Hostvars) -> list[str]:
    """Why the budgets of the inventory are not safe, a sentence each."""
    nodes, proxies = groups.get("nodes", []), groups.get("proxies", [])
    hosts = list(dict.fromkeys([*nodes, *proxies, *groups.get("health", [])]))
    try:
        budgets = rules.budgets_of(hosts, hostvars)
    except ValueError as error:
        return [str(error)]
    # As roles/fastcache/defaults: one copy where there is another host.
    usual = min(1, len(nodes) - 1)
    copies = min((int(hostvars[host].get("fastcache_replicas", usual)) for host in nodes), default=0)
    racks = rules.racks_of(hosts, hostvars)
    unsaid = [host for host in hosts if rules.RACK not in hostvars[host]]
    every = [host for host in nodes for _ in range(int(hostvars[host].get("fastcache_node_count", 1)))]
    settings = [hostvars[host].get("fastcache_health_settings", {}) for host in groups.get("health", ())]
    pairs = any(one.get("replica-placement") == "pairs" for one in settings)
    found: list[str] = rules.refused(every, proxies, racks, budgets, copies, unsaid, pairs=pairs)
    return found


def rack_budgets(hosts: Sequence[str], hostvars: Hostvars) -> dict[str, int]:
    """The budget of each rack."""
    found: dict[str, int] = rules.budgets_of(hosts, hostvars)
    return found


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self) -> dict[str, Any]:
        return {
            "fastcache_turns": turns,
            "fastcache_rack_budgets": rack_budgets,
            "fastcache_unsafe_budgets": unsafe_budgets,
        }

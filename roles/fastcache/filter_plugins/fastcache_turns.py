"""Turns of a change and their rules, for playbooks: what fastcache/runbook/turns.py decides.

That file is taken by its path: a controller needs Ansible and this project, but no FastCache installed.
"""

import runpy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
rules = SimpleNamespace(**runpy.run_path(str(PROJECT / "fastcache" / "runbook" / "turns.py")))

Hostvars = Mapping[str, Mapping[str, Any]]


def turns(hosts: Sequence[str], hostvars: Hostvars, away: Collection[str] = ()) -> list[list[str]]:
    """The hosts in groups that go together."""
    racks, budgets = rules.racks_of(hosts, hostvars), rules.budgets_of(hosts, hostvars)
    found: list[list[str]] = rules.turns(hosts, racks, budgets, away)
    return found


def rack_budgets(hosts: Sequence[str], hostvars: Hostvars) -> dict[str, int]:
    """The budget of each rack."""
    found: dict[str, int] = rules.budgets_of(hosts, hostvars)
    return found


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"fastcache_turns": turns, "fastcache_rack_budgets": rack_budgets}

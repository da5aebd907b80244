"""Wait until a change may go on: the hosts that are away leave room for its next turn.

    turn      these hosts are next; without any, whether there is room for any turn
    renewed   these hosts had theirs, and must be well again, whatever others may miss
    needed    false: only say who is away

The health service is asked from a host of its own, by ansible.builtin.uri; what its answer means is decided
here, by fastcache/runbook/turns.py, which is taken by its path, as by the filters.
"""

import json
import runpy
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.plugins.action import ActionBase

PROJECT = Path(__file__).resolve().parents[3]
rules = SimpleNamespace(**runpy.run_path(str(PROJECT / "fastcache" / "runbook" / "turns.py")))
#: Between two looks, and how long a look may take.
PAUSE, LOOK = 1.0, 10
ARGUMENTS = ("health", "members", "authority", "turn", "renewed", "needed", "seconds")
ADVICE = "`fastcache status` tells more; nobody else was touched"


class ActionModule(ActionBase):  # type: ignore[misc]
    """fastcache_room, as tasks call it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, known = self._task.args, task_vars or {}
        if unknown := set(given) - set(ARGUMENTS):
            return result | {"failed": True, "msg": f"fastcache_room knows no {', '.join(sorted(unknown))}"}
        if self._task.check_mode:
            return result | {"changed": False, "away": []}
        hosts = {str(one["host"]) for one in given["members"]} | set(given.get("turn", ()))
        racks, budgets = rules.racks_of(hosts, known["hostvars"]), rules.budgets_of(hosts, known["hostvars"])
        deadline = time.monotonic() + float(given.get("seconds", 120))
        while True:
            why, away = self.look(given, racks, budgets, known)
            if not why or time.monotonic() > deadline:
                break
            time.sleep(PAUSE)
        result |= {"changed": False, "away": away}
        if why and given.get("needed", True):
            return result | {"failed": True, "msg": f"{why}. {ADVICE}"}
        return result

    def look(
        self, given: dict[str, Any], racks: dict[str, str], budgets: dict[str, int], known: dict[str, Any]
    ) -> tuple[str, list[str]]:
        """Why the change may not go on now, and who is away."""
        asked = {"url": f"{given['health']}/health/nodes", "return_content": True, "timeout": LOOK}
        if given.get("authority"):
            asked["ca_path"] = given["authority"]
        answer = self._execute_module("ansible.builtin.uri", module_args=asked, task_vars=known)
        if answer.get("failed") or "content" not in answer:
            return f"the health service does not answer: {answer.get('msg', 'no reason told')}", []
        away = rules.away_of(given["members"], json.loads(answer["content"]))
        if not given.get("needed", True):
            return "", away
        return judged(given, racks, budgets, away), away


def judged(given: dict[str, Any], racks: dict[str, str], budgets: dict[str, int], away: list[str]) -> str:
    """Why the change may not go on while these hosts are away; empty when it may."""
    if still := sorted(set(given.get("renewed", ())) & set(away)):
        return f"not well again after their turn: {', '.join(still)}"
    why: str = rules.in_the_way(given.get("turn", ()), racks, budgets, away)
    return why

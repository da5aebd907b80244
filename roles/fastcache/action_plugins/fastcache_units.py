"""Ask a host about units only where something may be to do, by what was seen there when the run began.

The module of the same name (roles/fastcache/library) starts, renews and stops. Here, units that all ran as
they are to when fastcache_look saw them, with nothing younger than their start, are not asked about again:
a module's start costs a host about 0.2 s of CPU, and in a run that changes nothing that was most of the work.

That is done only where a playbook asks every service itself at its end (fastcache_asked_at_the_end), so that
one that fell in between is found, and only as long as nothing was written on the host since it was looked at.
"""

import re
from fnmatch import fnmatchcase
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

#: Where deployments put units and their drop-ins.
DEFINITIONS = "/etc/systemd/system"
#: Left by the module when it had them read.
READ_MARK = "/run/fastcache-units-read"
KINDS = ("started", "stopped", "enabled", "stale", "restarts", "renewed")


class ActionModule(ActionBase):  # type: ignore[misc]
    """fastcache_units, as tasks call it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        seen = (variables.get("ansible_facts") or {}).get("fastcache_seen") or {}
        arguments = self._task.args
        asked_later = self._templar.template(variables.get("fastcache_asked_at_the_end", False))
        if boolean(asked_later, strict=False) and nothing_to_do(arguments, seen):
            return result | {"changed": False, "unfinished": False, **{kind: [] for kind in KINDS}}
        result |= self._execute_module(task_vars=task_vars)
        if result.get("changed") and seen:
            result["ansible_facts"] = {"fastcache_seen": {**seen, "units": {}}}
        return result


def nothing_to_do(arguments: dict[str, Any], seen: dict[str, Any]) -> bool:
    """Whether the module would find all as it is to be."""
    units, known, ages = arguments.get("units"), seen.get("units"), seen.get("ages")
    if not (isinstance(units, list) and units and known and ages):
        return False
    unfinished, looked = arguments.get("unfinished"), seen.get("looked", [])
    if unfinished and (unfinished in ages or not any(fnmatchcase(unfinished, pattern) for pattern in looked)):
        return False  # A run that was killed left something to finish, or may have.
    read_ago = min(seen["units_read"], ages.get(READ_MARK, seen["units_read"]))
    if any(age < read_ago for path, age in ages.items() if path.startswith(f"{DEFINITIONS}/")):
        return False  # systemd has not read it yet.
    return all(is_settled(unit, known.get(unit["name"]), ages) for unit in units)


def is_settled(unit: dict[str, Any], now: dict[str, Any] | None, ages: dict[str, float]) -> bool:
    """Whether a unit runs as it is to, and reads nothing that is younger than its start."""
    if now is None or now["active"] != "active" or unit.get("state", "started") != "started":
        return False
    wanted = unit.get("enabled")
    if wanted is not None and wanted is not (now["enabled"] in ("enabled", "enabled-runtime", "static")):
        return False
    reads, at_start = unit.get("reads", []), unit.get("reads_at_start", [])
    if any(path not in ages for path in (*reads, *at_start)):
        return False
    if any(ages[path] < now["started"] for path in (*at_start, *definitions(unit["name"], ages))):
        return False
    reloaded = ages.get(f"/run/fastcache-reloaded-{unit['name']}") if unit.get("reload") else None
    read_ago = now["started"] if reloaded is None else min(now["started"], reloaded)
    return not any(ages[path] < read_ago for path in reads)


def definitions(name: str, ages: dict[str, float]) -> list[str]:
    """The unit's own files: of an instance (node@7001.service) also those of its template (node@.service)."""
    both = {name, re.sub(r"@[^.]*\.", "@.", name)}
    patterns = [
        pattern for one in both for pattern in (f"{DEFINITIONS}/{one}", f"{DEFINITIONS}/{one}.d/*.conf")
    ]
    return [path for path in ages if any(fnmatchcase(path, pattern) for pattern in patterns)]

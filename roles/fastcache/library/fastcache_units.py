#!/usr/bin/python
"""Bring systemd units into the state they should have, with one trip to the host.

Which units must start again is not remembered from task to task, as handlers do (and lose when a run is
killed): it is seen on the host. A unit is out of date when a file it reads is younger than its start. So the
next run finishes what a killed one left, and a run in which nothing changed restarts nothing.
"""

import glob
import os
import re
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_units
short_description: Start, renew and stop systemd units by what is true on the host
options:
  units:
    description: The units, in the order in which they are handled.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The unit's full name.
        type: str
        required: true
      reads:
        description: Files read when it starts (a link counts as itself); a younger one makes it out of date.
        type: list
        elements: path
        default: []
      state:
        description: Whether it shall run (and at every boot) or not.
        type: str
        choices: [started, stopped]
        default: started
      enabled:
        description: Whether it starts at boot by itself; instances started by their target do not.
        type: bool
      reload:
        description: >-
          Renew it by a reload, which loses no connection, instead of a restart. A service whose status tells
          how often it was renewed is waited for.
        type: bool
        default: false
      reads_at_start:
        description: Files that a reload does not read again, such as credentials; these take a restart.
        type: list
        elements: path
        default: []
  renew:
    description: >-
      Restart (or reload) units that are out of date; otherwise they are only reported, so that a later play
      can renew them host by host.
    type: bool
    default: true
  unfinished:
    description: >-
      A file on the host that stands for a renewal that has begun; that it is there is reported, so that
      the run after one that was killed can finish it.
    type: path
  unfinished_until_level:
    description: >-
      Write that file before a unit is started, too: whoever asks for it gives the services their share of
      the work later, and removes it then.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run the nodes
  fastcache_units:
    units:
      - name: fastcache-node@7001.service
        reads: [/etc/fastcache/node-7001.toml, /opt/fastcache/current]
    renew: false
"""

RETURN = r"""
started:
  description: Units that were started.
  type: list
  returned: always
stale:
  description: Units that run with older files than are on the host now.
  type: list
  returned: always
restarts:
  description: Those of the stale ones that take a restart; a reload does for the others.
  type: list
  returned: always
renewed:
  description: Units that were restarted or reloaded.
  type: list
  returned: always
unfinished:
  description: Whether the file of that name is there.
  type: bool
  returned: always
"""

UNIT = {
    "name": {"type": "str", "required": True},
    "reads": {"type": "list", "elements": "path", "default": []},
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "enabled": {"type": "bool"},
    "reload": {"type": "bool", "default": False},
    "reads_at_start": {"type": "list", "elements": "path", "default": []},
}

PROPERTIES = "ActiveState,UnitFileState,InactiveExitTimestampMonotonic"

#: How a service that renews itself in place tells in its status how often it did, and could not.
RENEWED = re.compile(r"renewed (\d+) times(?:, refused (\d+) \((.*)\))?")
RENEWAL_SECONDS = 90

#: Where deployments put units and their drop-ins.
DEFINITIONS = "/etc/systemd/system"
#: As old as the last reading of them that was had here; a restart of the host, which reads all, removes it.
READ_MARK = "/run/fastcache-units-read"


class Systemd:
    """systemctl, with failures told in the operator's words."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def do(self, *words: str) -> str:
        code, out, err = self.module.run_command(["systemctl", *words])
        if code:
            unit = words[-1]
            journal = self.module.run_command(
                ["journalctl", "--unit", unit, "--lines", "8", "--no-pager", "--output", "cat"]
            )
            said = journal[1].strip()
            self.module.fail_json(
                msg=f"systemctl {' '.join(words)}: {err.strip() or out.strip()}\n{unit} said:\n{said}"
            )
        return str(out)

    def show(self, names: list[str]) -> dict[str, dict[str, str]]:
        blocks = self.do("show", f"--property={PROPERTIES}", *names).strip().split("\n\n")
        found = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
        return dict(zip(names, found, strict=True))

    def start(self, name: str) -> None:
        # A unit that gave up after too many failures would refuse to start.
        self.module.run_command(["systemctl", "reset-failed", name])
        self.do("start", name)

    def reload(self, name: str) -> None:
        """Reload it; where it tells how often it was renewed, until it was once more."""
        before, refused, _ = self.renewals(name)
        self.do("reload", name)
        deadline = time.monotonic() + RENEWAL_SECONDS
        while before is not None:
            now, refused_now, reason = self.renewals(name)
            if now is not None and now > before:
                break
            if refused_now > refused:
                self.module.fail_json(msg=f"{name} serves on as it was: {reason}")
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg=f"{name} was not renewed within {RENEWAL_SECONDS} s; see its journal"
                )
            time.sleep(0.1)
        with open(reload_mark(name), "w", encoding="utf-8"):
            pass

    def renewals(self, name: str) -> tuple[int | None, int, str]:
        """How often it was renewed, how often it refused, and why the last time."""
        said = RENEWED.search(self.do("show", "--property=StatusText", name))
        return (int(said[1]), int(said[2] or 0), said[3] or "") if said else (None, 0, "")

    def learn_definitions(self) -> None:
        """Read the units again when one is younger than the last reading.

        NeedDaemonReload does not do: it overlooks new drop-ins. systemd tells when it read them at its start,
        and nothing of later readings: those that are ours leave a mark.
        """
        loaded = self.do("show", "--property=UnitsLoadFinishTimestampMonotonic").strip().partition("=")[2]
        ours = age(READ_MARK)
        read_ago = since(loaded) if ours is None else min(since(loaded), ours)
        files = glob.glob(f"{DEFINITIONS}/*.*") + glob.glob(f"{DEFINITIONS}/*.d/*.conf")
        if younger([file for file in files if not os.path.isdir(file)], read_ago):
            moment = time.time()
            self.do("daemon-reload")
            mark_reading(moment)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "dict", "required": True, "options": UNIT},
            "renew": {"type": "bool", "default": True},
            "unfinished": {"type": "path"},
            "unfinished_until_level": {"type": "bool", "default": False},
        },
        required_if=[("unfinished_until_level", True, ["unfinished"])],
        supports_check_mode=True,
    )
    units, systemd, act = module.params["units"], Systemd(module), not module.check_mode
    unfinished = os.path.exists(module.params["unfinished"] or "")
    done: dict[str, list[str]] = {
        kind: [] for kind in ("started", "stopped", "enabled", "stale", "restarts", "renewed")
    }
    if not units:
        module.exit_json(changed=False, unfinished=unfinished, **done)
    names = [unit["name"] for unit in units]
    if act:
        systemd.learn_definitions()
    states = systemd.show(names)
    mark_start(module, units, states)
    for unit in units:
        name, state = unit["name"], states[unit["name"]]
        if unit["state"] == "stopped":
            if state["ActiveState"] not in ("inactive", "failed"):
                done["stopped"].append(name)
                if act:
                    systemd.do("stop", name)
        elif to_start(unit, states):
            done["started"].append(name)
            if act:
                systemd.start(name)
        elif (way := how_to_renew(unit, state)) is not None:
            done["stale"].append(name)
            if way == "restart":
                done["restarts"].append(name)
            if module.params["renew"]:
                done["renewed"].append(name)
                if act:
                    systemd.reload(name) if way == "reload" else systemd.do(way, name)
        enable(unit, state, systemd, act, done)
    changed = bool(done["started"] or done["stopped"] or done["enabled"] or done["renewed"])
    module.exit_json(changed=changed, unfinished=unfinished, **done)


def to_start(unit: dict[str, Any], states: dict[str, dict[str, str]]) -> bool:
    """Whether it is to run, and does not."""
    active = states[unit["name"]]["ActiveState"] in ("active", "reloading", "activating")
    return unit["state"] == "started" and not active


def mark_start(module: AnsibleModule, units: list[dict[str, Any]], states: dict[str, dict[str, str]]) -> None:
    """Leave a file that outlives a run that is killed, when units are about to be started, where wanted."""
    wanted = module.params["unfinished_until_level"] and not module.check_mode
    if wanted and any(to_start(unit, states) for unit in units):
        with open(module.params["unfinished"], "w", encoding="utf-8"):
            pass


def how_to_renew(unit: dict[str, Any], state: dict[str, str]) -> str | None:
    """Did a file change after the unit last read it, and what makes the unit read it again?

    Ages are compared, not points in time, so a wall clock that was set is no matter. What systemd itself
    reads (the unit, its drop-ins) takes a restart; what the program reads, only a reload where it knows how.
    """
    age_of_start = since(state["InactiveExitTimestampMonotonic"])
    if younger(definitions(unit["name"]) + unit["reads_at_start"], age_of_start):
        return "restart"
    if not unit["reload"]:
        return "restart" if younger(unit["reads"], age_of_start) else None
    age_of_reload = age(reload_mark(unit["name"]))
    read_ago = age_of_start if age_of_reload is None else min(age_of_start, age_of_reload)
    return "reload" if younger(unit["reads"], read_ago) else None


def definitions(name: str) -> list[str]:
    """The unit's own files: of an instance (node@7001.service) also those of its template (node@.service)."""
    template = re.sub(r"@[^.]*\.", "@.", name)
    found = [path for each in {name, template} for path in glob.glob(f"{DEFINITIONS}/{each}.d/*.conf")]
    return [*found, f"{DEFINITIONS}/{name}", f"{DEFINITIONS}/{template}"]


def since(microseconds: str) -> float:
    """Seconds since a point in time of the monotonic clock, as systemd shows it."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) - int(microseconds or 0) / 1e6


def younger(paths: list[str], limit: float) -> bool:
    ages = [age(path) for path in paths]
    return any(changed_ago is not None and changed_ago < limit for changed_ago in ages)


def age(path: str) -> float | None:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return None


def mark_reading(moment: float) -> None:
    """All definitions that are older than this were read."""
    with open(READ_MARK, "w", encoding="utf-8"):
        pass
    os.utime(READ_MARK, (moment, moment))


def reload_mark(name: str) -> str:
    return f"/run/fastcache-reloaded-{name}"


def enable(
    unit: dict[str, Any], state: dict[str, str], systemd: Systemd, act: bool, done: dict[str, list[str]]
) -> None:
    if unit["enabled"] is None:
        return
    is_enabled = state.get("UnitFileState") in ("enabled", "enabled-runtime", "static")
    if is_enabled != unit["enabled"]:
        done["enabled"].append(unit["name"])
        if act:
            systemd.do("enable" if unit["enabled"] else "disable", unit["name"])
            # It makes links among the units, and has them read.
            mark_reading(time.time())


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""Look at a host once, for all that roles ask of it: one trip instead of one for each question.

A module's start costs a host about 0.3 s of CPU, so a run in which nothing is to be done is nearly as long as
the number of its questions. What is seen here answers most of them; what a role then changes it sees itself.
"""

import glob
import grp
import hashlib
import json
import os
import platform
import pwd
import stat
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_look
short_description: Tell what roles want to know of a host
options:
  paths:
    description: Paths or patterns; those that are there are told, and of links where they lead.
    type: list
    elements: str
    default: []
  files:
    description: Files or patterns, of which is told what fastcache_files compares. Never secrets.
    type: list
    elements: str
    default: []
  units:
    description: Units or patterns, of which is told what fastcache_units asks.
    type: list
    elements: str
    default: []
  ages:
    description: Files or patterns, of which is told how many seconds ago they (a link, itself) were written.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look at the host
  fastcache_look:
    paths: [/usr/sbin/haproxy, /opt/fastcache/current]
    files: [/etc/haproxy/haproxy.cfg]
    units: [haproxy.service]
    ages: [/etc/haproxy/haproxy.cfg, /etc/systemd/system/*.d/*.conf]
"""

RETURN = r"""
ansible_facts:
  description: The fact fastcache_seen; its names are those in main().
  type: dict
  returned: always
"""


def main() -> None:
    patterns = {"type": "list", "elements": "str", "default": []}
    asked = dict.fromkeys(("paths", "files", "units", "ages"), patterns)
    module = AnsibleModule(argument_spec=asked, supports_check_mode=True)
    # Ages are compared, not points in time, so a clock that was set is no matter. All are of one moment.
    clocks = time.time(), time.clock_gettime(time.CLOCK_MONOTONIC)
    system = os_release()
    seen = {
        "system": system.get("ID", ""),
        "codename": system.get("VERSION_CODENAME", ""),
        "version": system.get("VERSION_ID", ""),
        "systemd": os.path.isdir("/run/systemd/system"),
        "python": platform.python_version(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "interfaces": interfaces(module),
        "paths": {path: target(path) for path in found(module.params["paths"])},
        "files": {path: fingerprint(path) for path in found(module.params["files"]) if os.path.isfile(path)},
        "ages": {
            path: clocks[0] - os.lstat(path).st_mtime
            for path in found(module.params["ages"])
            if is_file(path)
        },
        "looked": module.params["ages"],
        **units(module, module.params["units"], clocks[1]),
    }
    module.exit_json(changed=False, ansible_facts={"fastcache_seen": seen})


def os_release() -> dict[str, str]:
    with open("/etc/os-release", encoding="utf-8") as file:
        pairs = [line.strip().partition("=") for line in file]
    return {name: value.strip("\"'") for name, _, value in pairs}


def interfaces(module: AnsibleModule) -> dict[str, str]:
    """Which interface has which IPv4 address, by address."""
    code, out, _ = module.run_command(["ip", "-json", "-4", "address"])
    links: list[dict[str, Any]] = json.loads(out or "[]") if code == 0 else []
    return {each["local"]: link["ifname"] for link in links for each in link.get("addr_info", [])}


PROPERTIES = "Id,ActiveState,UnitFileState,InactiveExitTimestampMonotonic"


def units(module: AnsibleModule, patterns: list[str], now: float) -> dict[str, Any]:
    """Units that systemd has loaded, and how long ago it read what defines them."""
    if not patterns:
        return {"units": {}, "units_read": None}
    _, out, _ = module.run_command(["systemctl", "show", f"--property={PROPERTIES}", "--", *patterns])
    blocks = [
        dict(line.split("=", 1) for line in one.splitlines() if "=" in line) for one in out.split("\n\n")
    ]
    _, read, _ = module.run_command(["systemctl", "show", "--property=UnitsLoadFinishTimestampMonotonic"])
    return {
        "units": {
            block["Id"]: {
                "active": block.get("ActiveState", ""),
                "enabled": block.get("UnitFileState", ""),
                "started": now - seconds(block.get("InactiveExitTimestampMonotonic", "")),
            }
            for block in blocks
            if "Id" in block
        },
        "units_read": now - seconds(read.strip().partition("=")[2]),
    }


def seconds(microseconds: str) -> float:
    """A point in time of the monotonic clock, as systemd shows it."""
    return int(microseconds or 0) / 1e6


def found(patterns: list[str]) -> list[str]:
    return sorted({path for pattern in patterns for path in glob.glob(pattern)})


def is_file(path: str) -> bool:
    """A link is one, wherever it leads."""
    return os.path.islink(path) or not os.path.isdir(path)


def target(path: str) -> str:
    """Where a link leads; nothing for all that is no link."""
    return os.readlink(path) if os.path.islink(path) else ""


def fingerprint(path: str) -> dict[str, str]:
    """Content, permissions and owners, as the action fastcache_files compares them."""
    status = os.stat(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return {
        "digest": digest,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": name_of(pwd.getpwuid, status.st_uid),
        "group": name_of(grp.getgrgid, status.st_gid),
    }


def name_of(database: Any, number: int) -> str:
    try:
        return str(database(number)[0])
    except KeyError:
        return str(number)


if __name__ == "__main__":
    main()

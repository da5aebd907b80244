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
"""

EXAMPLES = r"""
- name: Look at the host
  fastcache_look:
    paths: [/usr/sbin/haproxy, /opt/fastcache/current]
    files: [/etc/haproxy/haproxy.cfg]
"""

RETURN = r"""
ansible_facts:
  description: The fact fastcache_seen; its names are those in main().
  type: dict
  returned: always
"""


def main() -> None:
    patterns = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(argument_spec={"paths": patterns, "files": patterns}, supports_check_mode=True)
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


def found(patterns: list[str]) -> list[str]:
    return sorted({path for pattern in patterns for path in glob.glob(pattern)})


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

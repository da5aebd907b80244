#!/usr/bin/python
"""Take servers out of HAProxy's rotation, or back in, by its runtime socket: no reload, no lost connection.

A drained server gets no new connections and keeps those it has; with `seconds` the module waits that long for
them to end. What clients keep open beyond that is closed by the server itself, between two requests.
"""

import socket
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_drain
short_description: Drain servers of a HAProxy, or let them serve again
options:
  servers:
    description: Names of the servers; those that HAProxy does not know are left out.
    type: list
    elements: str
    required: true
  state:
    description: drain keeps new connections away; ready lets them come.
    type: str
    choices: [drain, ready]
    required: true
  backend:
    description: The backend they belong to.
    type: str
    default: proxies
  socket:
    description: HAProxy's runtime socket.
    type: path
    default: /run/haproxy/admin.sock
  seconds:
    description: How long to wait until drained servers have no connections, or ready ones are up.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Keep new connections away from a proxy
  fastcache_drain:
    servers: [proxy-h1-6382]
    state: drain
"""

RETURN = r"""
connections:
  description: Connections of each server when the module returned.
  type: dict
  returned: always
"""


#: What was told at the runtime socket, among the bits of a server's administrative state.
MAINTENANCE, DRAINED = 0x01, 0x08


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "servers": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["drain", "ready"], "required": True},
            "backend": {"type": "str", "default": "proxies"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
            "seconds": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        changed = tell(given, only_look=module.check_mode)
        connections = {} if module.check_mode else wait(given, given["servers"])
    except ValueError as refused:
        module.fail_json(msg=str(refused))
    except OSError as error:
        module.fail_json(msg=f"HAProxy's runtime socket {given['socket']}: {error}")
    module.exit_json(changed=bool(changed), connections=connections)


def tell(given: dict[str, Any], only_look: bool) -> list[str]:
    """Which servers were not as they should be; they are told."""
    known = status(given["socket"], given["backend"])
    kept_away = forced(given["socket"], given["backend"])
    drain = given["state"] == "drain"
    wrong = [name for name in given["servers"] if name in known and (name in kept_away) != drain]
    for name in [] if only_look else wrong:
        answer = say(given["socket"], f"set server {given['backend']}/{name} state {given['state']}").strip()
        if answer:
            raise ValueError(f"HAProxy refused to {given['state']} {name}: {answer}")
    return wrong


def wait(given: dict[str, Any], servers: list[str]) -> dict[str, int]:
    """Until all are as they should be, or the time is over; what is not up by then fails later, by name."""
    deadline = time.monotonic() + given["seconds"]
    while True:
        now = status(given["socket"], given["backend"])
        connections = {name: int(now[name]["scur"] or 0) for name in servers if name in now}
        if given["state"] == "drain":
            finished = not any(connections.values())
        else:
            finished = all(now[name]["status"].startswith("UP") for name in connections)
        if finished or time.monotonic() > deadline:
            return connections
        time.sleep(0.1)


def forced(path: str, backend: str) -> set[str]:
    """Servers that were told to be drained or away.

    The statistics do not do: a drained server whose checks failed meanwhile is called DOWN there.
    """
    lines = say(path, f"show servers state {backend}").splitlines()
    names = next((line for line in lines if line.startswith("# ")), "").lstrip("# ").split()
    rows = [
        dict(zip(names, line.split(), strict=False)) for line in lines if line.startswith(tuple("0123456789"))
    ]
    told = MAINTENANCE | DRAINED
    return {row["srv_name"] for row in rows if int(row.get("srv_admin_state", 0)) & told}


def status(path: str, backend: str) -> dict[str, dict[str, str]]:
    """HAProxy's statistics of a backend's servers by name."""
    lines = say(path, "show stat").lstrip("# ").splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
    return {
        row["svname"]: row
        for row in rows
        if row["pxname"] == backend and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def say(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode(errors="replace")


if __name__ == "__main__":
    main()

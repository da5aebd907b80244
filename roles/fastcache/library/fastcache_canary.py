#!/usr/bin/python
"""Ask each backend what a client would ask: write a value, read it back, remove it.

Success of a deployment means that this worked, not that processes run. A backend that gives another value
than was written, or none, is named.
"""

import socket
import time
import uuid

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_canary
short_description: SET, GET and DEL one value through each backend
options:
  backends:
    description: The backends, each with a name, an address and a port.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What the operator calls it.
        type: str
        required: true
      address:
        description: Where it listens.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
      host:
        description: On which host it runs; for the reader only.
        type: str
      rack:
        description: In which rack; for the reader only.
        type: str
  keys:
    description: How many keys are tried through each backend; through a proxy, enough to reach every shard.
    type: int
    default: 1
  password:
    description: What AUTH wants, when it wants anything.
    type: str
  seconds:
    description: How long to try before a backend is called broken.
    type: float
    default: 20
"""

EXAMPLES = r"""
- name: Write and read back through every node of the host
  fastcache_canary:
    backends:
      - name: node-h1-7001
        address: 198.18.0.11
        port: 7001
"""

RETURN = r"""
asked:
  description: Milliseconds that the whole question took, by backend.
  type: dict
  returned: success
"""

BACKEND = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "host": {"type": "str"},
    "rack": {"type": "str"},
}


class RefusedError(Exception):
    """The backend answered, and not as a healthy one does."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "backends": {"type": "list", "elements": "dict", "required": True, "options": BACKEND},
            "keys": {"type": "int", "default": 1, "no_log": False},
            "password": {"type": "str", "no_log": True},
            "seconds": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    asked: dict[str, float] = {}
    broken: list[str] = []
    deadline = time.monotonic() + module.params["seconds"]
    for backend in module.params["backends"]:
        while True:
            try:
                begun = time.monotonic()
                ask(backend["address"], backend["port"], module.params["keys"], module.params["password"])
                asked[backend["name"]] = round((time.monotonic() - begun) * 1000, 2)
                break
            except (OSError, RefusedError) as error:
                if time.monotonic() > deadline:
                    broken.append(f"{backend['name']} ({backend['address']}:{backend['port']}): {error}")
                    break
                time.sleep(0.25)
    if broken:
        module.fail_json(msg="not serving: " + "; ".join(broken), broken=broken, asked=asked)
    module.exit_json(changed=False, asked=asked)


def ask(address: str, port: int, keys: int, password: str | None) -> None:
    """One connection: AUTH when wanted, then SET, GET and DEL of each key with a value nobody else has."""
    with socket.create_connection((address, port), 3) as connection:
        connection.settimeout(5)
        replies = connection.makefile("rb")
        if password:
            expect(connection, replies, "+OK", "AUTH", password)
        for number in range(keys):
            key, value = f"fastcache:canary:{uuid.uuid4().hex}:{number}", uuid.uuid4().hex
            expect(connection, replies, "+OK", "SET", key, value, "EX", "60")
            expect(connection, replies, f"${len(value)}", "GET", key)
            found = replies.readline().decode(errors="replace").strip()
            if found != value:
                raise RefusedError(f"wrote {value} and read {found}")
            expect(connection, replies, ":1", "DEL", key)


def expect(connection: socket.socket, replies: object, wanted: str, *words: str) -> None:
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    connection.sendall(request.encode())
    line = replies.readline().decode(errors="replace").strip()  # type: ignore[attr-defined]
    if line != wanted:
        raise RefusedError(f"{words[0]} was answered by {line or 'nothing'}")


if __name__ == "__main__":
    main()

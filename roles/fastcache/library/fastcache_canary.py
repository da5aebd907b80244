#!/usr/bin/python
"""Ask each backend what a client would ask: write a value, read it back, remove it.

Success of a deployment means that this worked, not that processes run. A backend that gives another value
than was written, or none, is named.

A node answers for its own slots alone (-MOVED for others), so keys are tried until one is its own. A node
that sends all of them elsewhere is a new one or a replica: it follows the topology, and need not do more.

A backend with a path speaks HTTP: it is asked for that page, which must hold what it is known by.
"""

import socket
import ssl
import time
import urllib.request
import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_canary
short_description: SET, GET and DEL one value through each backend, or ask it for a page
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
      path:
        description: The page that it is asked for, where it speaks HTTP.
        type: str
      holds:
        description: What that page must hold.
        type: str
        default: ""
      plain:
        description: Whether it speaks no TLS even where others do.
        type: bool
        default: false
  keys:
    description: How many keys are tried through each backend; through a proxy, enough to reach every shard.
    type: int
    default: 1
  password:
    description: What AUTH wants, when it wants anything.
    type: str
  tls:
    description: Files (ca, certificate, key) where backends speak TLS; they must be those of this authority.
    type: dict
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
    "path": {"type": "str"},
    "holds": {"type": "str", "default": ""},
    "plain": {"type": "bool", "default": False},
}


#: So many keys miss a node only when it holds no slot, or fewer than one in a thousand.
TRIES = 5000


class RefusedError(Exception):
    """The backend answered, and not as a healthy one does."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "backends": {"type": "list", "elements": "dict", "required": True, "options": BACKEND},
            "keys": {"type": "int", "default": 1, "no_log": False},
            "password": {"type": "str", "no_log": True},
            "tls": {"type": "dict"},
            "seconds": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    asked: dict[str, float] = {}
    broken: list[str] = []
    deadline = time.monotonic() + module.params["seconds"]
    context = trust(module.params["tls"])
    for backend in module.params["backends"]:
        while True:
            try:
                begun = time.monotonic()
                if backend["path"]:
                    read(backend, context)
                else:
                    place = backend["address"], backend["port"]
                    ask(*place, module.params["keys"], module.params["password"], context)
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


def trust(files: dict[str, str] | None) -> ssl.SSLContext | None:
    """Whom we believe, and who we are; nothing where backends speak no TLS."""
    if not files:
        return None
    context = ssl.create_default_context(cafile=files["ca"])
    context.load_cert_chain(files["certificate"], files["key"])
    return context


def read(backend: dict[str, Any], context: ssl.SSLContext | None) -> None:
    """Ask for its page, and judge it."""
    scheme = "https" if context and not backend["plain"] else "http"
    url = f"{scheme}://{backend['address']}:{backend['port']}{backend['path']}"
    # No proxy of the host's environment lies between services of a cluster.
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    with urllib.request.build_opener(*handlers).open(url, timeout=5) as answer:
        page = answer.read().decode(errors="replace")
    if backend["holds"] not in page:
        raise RefusedError(f"{backend['path']} holds no {backend['holds']}")


def connected(address: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((address, port), 3)
    return context.wrap_socket(plain, server_hostname=address) if context else plain


def ask(
    address: str, port: int, keys: int, password: str | None, context: ssl.SSLContext | None = None
) -> None:
    """One connection: AUTH when wanted, then SET, GET and DEL of each key with a value nobody else has."""
    # The connection is closed only when the file that reads from it is, too.
    with connected(address, port, context) as connection, connection.makefile("rb") as replies:
        connection.settimeout(5)
        if password:
            expect(connection, replies, "+OK", "AUTH", password)
        for number in range(keys):
            value = uuid.uuid4().hex
            key = write(connection, replies, number, value)
            if key is None:
                return
            expect(connection, replies, f"${len(value)}", "GET", key)
            found = replies.readline().decode(errors="replace").strip()
            if found != value:
                raise RefusedError(f"wrote {value} and read {found}")
            expect(connection, replies, ":1", "DEL", key)


def write(connection: socket.socket, replies: object, number: int, value: str) -> str | None:
    """SET a key that the backend takes; None where it sends every key elsewhere."""
    for _ in range(TRIES):
        key = f"fastcache:canary:{uuid.uuid4().hex}:{number}"
        answer = say(connection, replies, "SET", key, value, "EX", "60")
        if answer == "+OK":
            return key
        if not answer.startswith("-MOVED "):
            raise RefusedError(f"SET was answered by {answer or 'nothing'}")
    return None


def expect(connection: socket.socket, replies: object, wanted: str, *words: str) -> None:
    line = say(connection, replies, *words)
    if line != wanted:
        raise RefusedError(f"{words[0]} was answered by {line or 'nothing'}")


def say(connection: socket.socket, replies: object, *words: str) -> str:
    """The first line of the answer."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    connection.sendall(request.encode())
    line: str = replies.readline().decode(errors="replace").strip()  # type: ignore[attr-defined]
    return line


if __name__ == "__main__":
    main()

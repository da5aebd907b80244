#!/usr/bin/python
"""Have nodes read their certificates anew: for new connections, while those that stand go on.

A node is asked through its Unix socket, on its host.
"""

import os
import socket

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_reread
short_description: Have nodes read their certificates anew, without a restart
options:
  sockets:
    description: Unix sockets of the nodes; one that is not there is left out.
    type: list
    elements: path
    required: true
  certificate:
    description: The file with the certificate.
    type: path
    required: true
  password:
    description: What AUTH wants, when it wants anything.
    type: str
"""

EXAMPLES = r"""
- name: Have the new certificate in use
  fastcache_reread:
    sockets: [/run/fastcache/node-7001.sock]
    certificate: /etc/fastcache/tls/host.crt
"""

RETURN = r"""
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sockets": {"type": "list", "elements": "path", "required": True},
            "certificate": {"type": "path", "required": True},
            "password": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    # Those that do not run yet read it when they start.
    running = [path for path in module.params["sockets"] if os.path.exists(path)]
    for path in [] if module.check_mode else running:
        try:
            answer = ask(path, module.params["certificate"], module.params["password"])
        except OSError as error:
            answer = str(error)
        if answer != "+OK":
            module.fail_json(msg=f"{path} does not take the certificate: {answer or 'no answer'}")
    module.exit_json(changed=bool(running))


def ask(path: str, certificate: str, password: str | None) -> str:
    """What a node says to its certificate set anew."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        with connection.makefile("rb") as replies:
            answer = ""
            commands = [("CONFIG", "SET", "tls-cert-file", certificate)]
            for words in [*([("AUTH", password)] if password else []), *commands]:
                request = f"*{len(words)}\r\n" + "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
                connection.sendall(request.encode())
                answer = replies.readline().decode(errors="replace").strip()
                if answer != "+OK":
                    break
            return answer


if __name__ == "__main__":
    main()

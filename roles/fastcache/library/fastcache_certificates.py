#!/usr/bin/python
"""Keep the cluster's own authority and a certificate for every host, in a directory of the controller.

What is missing, names other addresses, or ends soon is made anew; everything else stays, so a second run
changes nothing. Keys never leave this directory but to the host they belong to. OpenSSL does the work.
"""

import os
import re
import shutil
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: fastcache_certificates
short_description: Make the authority of a cluster and the certificates of its hosts
options:
  directory:
    description: Where they are kept, with mode 0600; ca.crt, ca.key, and HOST.crt and HOST.key.
    type: path
    required: true
  cluster:
    description: Name of the cluster, for people who read a certificate.
    type: str
    required: true
  hosts:
    description: Addresses of each host, by its name.
    type: dict
    required: true
  days:
    description: For how long a host's certificate is good.
    type: int
    default: 365
  before:
    description: How many days before its end a certificate is made anew.
    type: int
    default: 30
  renew:
    description: Make the hosts' certificates anew in any case.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Have certificates for the hosts
  fastcache_certificates:
    directory: secrets/example/tls
    cluster: example
    hosts: {h1: [198.18.0.11]}
  delegate_to: localhost
"""

RETURN = r"""
made:
  description: Names of the hosts whose certificate was made (in check mode, would be); ca for the authority.
  type: list
  returned: always
"""

#: The authority outlives many certificates of hosts.
AUTHORITY_DAYS = 3650


class Authority:
    """The files of one cluster."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = module.params["directory"]

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def openssl(self, *words: str) -> str:
        done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            self.module.fail_json(msg=f"openssl {words[0]}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def is_there(self) -> bool:
        return all(os.path.exists(self.path(name)) for name in ("ca.crt", "ca.key"))

    def make(self) -> None:
        """The authority itself."""
        subject = f"/CN=FastCache {self.module.params['cluster']}"
        key, certificate = self.path("ca.key"), self.path("ca.crt")
        extensions = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"
        self.openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", str(AUTHORITY_DAYS), "-subj", subject, "-keyout", key, "-out", certificate,
            "-addext", extensions[0], "-addext", extensions[1],
        )  # fmt: skip

    def is_good(self, host: str, addresses: list[str]) -> bool:
        """Whether a host has a certificate of ours, with its addresses, that lasts."""
        certificate = self.path(f"{host}.crt")
        if not os.path.exists(certificate) or not os.path.exists(self.path(f"{host}.key")):
            return False
        soon = str(self.module.params["before"] * 86400)
        judgements = (
            ["openssl", "x509", "-in", certificate, "-noout", "-checkend", soon],
            ["openssl", "verify", "-CAfile", self.path("ca.crt"), certificate],
        )
        if any(subprocess.run(words, capture_output=True, check=False).returncode for words in judgements):
            return False
        said = self.openssl("x509", "-in", certificate, "-noout", "-ext", "subjectAltName")
        named = set(re.findall(r"IP Address:([0-9.]+)", said))
        return named == {*addresses, "127.0.0.1"}

    def sign(self, host: str, addresses: list[str], scratch: str) -> None:
        """A new key and certificate; they take the place of the old ones together."""
        key, request, certificate, more = (
            os.path.join(scratch, name) for name in ("key", "csr", "crt", "ext")
        )
        named = ",".join([f"DNS:{host}", "IP:127.0.0.1", *(f"IP:{address}" for address in addresses)])
        with open(more, "w", encoding="utf-8") as file:
            file.write(
                f"subjectAltName={named}\nbasicConstraints=critical,CA:FALSE\n"
                "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
            )
        self.openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={host}",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        self.openssl(
            "x509", "-req", "-in", request, "-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"),
            "-CAcreateserial", "-CAserial", os.path.join(scratch, "serial"),
            "-days", str(self.module.params["days"]), "-extfile", more, "-out", certificate,
        )  # fmt: skip
        shutil.move(key, self.path(f"{host}.key"))
        shutil.move(certificate, self.path(f"{host}.crt"))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "cluster": {"type": "str", "required": True},
            "hosts": {"type": "dict", "required": True},
            "days": {"type": "int", "default": 365},
            "before": {"type": "int", "default": 30},
            "renew": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not shutil.which("openssl"):
        module.fail_json(msg="certificates are made by openssl, which is not installed on this machine")
    os.umask(0o077)
    authority = Authority(module)
    hosts: dict[str, Any] = module.params["hosts"]
    founding = not authority.is_there()
    lacking = [
        name
        for name, addresses in hosts.items()
        if founding or module.params["renew"] or not authority.is_good(name, addresses)
    ]
    if not module.check_mode:
        os.makedirs(authority.directory, exist_ok=True)
        if founding:
            authority.make()
        for name in lacking:
            with tempfile.TemporaryDirectory(dir=authority.directory) as scratch:
                authority.sign(name, hosts[name], scratch)
    made = [*(["ca"] if founding else []), *lacking]
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()

"""Where a lab lives and what its hosts are like.

Everything on disk is below one root directory: base/<suite> is shared by all labs, labs/<name> belongs to
one.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

#: The account that Ansible and operators log in with; it may use sudo.
OPERATOR = "ops"

#: Linux cuts interface names at 15 characters, and nspawn names a host's port vb-<machine>.
LONGEST_MACHINE_NAME = 12


class LabError(Exception):
    """Something an operator can act upon; the text says what."""


#: What a lab is like unless said otherwise when it is made.
DEFAULTS = {"prefix": "198.18.0", "suite": "bookworm", "disk": "4G"}


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab, by its name; the prefix is the first three numbers of all its addresses."""

    name: str
    prefix: str
    root: Path
    suite: str
    disk: str

    @classmethod
    def of(cls, root: Path, name: str, **given: str | None) -> Self:
        """The lab as it was made, or as it is to be made: what is given counts, then what is on disk."""
        settings = dict(DEFAULTS)
        record = root / "labs" / name / "lab.json"
        if record.exists():
            settings.update(json.loads(record.read_text()))
        settings.update({key: value for key, value in given.items() if value is not None})
        return cls(name=name, root=root, **settings)

    def record(self) -> None:
        """Write the settings down, so that later commands need only the name."""
        text = json.dumps({"prefix": self.prefix, "suite": self.suite, "disk": self.disk})
        (self.dir / "lab.json").write_text(text)

    @property
    def dir(self) -> Path:
        return self.root / "labs" / self.name

    @property
    def base(self) -> Path:
        return self.root / "base" / self.suite

    @property
    def namespace(self) -> str:
        return f"fastcache-{self.name}"

    @property
    def namespace_file(self) -> Path:
        return Path("/run/netns") / self.namespace

    @property
    def controller(self) -> str:
        """The address of this machine on the lab's bridge, reachable only inside the namespace."""
        return f"{self.prefix}.1"

    @property
    def key(self) -> Path:
        return self.dir / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    @property
    def control_paths(self) -> Path:
        """SSH masters: a lab's own, for they outlive a host and would greet the next one of its address."""
        return self.dir / "cp"

    def address(self, number: int) -> str:
        return f"{self.prefix}.{10 + number}"

    def machine(self, host: str) -> str:
        return f"{self.name}-{host}"

    def check(self, hosts: list[str]) -> None:
        """Refuse names that the kernel would cut, or that could reach outside the lab's directory."""
        if not re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", self.prefix):
            raise LabError(f"prefix {self.prefix!r}: three numbers are wanted, such as 198.18.0")
        for name in [self.name, *hosts]:
            if not re.fullmatch(r"[a-z][a-z0-9]*", name):
                raise LabError(f"name {name!r}: small letters and digits only, a letter first")
        for host in hosts:
            if len(self.machine(host)) > LONGEST_MACHINE_NAME:
                raise LabError(f"{self.machine(host)!r} is longer than {LONGEST_MACHINE_NAME} characters")

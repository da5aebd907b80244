"""The runbook on lab hosts: `fab` as an operator calls it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fleet.lab import PROJECT, Lab

FAB = Path(sys.executable).with_name("fab")


class Runbook:
    """`fab` on the lab, with an inventory of its own: the same hosts, and the settings of the story.

    `groups`: which service runs where, when not as in inventories/lab.
    """

    def __init__(self, lab: Lab, name: str = "runbook", groups: str = "") -> None:
        self.lab = lab
        # Called like the environment of Terraform whose hosts these are.
        self.inventory = lab.scratch / name / "lab"
        variables = self.inventory / "group_vars" / "all"
        variables.mkdir(parents=True)
        (self.inventory / "01-hosts.py").symlink_to(PROJECT / "inventories" / "terraform_hosts.py")
        source = PROJECT / "inventories" / "lab"
        (self.inventory / "02-groups.yml").write_text(groups or (source / "02-groups.yml").read_text())
        given = (source / "group_vars" / "all" / "cluster.yml").read_text()
        settings = "".join(f"{name}: {json.dumps(value)}\n" for name, value in lab.settings.items())
        (variables / "cluster.yml").write_text(given + settings)
        self.backups = lab.scratch / "backups"

    def without(self, *lost: str) -> None:
        """Take hosts out of the inventory that are lost: Terraform still tells of them."""
        script = self.inventory / "01-hosts.py"
        told = json.loads(self.lab.run(script))
        for name in lost:
            told["all"]["hosts"].remove(name)
        hosts = {name: told["_meta"]["hostvars"][name] for name in told["all"]["hosts"]}
        script.unlink()
        (self.inventory / "01-hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = self.lab.environment | {"XDG_STATE_HOME": str(self.lab.scratch / "state")}
        return subprocess.Popen(
            [FAB, *words, "--env", str(self.inventory)], cwd=PROJECT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str, code: int = 0) -> str:
        """Its output; its complaints are in the failure."""
        process = self.start(*words)
        out, err = process.communicate(timeout=1800)
        assert process.returncode == code, (
            f"fab {' '.join(words)}: {process.returncode}\n{out}\n{err[-5000:]}"
        )
        return out + err if code else out

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--output", "json", code=code))
        return found

"""Which machines there are, as Terraform has them: what it would change, changing it, what came of it.

Over python-terraform; what that library does otherwise than a current Terraform wants stands here alone.
OpenTofu does it as well: TERRAFORM in the environment says which of them, for all that asks either.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_terraform import IsFlagged, Terraform

from fastcache.errors import FastCacheError, UsageError

#: Exit code of `terraform plan` where something would change.
CHANGES = 2


@dataclass(frozen=True, slots=True)
class Planned:
    """What Terraform would do."""

    changes: bool
    text: str


def chosen() -> str | None:
    """Terraform or OpenTofu: what TERRAFORM names, else the one that is there; inventories choose alike."""
    if named := os.environ.get("TERRAFORM"):
        return shutil.which(named)
    return shutil.which("terraform") or shutil.which("tofu")


def program() -> str:
    """The same, or what to do about it."""
    if found := chosen():
        return found
    if named := os.environ.get("TERRAFORM"):
        raise UsageError(
            f"TERRAFORM is {named}, and there is no such program", "name terraform or tofu, or nothing"
        )
    raise UsageError(
        "neither Terraform nor OpenTofu is on the PATH",
        "hosts that exist need neither: name them in the inventory",
    )


class Machines:
    """One environment (terraform/environments/NAME)."""

    def __init__(self, directory: Path, **variables: str) -> None:
        if not directory.is_dir():
            raise UsageError(f"there is no {directory}", "environments stand in terraform/environments")
        self.terraform = Terraform(working_dir=str(directory), terraform_bin_path=program())
        self.name = Path(self.terraform.terraform_bin_path).name
        # The library would write variables into a file that it does not remove.
        self.variables = [f"{name}={value}" for name, value in variables.items()]

    def run(self, verb: str, *, good: tuple[int, ...] = (0,), **options: Any) -> tuple[int, str]:
        """One command: its exit code and what it printed."""
        # It sets CI in the environment where output is captured; options of None are left out.
        code, out, err = self.terraform.cmd(verb, no_color=IsFlagged, **options)
        if code not in good:
            why = (err or out).strip()
            raise FastCacheError(
                f"{self.name} {verb} failed: {why[-2000:]}", "it changes nothing until that is mended"
            )
        return code, out

    def prepare(self) -> None:
        """Have its providers and modules at hand."""
        self.run("init", input=False)

    def plan(self) -> Planned:
        """What it would change; nothing is changed."""
        code, text = self.run(
            "plan", good=(0, CHANGES), input=False, detailed_exitcode=IsFlagged, var=self.variables
        )
        return Planned(code == CHANGES, text)

    def apply(self) -> str:
        """Change it."""
        return self.run("apply", input=False, auto_approve=IsFlagged, var=self.variables)[1]

    def outputs(self) -> dict[str, Any]:
        """What it made, by name."""
        found = self.terraform.output()
        return {name: output["value"] for name, output in (found or {}).items()}

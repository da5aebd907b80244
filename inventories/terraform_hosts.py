#!/usr/bin/env python3
"""Hosts for Ansible from what Terraform made: the outputs of the environment named like the inventory.

inventories/<environment>/01-hosts.py is a link to this file. TERRAFORM names the program where it is not
the first of terraform and tofu that is there (as in fastcache/runbook/machines.py). With
nothing applied yet, or no Terraform on this machine, there are simply no hosts; site.yml then says what to
run.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent


def outputs(environment: str) -> dict[str, Any]:
    """The outputs of an applied environment by name, or nothing."""
    program = chosen()
    directory = PROJECT / "terraform" / "environments" / environment
    if program is None or not (data_directory(directory)).is_dir():
        return {}
    done = subprocess.run(
        [program, f"-chdir={directory}", "output", "-json", "-no-color"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{environment}: {program} output: {done.stderr.strip()}", file=sys.stderr)
        return {}
    return {name: output["value"] for name, output in json.loads(done.stdout or "{}").items()}


def chosen() -> str | None:
    """Terraform or OpenTofu."""
    if named := os.environ.get("TERRAFORM"):
        return shutil.which(named)
    return shutil.which("terraform") or shutil.which("tofu")


def data_directory(directory: Path) -> Path:
    """Where `terraform init` left its traces; without them `terraform output` would only complain."""
    return directory / os.environ.get("TF_DATA_DIR", ".terraform")


def inventory(made: dict[str, Any]) -> dict[str, Any]:
    """Hosts with what Ansible needs to reach them; which service runs where is said in 02-groups.yml."""
    hosts, access = made.get("hosts", {}), made.get("access", {})
    common = {
        "ansible_user": access.get("user"),
        "ansible_become": access.get("user") != "root",
        "ansible_ssh_private_key_file": access.get("private_key_file"),
        "ansible_control_path_dir": access.get("control_path_dir"),
        "ansible_ssh_common_args": ssh_arguments(access),
    }
    given = {name: value for name, value in common.items() if value is not None}
    return {
        "all": {"hosts": sorted(hosts, key=lambda name: (hosts[name]["number"], name))},
        "_meta": {
            "hostvars": {
                name: {
                    "ansible_host": host["address"],
                    "fastcache_rack": host["rack"],
                    "fastcache_host_number": host["number"],
                    "fastcache_host_count": len(hosts),
                    **given,
                }
                for name, host in hosts.items()
            }
        },
    }


def ssh_arguments(access: dict[str, Any]) -> str | None:
    """Known host keys only; and the way to hosts that no route leads to."""
    words = []
    if access.get("known_hosts_file"):
        words += [f"-o UserKnownHostsFile={access['known_hosts_file']}", "-o StrictHostKeyChecking=yes"]
    if access.get("proxy_command"):
        words.append(f"-o ProxyCommand='{access['proxy_command']}'")
    return " ".join(words) or None


def main() -> None:
    if "--host" in sys.argv:
        print("{}")
        return
    environment = Path(sys.argv[0]).absolute().parent.name
    print(json.dumps(inventory(outputs(environment)), indent=1))


if __name__ == "__main__":
    main()

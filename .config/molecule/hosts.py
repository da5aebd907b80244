#!/usr/bin/env python3
"""Inventory of the molecule scenarios: the hosts of their lab, each in the groups that molecule.yml gives it.

A host of which molecule.yml says nothing is in every group at once. LAB_NAME, LAB_PREFIX and SUITE make
another lab than `mol`, beside it, or one of another Debian.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
MODULE = PROJECT / "terraform/modules/lab"
NAME, PREFIX = os.environ.get("LAB_NAME", "mol"), os.environ.get("LAB_PREFIX", "198.18.40")
SUITE = os.environ.get("SUITE", "bookworm")
LAB = Path("/var/lib/fastcache-lab/labs") / NAME
SCRATCH = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", str(LAB))
COMMAND = ["python3", "-B", "-m", "lab", "--name", NAME]
GROUPS = ("nodes", "proxies", "health", "balancers", "monitoring")


def hosts() -> dict[str, str]:
    """Name to address of the hosts that are there at the moment."""
    listing = subprocess.run(
        [*COMMAND, "list"], cwd=MODULE, capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[0]: line.split()[1] for line in listing.splitlines()}


def groups_of(found: dict[str, str]) -> dict[str, list[str]]:
    """Who runs what, as the scenario says; otherwise everything runs on every host."""
    scenario = Path(os.environ.get("MOLECULE_FILE", os.devnull))
    platforms = (yaml.safe_load(scenario.read_text()) or {}).get("platforms", [])
    said = {platform["name"]: platform["groups"] for platform in platforms if platform.get("groups")}
    if said:
        names = sorted({group for listed in said.values() for group in listed})
        return {name: [host for host in sorted(found) if name in said.get(host, ())] for name in names}
    groups = {name: sorted(found) for name in GROUPS}
    # An odd number of them can agree; a health service that stands alone needs none.
    if len(found) > 1 or Path(os.environ.get("MOLECULE_PROJECT_DIRECTORY", "")).name == "fastcache_etcd":
        groups["etcd"] = sorted(found)[: len(found) - 1 + len(found) % 2]
    return groups


def inventory() -> dict[str, object]:
    """The lab, and how its hosts are reached."""
    found = hosts()
    groups = groups_of(found)
    access = {
        "ansible_user": "ops",
        "ansible_become": True,
        "ansible_ssh_private_key_file": str(LAB / "id_ed25519"),
        "ansible_control_path_dir": str(LAB / "cp"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={LAB}/known_hosts -o StrictHostKeyChecking=yes "
        f"-o ProxyCommand='nsenter --net=/run/netns/fastcache-{NAME} socat - TCP:%h:%p'",
        "fastcache_cluster": "molecule",
        "fastcache_node_maxmemory": "32mb",
        "fastcache_health_profile": "fast",
        "fastcache_haproxy_interval": "2s",
        "fastcache_haproxy_maxconn": 4000,
        **({"fastcache_vip": f"{PREFIX}.10"} if len(groups.get("balancers", ())) > 1 else {}),
    }
    lab = {
        "lab_name": NAME, "lab_prefix": PREFIX, "lab_suite": SUITE, "lab_command": COMMAND,
        "lab_module": str(MODULE), "project": str(PROJECT),
        # What clients have seen, and the release that an upgrade comes from.
        "load_said": f"{SCRATCH}/load",
        "previous_bundle": os.environ.get("FASTCACHE_PREVIOUS_BUNDLE") or f"{SCRATCH}/previous",
    }  # fmt: skip
    hostvars = {name: {"ansible_host": address, **access} for name, address in found.items()}
    listed: dict[str, object] = {name: {"hosts": members} for name, members in groups.items()}
    return {**listed, "all": {"hosts": sorted(found), "vars": lab}, "_meta": {"hostvars": hostvars}}


if __name__ == "__main__":
    print("{}" if "--host" in sys.argv else json.dumps(inventory()))

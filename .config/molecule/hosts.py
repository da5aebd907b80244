#!/usr/bin/env python3
"""Inventory of the molecule scenarios: the hosts of the lab `mol`, in every group at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LAB = Path("/var/lib/fastcache-lab/labs/mol")


def hosts() -> dict[str, str]:
    """Name to address of the hosts that are there at the moment."""
    listing = subprocess.run(
        [sys.executable, "-B", "-m", "lab", "--name", "mol", "list"],
        cwd=PROJECT / "terraform/modules/lab",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {line.split()[0]: line.split()[1] for line in listing.splitlines()}


def inventory() -> dict[str, object]:
    """Everything runs on every host."""
    found = hosts()
    access = {
        "ansible_user": "ops",
        "ansible_become": True,
        "ansible_ssh_private_key_file": str(LAB / "id_ed25519"),
        "ansible_control_path_dir": str(LAB / "cp"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={LAB}/known_hosts -o StrictHostKeyChecking=yes "
        "-o ProxyCommand='nsenter --net=/run/netns/fastcache-mol socat - TCP:%h:%p'",
        "fastcache_cluster": "molecule",
        "fastcache_node_maxmemory": "32mb",
        "fastcache_health_profile": "fast",
        "fastcache_haproxy_interval": "2s",
        "fastcache_haproxy_maxconn": 4000,
        **({"fastcache_vip": "198.18.40.10"} if len(found) > 1 else {}),
    }
    groups: dict[str, object] = {
        name: {"hosts": sorted(found)} for name in ("nodes", "proxies", "health", "balancers", "monitoring")
    }
    # An odd number of them can agree; a health service that stands alone needs none.
    if len(found) > 1 or Path(os.environ.get("MOLECULE_PROJECT_DIRECTORY", "")).name == "fastcache_etcd":
        groups["etcd"] = {"hosts": sorted(found)[: len(found) - 1 + len(found) % 2]}
    hostvars = {name: {"ansible_host": address, **access} for name, address in found.items()}
    return {**groups, "_meta": {"hostvars": hostvars}}


if __name__ == "__main__":
    print("{}" if "--host" in sys.argv else json.dumps(inventory()))

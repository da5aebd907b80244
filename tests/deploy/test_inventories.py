"""Inventories: from Terraform's outputs to hosts, from hosts to the services of the cluster."""

import json
import shutil
from pathlib import Path

import pytest

from .conftest import PROJECT, load, run

terraform_hosts = load("inventories/terraform_hosts.py")
fastcache_members = load("roles/fastcache/filter_plugins/fastcache_members.py")

MADE = {
    "hosts": {
        "h10": {"address": "198.18.0.20", "number": 10, "rack": "r1"},
        "h2": {"address": "198.18.0.12", "number": 2, "rack": "r2"},
    },
    "access": {
        "user": "ops",
        "private_key_file": "/lab/id",
        "known_hosts_file": "/lab/known_hosts",
        "control_path_dir": "/lab/cp",
        "proxy_command": "nsenter --net=/run/netns/lab socat - TCP:%h:%p",
    },
}


def test_terraform_outputs_become_hosts_in_the_order_of_their_numbers() -> None:
    inventory = terraform_hosts.inventory(MADE)
    assert inventory["all"]["hosts"] == ["h2", "h10"]
    host = inventory["_meta"]["hostvars"]["h2"]
    assert host["ansible_host"] == "198.18.0.12"
    assert host["fastcache_rack"] == "r2"
    assert host["ansible_become"] is True
    assert "StrictHostKeyChecking=yes" in host["ansible_ssh_common_args"]


def test_hosts_that_exist_are_reached_by_the_users_own_keys_unless_it_is_said_how() -> None:
    access = dict.fromkeys(MADE["access"]) | {"user": "root"}
    host = terraform_hosts.inventory(MADE | {"access": access})["_meta"]["hostvars"]["h2"]
    assert host["ansible_become"] is False
    assert not {name for name in host if name.startswith("ansible_ssh")}
    access["proxy_command"] = "ssh -W %h:%p gate"
    host = terraform_hosts.inventory(MADE | {"access": access})["_meta"]["hostvars"]["h2"]
    assert host["ansible_ssh_common_args"] == "-o ProxyCommand='ssh -W %h:%p gate'"


def test_nothing_applied_yet_means_no_hosts() -> None:
    assert terraform_hosts.inventory({})["all"]["hosts"] == []


def test_services_of_a_host_have_ports_in_a_row() -> None:
    hostvars = {
        "a": {"ansible_host": "10.0.0.1", "fastcache_node_count": 2, "fastcache_rack": "left"},
        "b": {"ansible_host": "10.0.0.2", "fastcache_address": "10.1.0.2", "fastcache_node_first_port": 9000},
    }
    nodes = fastcache_members.members(["a", "b"], hostvars, "node", 7001)
    assert [(node["name"], node["address"]) for node in nodes] == [
        ("node-a-7001", "10.0.0.1"),
        ("node-a-7002", "10.0.0.1"),
        ("node-b-9000", "10.1.0.2"),
    ]
    assert nodes[0]["rack"] == "left"
    assert nodes[2]["rack"] == "b", "a host without a rack fails alone"


@pytest.mark.parametrize("environment", ["local", "production"])
def test_an_inventory_passes_preflight(environment: str) -> None:
    run("ansible-playbook", "-i", f"inventories/{environment}", "playbooks/preflight.yml")


def test_no_hosts_means_advice(tmp_path: Path) -> None:
    empty = tmp_path / "hosts.yml"
    empty.write_text("all: {}\n")
    answer = run("ansible-playbook", "-i", empty, "site.yml", check=False)
    assert answer.returncode != 0
    assert "make fleet" in answer.stdout


def test_one_address_for_two_hosts_is_found(tmp_path: Path) -> None:
    inventory = {
        "all": {"hosts": {name: {"ansible_host": "192.0.2.1"} for name in ("a", "b")}},
        "nodes": {"hosts": {"a": {}, "b": {}}},
    }
    inventory["all"]["children"] = {"nodes": inventory.pop("nodes")}  # type: ignore[assignment]
    file = tmp_path / "hosts.yml"
    file.write_text(json.dumps(inventory))
    answer = run("ansible-playbook", "-i", file, "playbooks/preflight.yml", check=False)
    assert answer.returncode != 0
    assert "192.0.2.1" in answer.stdout


@pytest.mark.parametrize(
    ("secret", "is_weak"),
    [
        ("", True),
        ("short", True),
        ("changeme-changeme-changeme", True),
        ("FastCache123456789", True),
        ("kX3vPq9sLw2mNz8tRb5y", False),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused(secret: str, is_weak: bool) -> None:
    hostvars = {"a": {"fastcache_requirepass": secret}, "b": {}}
    assert bool(fastcache_members.weak_secrets(["a", "b"], hostvars)) is is_weak


def test_preflight_refuses_a_default_secret() -> None:
    answer = run(
        "ansible-playbook", "-i", "inventories/local", "playbooks/preflight.yml",
        "-e", "fastcache_admin_key=changeme", check=False,
    )  # fmt: skip
    assert answer.returncode != 0
    assert "fastcache_admin_key" in answer.stdout
    assert "ansible-vault" in answer.stdout


def test_the_reference_cluster_is_fifty_nodes_and_five_proxies_on_five_hosts(tmp_path: Path) -> None:
    inventory = tmp_path / "reference"
    shutil.copytree(
        PROJECT / "inventories" / "reference", inventory, ignore=shutil.ignore_patterns("01-hosts.py")
    )
    hosts = {f"h{n}": {"address": f"198.18.5.{10 + n}", "number": n, "rack": f"r{n}"} for n in range(1, 6)}
    made = terraform_hosts.inventory({"hosts": hosts, "access": MADE["access"]})
    static = {"all": {"hosts": made["_meta"]["hostvars"]}}
    (inventory / "01-hosts.yml").write_text(json.dumps(static))
    run("ansible-playbook", "-i", inventory, "playbooks/preflight.yml")
    run("ansible-playbook", "-i", inventory, "playbooks/describe.yml", "-e", f"into={tmp_path}/told.json")
    told = json.loads((tmp_path / "told.json").read_text())
    assert [one["port"] for one in told["nodes"]] == list(range(7001, 7051))
    assert [one["port"] for one in told["proxies"]] == list(range(6382, 6387))
    assert {kind: len(told[kind]) for kind in ("health", "etcd", "balancers")} == {
        "health": 3, "etcd": 3, "balancers": 2,
    }  # fmt: skip
    assert told["vip"] == "198.18.5.10"

"""Two virtual machines from nothing to a serving cluster, one more, and nothing left behind."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastcache.runbook.machines import chosen
from tests import provider
from tests.fleet.lab import SUITE, Run, make_bundle
from tests.vm import image
from tests.vm.house import House, prepare

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = PROJECT / "terraform" / "environments" / "vms"
PREFIX = "198.18.60"
#: VM_HYPERVISOR=kvm where the processor lends itself to it; emulation works everywhere.
HYPERVISOR = os.environ.get("VM_HYPERVISOR", "qemu")


class Machines:
    """The machines, by Terraform, and the deployment to them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        built = image.build(SUITE)
        self.keys = scratch / "machines"
        settings = {
            "image": str(built.disk),
            "kernel": {"kernel": str(built.kernel), "initrd": str(built.initrd), "root": "/dev/vda"},
            "hypervisor": HYPERVISOR,
            "network_mode": "none",
            "memory": 1024,
            "processors": 1,
            "disk": 4,
            "directory": str(self.keys),
        }
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "TF_CLI_CONFIG_FILE": str(provider.configuration()),
            "TF_DATA_DIR": str(scratch / "terraform"),
            "TF_VAR_name": "vmtest",
            "TF_VAR_prefix": PREFIX,
            "TF_VAR_settings": json.dumps(settings),
            "FASTCACHE_BUNDLE": str(scratch / "bundle"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOG_PATH": str(scratch / "ansible.log"),
        }
        self.house = House(scratch / "house")

    def terraform(self, verb: str, *words: str) -> str:
        program = chosen()
        return self.house.run(
            str(program), f"-chdir={ENVIRONMENT}", verb, "-no-color", *words, **self.environment
        )

    def apply(self, count: int) -> None:
        self.terraform("apply", "-input=false", "-auto-approve", f"-var=host_count={count}")

    def ssh(self, number: int, command: str) -> str:
        return self.house.run(
            "ssh", "-F", "none", "-i", self.keys / "id_ed25519", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.keys / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=5", f"ops@{PREFIX}.{10 + number}", command,
        )  # fmt: skip

    def life(self, number: int) -> str:
        """Another one since each boot."""
        return self.ssh(number, "cat /proc/sys/kernel/random/boot_id")

    def restart(self, number: int, within: float = 600) -> None:
        """Until it has started all that it starts."""
        before, deadline = self.life(number), time.monotonic() + within
        self.house.run("virsh", "reboot", f"vmtest-vm{number}")
        while True:
            with contextlib.suppress(AssertionError):
                if self.life(number) != before:
                    break
            assert time.monotonic() < deadline, "it does not come back"
            time.sleep(2)
        assert self.ssh(number, "systemctl is-system-running --wait").strip() == "running"

    def play(self, playbook: str, *words: str) -> Run:
        settings = {
            "fastcache_secrets": str(self.scratch / "secrets"),
            "fastcache_node_maxmemory": "64mb",
            # A processor that is emulated is late with everything.
            "fastcache_health_profile": "reference",
        }
        done = subprocess.run(
            self.house.inside(
                "ansible-playbook", "-i", "inventories/vms", "-e", json.dumps(settings), playbook, *words
            ),
            cwd=PROJECT, env=os.environ | self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    def client(self, *words: str) -> str:
        password = (self.scratch / "secrets" / "requirepass").read_text().strip()
        return self.house.run(
            "redis-cli", "-h", f"{PREFIX}.10", "-p", "6380", *words, REDISCLI_AUTH=password
        ).strip()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if why := prepare() or provider.what_is_missing():
        pytest.skip(why)
    # Which build of the provider the tests use is not what somebody's own machines are locked to.
    lock = ENVIRONMENT / ".terraform.lock.hcl"
    kept = lock.read_bytes() if lock.exists() else None
    lock.unlink(missing_ok=True)
    made = Machines(tmp_path_factory.mktemp("vm"))
    try:
        made.terraform("init", "-input=false", f"-backend-config=path={made.scratch / 'vms.tfstate'}")
        yield made
    finally:
        made.house.close()
        lock.unlink(missing_ok=True)
        if kept is not None:
            lock.write_bytes(kept)


def test_two_machines_boot_with_the_keys_that_were_made_for_them(machines: Machines) -> None:
    machines.apply(2)
    assert sorted(machines.house.names("list")) == ["vmtest-vm1", "vmtest-vm2"]
    made: dict[str, Any] = json.loads(machines.terraform("output", "-json"))
    assert made["hosts"]["value"]["vm2"] == {"address": f"{PREFIX}.12", "number": 2, "rack": "r2"}
    for number in (1, 2):
        assert machines.ssh(number, "hostname; sudo id -u").split() == [f"vm{number}", "0"]
        own = (machines.keys / "hosts" / f"vm{number}" / "ssh_host_ed25519_key.pub").read_text().split()[1]
        assert own in machines.ssh(number, "sudo cat /etc/ssh/ssh_host_ed25519_key.pub")
    state = (machines.scratch / "vms.tfstate").read_text()
    assert "PRIVATE KEY" not in state
    assert "No changes" in machines.terraform("plan", "-input=false", "-var=host_count=2")


def test_a_cluster_is_deployed_to_them_and_a_second_run_changes_nothing(machines: Machines) -> None:
    # Made outside: in there nobody has a network but the machines.
    make_bundle(machines.scratch / "bundle")
    first = machines.play("site.yml")
    assert first.code == 0, first.text[-6000:]
    assert machines.client("SET", "greeting", "hello") == "OK"
    assert machines.client("GET", "greeting") == "hello"
    again = machines.play("site.yml")
    assert again.code == 0, again.text[-6000:]
    assert again.changed() == 0, again.text[-6000:]


def test_a_machine_restarts_with_what_it_is(machines: Machines) -> None:
    machines.restart(2)
    assert "No changes" in machines.terraform("plan", "-input=false", "-var=host_count=2")
    verified = machines.play("playbooks/verify.yml")
    assert verified.code == 0, verified.text[-6000:]


def test_a_third_comes_and_the_others_stay_as_they_are(machines: Machines) -> None:
    before = machines.life(1)
    machines.apply(3)
    assert machines.ssh(3, "hostname").strip() == "vm3"
    assert machines.life(1) == before
    machines.apply(2)
    assert sorted(machines.house.names("list")) == ["vmtest-vm1", "vmtest-vm2"]


def test_nothing_is_left_of_them(machines: Machines) -> None:
    machines.terraform("destroy", "-input=false", "-auto-approve", "-var=host_count=2")
    assert machines.house.names("list", "--all") == []
    assert machines.house.names("net-list", "--all") == []
    assert list((machines.house.directory / "pool").iterdir()) == []
    assert not machines.keys.exists()

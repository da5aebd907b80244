"""A libvirt of the tests' own: in namespaces of its own, away from this machine's libvirt and network.

The daemon needs no service manager. Everything that is to see it (Terraform, Ansible, virsh) is run inside.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

#: Program to the Debian package that brings it.
PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "xorrisofs": "xorriso",
    "dnsmasq": "dnsmasq-base",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "socat": "socat",
}
#: What those leave to recommendations.
BESIDES = ("libvirt-daemon-driver-qemu", "libvirt-daemon-system")

#: No confinement by what these namespaces have not: cgroups, a security module, accounts of libvirt's own.
QEMU = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
"""
#: Its own network and process table, and its own place where libvirt's files are looked for.
START = """
set -e
ip link set lo up
mount -t sysfs sysfs /sys
for place in etc lib run cache log; do
    case $place in etc|run) target=/$place/libvirt ;; *) target=/var/$place/libvirt ;; esac
    mkdir -p "$target" "$1/$place"
    mount --bind "$1/$place" "$target"
done
mkdir -p /etc/libvirt/qemu/networks
# The shell stays, as the first process: it buries the machines that end, which the daemon does not.
libvirtd --pid-file /run/libvirt/libvirtd.pid &
wait $!
"""


class House:
    """The daemon; machines live below `directory` and end with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "etc").mkdir(parents=True)
        (directory / "etc" / "qemu.conf").write_text(QEMU)
        self.log = (directory / "libvirtd.log").open("w")
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
             "sh", "-c", START, "sh", directory],
            stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.await_answer(within=60)
        except BaseException:
            self.close()
            raise
        pool = directory / "pool"
        pool.mkdir()
        self.run("virsh", "pool-define-as", "default", "dir", "--target", str(pool))
        self.run("virsh", "pool-start", "default")

    def await_answer(self, within: float) -> None:
        deadline = time.monotonic() + within
        while True:
            asked = subprocess.run(
                self.inside("virsh", "version"), capture_output=True, text=True, check=False
            )
            if not asked.returncode:
                return
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, f"{asked.stderr}\n{self.told()}"
            time.sleep(0.2)

    def told(self) -> str:
        return (self.directory / "libvirtd.log").read_text()[-3000:]

    @property
    def daemon(self) -> int:
        """The first process inside; unshare's child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    def inside(self, *words: str | Path) -> list[str]:
        """A command as it is run inside."""
        return [
            "nsenter",
            "-t",
            str(self.daemon),
            "--mount",
            "--net",
            f"--wdns={os.getcwd()}",
            *map(str, words),
        ]

    def run(self, *words: str | Path, **environment: str) -> str:
        done = subprocess.run(
            self.inside(*words), env=os.environ | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-6000:]}\n{self.told()}"
        return done.stdout

    def names(self, *words: str) -> list[str]:
        """What a listing of virsh's names."""
        return self.run("virsh", *words, "--name").split()

    def close(self) -> None:
        """With the first process all others inside end, the machines among them."""
        self.process.kill()
        self.process.wait(30)
        self.log.close()


def prepare() -> str | None:
    """See to the programs; why there can be no machines here, or None when there can."""
    if os.geteuid() != 0:
        return "libvirt with a network of its own needs root"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing and shutil.which("apt-get"):
        words = ["apt-get", "-q", "-y", "-oDPkg::Lock::Timeout=300", "--no-install-recommends", "install"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run([*words, *missing, *BESIDES], env=environment, capture_output=True, check=False)
        missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    return f"missing: {', '.join(missing)}" if missing else None

"""The Debian tree that all hosts of a suite share, read-only: built once, in about half a minute.

It holds what a freshly installed server has (systemd, SSH, Python, sudo, nftables) and nothing of FastCache,
for putting that there is what the roles are to prove.
"""

import shutil
from pathlib import Path

from .settings import OPERATOR, Lab, LabError
from .shell import run

PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,python3,python3-apt,sudo,procps,"
    "iproute2,iputils-ping,ca-certificates,nftables"
)

#: Units that only cost time on a host without consoles and package mirrors.
IDLE_UNITS = [
    "console-getty.service", "getty@.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "systemd-networkd-wait-online.service",
    "dpkg-db-backup.timer",
]  # fmt: skip

# With cgroup v1 nspawn mounts the controllers read-only. Those in which the host was given a group of its own
# (LAB_CONTROLLERS) are made writable, so that MemoryMax=, CPUQuota= and TasksMax= work inside.
INIT = """\
#!/bin/sh
for controller in $LAB_CONTROLLERS; do mount -o remount,rw,bind "/sys/fs/cgroup/$controller"; done
unset LAB_CONTROLLERS
exec /usr/lib/systemd/systemd "$@"
"""


def build(lab: Lab) -> None:
    """Build the tree unless it is there; an interrupted build leaves nothing that looks finished."""
    if lab.base.exists():
        return
    tree = lab.base.with_name(lab.base.name + ".new")
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    run(
        "mmdebstrap", "--variant=minbase", f"--include={PACKAGES}",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
        lab.suite, tree, debian_mirror(lab.suite),
    )  # fmt: skip
    forget_this_machine(tree)
    write(tree / "usr/local/sbin/lab-init", INIT, 0o755)
    write(tree / "etc/ssh/sshd_config.d/lab.conf", "UseDNS no\nPasswordAuthentication no\nMaxStartups 100\n")
    write(tree / f"etc/sudoers.d/{OPERATOR}", f"{OPERATOR} ALL=(ALL) NOPASSWD:ALL\n", 0o440)
    run("chroot", tree, "useradd", "--create-home", "--shell", "/bin/bash", OPERATOR)
    run("chroot", tree, "systemctl", "enable", "systemd-networkd", "ssh")
    run("chroot", tree, "systemctl", "mask", *IDLE_UNITS)
    tree.rename(lab.base)


def debian_mirror(suite: str) -> str:
    """The Debian archive that this machine's own apt is set up with; one archive carries all suites."""
    listing = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(ORIGIN)", "Created-By: Packages"
    )
    archives = [line.split("|") for line in listing.splitlines() if line.count("|") == 2]
    of_debian = {codename: uri for uri, codename, origin in archives if origin == "Debian"}
    if suite in of_debian:
        return of_debian[suite]
    # Any release of the archive itself; that of security updates calls its releases otherwise.
    if others := [uri for codename, uri in of_debian.items() if "-" not in codename]:
        return others[0]
    raise LabError("apt on this machine knows no Debian archive: add one to /etc/apt/sources.list")


def forget_this_machine(tree: Path) -> None:
    """mmdebstrap copies this machine's name and resolver and makes SSH keys; every host gets its own."""
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    write(tree / "etc/machine-id", "")
    write(tree / "etc/hostname", "unset\n")
    write(tree / "etc/resolv.conf", "")
    write(tree / "etc/apt/sources.list", "")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)

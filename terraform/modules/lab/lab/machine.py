"""What a machine must have for labs: root, namespaces, loop devices; missing programs are installed."""

import fcntl
import os
import shutil
import time
from pathlib import Path

from .settings import LabError
from .shell import run

LOCK = Path("/run/fastcache-lab-machine.lock")

#: Program to the Debian package that brings it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "socat": "socat",
}


def require() -> None:
    """Make sure that labs can run here; LabError says what stands in the way."""
    if os.geteuid() != 0:
        raise LabError("lab hosts need root on this machine (sudo)")
    if not Path("/dev/loop-control").exists():
        raise LabError("no loop devices on this machine (/dev/loop-control is missing)")
    # Terraform makes hosts side by side: the first to come installs, the others wait for it.
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = missing_packages()
        if missing:
            install(missing)
    probe = f"fastcache-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", probe)
    except LabError as error:
        raise LabError(f"network namespaces cannot be made here: {error}") from error
    run("ip", "netns", "delete", probe)


def missing_packages() -> list[str]:
    return sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})


def install(packages: list[str]) -> None:
    """By apt; somebody else's apt that is at work is waited for, which apt itself does only for dpkg."""
    if not shutil.which("apt-get"):
        raise LabError(f"missing: {', '.join(packages)}; install them with this machine's package manager")
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-oDPkg::Lock::Timeout=300")
    deadline = time.monotonic() + 300
    while True:
        try:
            run(*apt, "update")
            run(*apt, "--no-install-recommends", "install", *packages)
        except LabError as error:
            if "Could not get lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(2)
        else:
            return

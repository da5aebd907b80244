"""What a machine must have for labs: root, namespaces, loop devices; missing programs are installed."""

import os
import shutil
from pathlib import Path

from .settings import LabError
from .shell import run

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
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        if not shutil.which("apt-get"):
            raise LabError(f"missing: {', '.join(missing)}; install them with this machine's package manager")
        run("apt-get", "-q", "-y", "update")
        run(
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
            "--no-install-recommends",
            "install",
            *missing,
        )
    probe = f"fastcache-probe-{os.getpid()}"
    try:
        run("ip", "netns", "add", probe)
    except LabError as error:
        raise LabError(f"network namespaces cannot be made here: {error}") from error
    run("ip", "netns", "delete", probe)

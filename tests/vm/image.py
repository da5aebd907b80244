"""An image like Debian's cloud images, made of Debian's packages: nothing is fetched but by apt.

It has no boot loader: machines are started with its kernel. Built once and kept.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
#: What lab hosts have, and what makes it a machine: a kernel, cloud-init.
MORE = "cloud-init,cloud-guest-utils,linux-image-cloud-amd64,initramfs-tools,e2fsprogs"
CACHE = Path("/var/lib/fastcache-lab/vm")
#: Units that only cost time on a machine without mirrors of packages.
IDLE_UNITS = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "systemd-networkd-wait-online.service", "dpkg-db-backup.timer",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    disk: Path
    kernel: Path
    initrd: Path


def build(suite: str) -> Image:
    """The image of a release of Debian; an interrupted build leaves nothing that looks finished."""
    sys.path.insert(0, str(PROJECT / "terraform" / "modules" / "lab"))
    from lab.base import PACKAGES, debian_mirror, forget_this_machine

    place = CACHE / suite
    image = Image(place / "disk.qcow2", place / "vmlinuz", place / "initrd.img")
    if place.exists():
        return image
    new = place.with_name(place.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    tree = new / "tree"
    run(
        "mmdebstrap", "--variant=minbase", f"--include={PACKAGES},{MORE}",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
        suite, tree, debian_mirror(suite),
    )  # fmt: skip
    forget_this_machine(tree)
    (tree / "etc" / "fstab").write_text("/dev/vda / ext4 rw,relatime 0 1\n")
    (tree / "etc" / "cloud" / "cloud.cfg.d" / "90_seed.cfg").write_text("datasource_list: [NoCloud, None]\n")
    run("chroot", tree, "systemctl", "enable", "systemd-networkd", "ssh")
    run("chroot", tree, "systemctl", "mask", *IDLE_UNITS)
    for name, target in (("vmlinuz", image.kernel.name), ("initrd.img", image.initrd.name)):
        shutil.copy(
            (tree / name).resolve() if not (tree / name).is_symlink() else linked(tree, name), new / target
        )
    with (new / "disk.raw").open("wb") as disk:
        disk.truncate(3 << 30)
    run("mkfs.ext4", "-q", "-L", "root", "-d", tree, new / "disk.raw")
    run("qemu-img", "convert", "-O", "qcow2", new / "disk.raw", new / image.disk.name)
    (new / "disk.raw").unlink()
    shutil.rmtree(tree)
    new.rename(place)
    return image


def linked(tree: Path, name: str) -> Path:
    """Debian's links to the kernel start at the root of the machine they are for."""
    return tree / str((tree / name).readlink()).lstrip("/")


def run(*words: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}"

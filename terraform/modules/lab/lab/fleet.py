"""Several hosts: made and taken away together, with names and keys known to all."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from . import base, network
from .host import Host
from .settings import OPERATOR, Lab, LabError
from .shell import run


def hosts(lab: Lab) -> list[Host]:
    """All hosts of the lab by their numbers."""
    directory = lab.dir / "hosts"
    names = [entry.name for entry in directory.iterdir()] if directory.exists() else []
    return sorted((host for name in names if (host := Host(lab, name)).exists), key=lambda host: host.number)


def up(lab: Lab, wanted: dict[str, int]) -> None:
    """Make and boot hosts, name to number; those that exist are only booted when they are off."""
    lab.check(list(wanted))
    with _alone(lab):
        lab.record()
        base.build(lab)
        network.up(lab)
        if not lab.key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{OPERATOR}@{lab.name}", "-f", lab.key)
        for name, number in wanted.items():
            host = Host(lab, name)
            taken = [other.name for other in hosts(lab) if other.number == number and other.name != name]
            if taken:
                raise LabError(f"{name}: number {number} belongs to {taken[0]}")
            if not host.exists:
                host.destroy()
                host.create(number)
        _publish(lab)
        for name in wanted:
            Host(lab, name).boot()
    _each(Host.wait_for_ssh, [Host(lab, name) for name in wanted])


def build_base(lab: Lab) -> None:
    """Build what the hosts of the lab's Debian stand on, ahead of them."""
    with _alone(lab, make=False):
        base.build(lab)


def boot(lab: Lab) -> None:
    """Boot every host that is off, as after a reboot of this machine."""
    with _alone(lab):
        network.up(lab)
        for host in hosts(lab):
            host.boot()
    _each(Host.wait_for_ssh, hosts(lab))


def destroy(lab: Lab, names: list[str]) -> None:
    """Take hosts away; with the last one go the network, the keys and the lab's directory."""
    if not lab.dir.exists():
        return
    with _alone(lab):
        _close_ssh_masters(lab)
        _each(Host.destroy, [Host(lab, name) for name in names])
        if hosts(lab):
            _publish(lab)
        else:
            network.down(lab)
            shutil.rmtree(lab.dir)


def _publish(lab: Lab) -> None:
    """Write everybody's name into every hosts file, and everybody's key into known_hosts."""
    everybody = hosts(lab)
    names = f"127.0.0.1 localhost\n{lab.controller} controller\n"
    names += "".join(f"{host.address} {host.name}\n" for host in everybody)
    for host in everybody:
        host.put("etc/hosts", names)
    lab.known_hosts.write_text(
        "".join(f"{host.name},{host.address} {host.public_key}\n" for host in everybody)
    )


def _close_ssh_masters(lab: Lab) -> None:
    for path in lab.control_paths.glob("*"):
        run("ssh", "-O", "exit", "-o", f"ControlPath={path}", "nobody", check=False)
        path.unlink(missing_ok=True)


def _each(action: Callable[[Host], None], targets: Iterable[Host]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(action, targets))


@contextlib.contextmanager
def _alone(lab: Lab, *, make: bool = True) -> Iterator[None]:
    """One change at a time: Terraform makes hosts side by side, but addresses and hosts files are shared."""
    lab.root.mkdir(parents=True, exist_ok=True)
    with (lab.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if make:
            lab.dir.mkdir(parents=True, exist_ok=True)
            lab.control_paths.mkdir(mode=0o700, exist_ok=True)
        yield

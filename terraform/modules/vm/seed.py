"""Seeds of virtual machines: the little disk on which cloud-init finds a machine's name, address and keys.

seed.py --directory D --user U make NAME --address A --mac M   keys and seed of one machine
seed.py --directory D --user U wait NAME ADDRESS               until it answers and cloud-init is done
seed.py --directory D --user U forget NAME                     the end of its keys and its seed

The directory holds the operators' key (id_ed25519), known_hosts, and hosts/NAME with the machine's own key
and its seed. Keys that are there stay.
Standard library only: Terraform runs it with whatever Python there is.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Programs that write the disk, the one that is there is taken; all three take the same words.
WRITERS = ("xorrisofs", "genisoimage", "mkisofs")
#: How long a machine may take to boot and to do what its seed says, s: emulated processors are slow.
PATIENCE = 900


class SeedError(Exception):
    """Something an operator can act upon; the text says what."""


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SeedError(f"{shlex.join(str(word) for word in words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Terraform makes machines side by side, and known_hosts is one file."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def key(file: Path, comment: str) -> str:
    """A pair of keys, made when it is not there; returns the public one."""
    if not file.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file)
    return file.with_name(file.name + ".pub").read_text().strip()


def make(options: argparse.Namespace) -> None:
    directory: Path = options.directory
    host = directory / "hosts" / options.name
    with locked(directory):
        host.mkdir(parents=True, exist_ok=True, mode=0o700)
        operators = key(directory / "id_ed25519", "fastcache operators")
        own = key(host / "ssh_host_ed25519_key", options.name)
        know(directory, options.name, options.address, own)
    words = {
        "meta-data": json.dumps({"instance-id": f"{options.name}-{own.split()[1][-12:]}"}),
        "user-data": "#cloud-config\n" + json.dumps(user_data(options, host, operators, own), indent=1),
        "network-config": json.dumps(network(options), indent=1),
    }
    with tempfile.TemporaryDirectory(dir=host) as scratch:
        for name, text in words.items():
            (Path(scratch) / name).write_text(text)
        write_disk(Path(scratch), host / "seed.iso")


def user_data(options: argparse.Namespace, host: Path, operators: str, own: str) -> dict[str, Any]:
    return {
        "hostname": options.name,
        "preserve_hostname": False,
        "manage_etc_hosts": True,
        "ssh_pwauth": False,
        "disable_root": True,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": (host / "ssh_host_ed25519_key").read_text(),
            "ed25519_public": own,
        },
        "users": [
            {
                "name": options.user,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [operators],
            }
        ],
        # The image's own language stays; generating another takes minutes where processors are emulated.
        "locale": False,
        "package_update": False,
        "package_upgrade": False,
    }


def network(options: argparse.Namespace) -> dict[str, Any]:
    port: dict[str, Any] = {
        "match": {"macaddress": options.mac},
        "addresses": [f"{options.address}/24"],
    }
    if options.gateway:
        port["routes"] = [{"to": "0.0.0.0/0", "via": options.gateway}]
    if options.name_server:
        port["nameservers"] = {"addresses": options.name_server}
    return {"version": 2, "ethernets": {"main": port}}


def write_disk(source: Path, disk: Path) -> None:
    """An ISO 9660 file system called `cidata`, which is what cloud-init looks for."""
    writer = next((name for name in WRITERS if shutil.which(name)), None)
    if writer is None:
        raise SeedError(f"one of {', '.join(WRITERS)} is needed (Debian: apt install xorriso)")
    new = disk.with_name(disk.name + ".new")
    run(writer, "-quiet", "-output", new, "-volid", "cidata", "-joliet", "-rock", source)
    new.chmod(0o600)
    new.rename(disk)


def know(directory: Path, name: str, address: str, public: str | None) -> None:
    """One line of known_hosts for each machine, under its address and its name; none when it goes."""
    file = directory / "known_hosts"
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in lines if not {name, address} & set(line.split()[0].split(","))]
    if public:
        kept.append(f"{address},{name} {' '.join(public.split()[:2])}")
    new = file.with_name(file.name + ".new")
    new.write_text("".join(f"{line}\n" for line in kept))
    new.rename(file)


def forget(options: argparse.Namespace) -> None:
    directory: Path = options.directory
    if not directory.exists():
        return
    with locked(directory):
        know(directory, options.name, options.name, None)
        shutil.rmtree(directory / "hosts" / options.name, ignore_errors=True)
        hosts = directory / "hosts"
        last = not hosts.exists() or not any(hosts.iterdir())
    if last:
        close_masters(directory / "cp")
        # The last one takes along what was for all of them; what somebody else keeps there stays.
        for name in ("id_ed25519", "id_ed25519.pub", "known_hosts", ".lock"):
            (directory / name).unlink(missing_ok=True)
        for place in (hosts, directory / "cp", directory):
            with contextlib.suppress(OSError):
                place.rmdir()


def close_masters(directory: Path) -> None:
    """End the connections that Ansible's ssh keeps open for its next run; their sockets lie here."""
    for path in directory.glob("*"):
        words = ["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={path}", "nobody"]
        subprocess.run(words, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        path.unlink(missing_ok=True)


def wait(options: argparse.Namespace) -> None:
    directory: Path = options.directory
    (directory / "cp").mkdir(exist_ok=True, mode=0o700)
    words = [
        "ssh", "-F", "none", "-i", str(directory / "id_ed25519"),
        "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={directory / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes",
        "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=5",
    ]  # fmt: skip
    if options.proxy_command:
        words += ["-o", f"ProxyCommand={options.proxy_command}"]
    words += [f"{options.user}@{options.address}", "cloud-init status --wait --long"]
    deadline = time.monotonic() + options.patience
    while True:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        said = (done.stdout + done.stderr).strip()
        if "status: done" in done.stdout:
            return
        if "status: error" in done.stdout:
            raise SeedError(f"{options.name}: cloud-init failed; see /var/log/cloud-init.log there\n{said}")
        if "IDENTIFICATION HAS CHANGED" in said:
            raise SeedError(
                f"{options.name}: {options.address} answers with a key that is not this machine's\n{said}"
            )
        if time.monotonic() > deadline:
            raise SeedError(
                f"{options.name}: no answer from {options.address} in {options.patience} s: {said}"
            )
        time.sleep(1)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="seed.py", description="Seeds of virtual machines, for cloud-init.")
    root.add_argument("--directory", type=Path, required=True)
    root.add_argument("--user", required=True)
    commands = root.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("name")
    one.add_argument("--address", required=True)
    one.add_argument("--mac", required=True)
    one.add_argument("--gateway")
    one.add_argument("--name-server", action="append", default=[])
    one.set_defaults(act=make)
    one = commands.add_parser("wait")
    one.add_argument("name")
    one.add_argument("address")
    one.add_argument("--proxy-command")
    one.add_argument("--patience", type=float, default=PATIENCE)
    one.set_defaults(act=wait)
    one = commands.add_parser("forget")
    one.add_argument("name")
    one.set_defaults(act=forget)
    return root


if __name__ == "__main__":
    os.umask(0o077)
    options = parser().parse_args()
    try:
        options.act(options)
    except SeedError as error:
        sys.exit(f"seed: {error}")

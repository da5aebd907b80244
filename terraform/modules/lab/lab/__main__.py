"""The lab's command line: what Terraform runs, and a few handles for people.

python3 -m lab --name lab up h1:1 h2:2      make and boot hosts, NAME:NUMBER
python3 -m lab --name lab boot              boot the hosts that are off (after a reboot of this machine)
python3 -m lab --name lab stop h1           shut hosts down in order
python3 -m lab --name lab cut h1            cut a host's power
python3 -m lab --name lab destroy h1        take hosts away; the last one takes the lab along
python3 -m lab --name lab destroy --all
python3 -m lab --name lab list              name, address, on or off
python3 -m lab --name lab inside COMMAND    run a command inside the lab's network
python3 -m lab base                         build what all hosts stand on, which alone needs the network
python3 -m lab check                        can labs run on this machine? exit 1 and the reason when not
"""

import argparse
import os
import sys
from pathlib import Path

from . import fleet, machine
from .host import Host
from .settings import Lab, LabError


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="lab", description="Lab hosts on this machine: systemd-nspawn.")
    root.add_argument("--name", default="lab", help="the lab's name (default: lab)")
    root.add_argument("--prefix", help="first three numbers of all addresses (default: 198.18.0)")
    root.add_argument(
        "--root", type=Path, default=Path("/var/lib/fastcache-lab"), help="where labs live on disk"
    )
    root.add_argument("--suite", help="Debian release of the hosts (default: bookworm)")
    root.add_argument("--disk", help="size of each host's disk, sparse (default: 4G)")
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("up").add_argument("hosts", nargs="+", metavar="NAME:NUMBER")
    commands.add_parser("boot")
    for name in ("stop", "cut"):
        commands.add_parser(name).add_argument("hosts", nargs="+")
    destroy = commands.add_parser("destroy")
    destroy.add_argument("hosts", nargs="*")
    destroy.add_argument("--all", action="store_true")
    commands.add_parser("list")
    commands.add_parser("inside").add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("base")
    commands.add_parser("check")
    return root


def act(options: argparse.Namespace) -> None:
    lab = Lab.of(options.root, options.name, prefix=options.prefix, suite=options.suite, disk=options.disk)
    match options.command:
        case "up":
            machine.require()
            wanted = dict(word.split(":", 1) for word in options.hosts)
            fleet.up(lab, {name: int(number) for name, number in wanted.items()})
        case "boot":
            machine.require()
            fleet.boot(lab)
        case "stop" | "cut":
            for name in options.hosts:
                getattr(_existing(lab, name), options.command)()
        case "destroy":
            fleet.destroy(lab, [host.name for host in fleet.hosts(lab)] if options.all else options.hosts)
        case "list":
            for host in fleet.hosts(lab):
                print(host.name, host.address, "on" if host.init else "off")
        case "inside":
            os.execvp("nsenter", ["nsenter", f"--net={lab.namespace_file}", *options.words])
        case "base":
            machine.require()
            fleet.build_base(lab)
        case "check":
            machine.require()


def _existing(lab: Lab, name: str) -> Host:
    host = Host(lab, name)
    if not host.exists:
        raise LabError(f"{name}: no such host in lab {lab.name}")
    return host


if __name__ == "__main__":
    try:
        act(parser().parse_args())
    except LabError as error:
        sys.exit(f"lab: {error}")

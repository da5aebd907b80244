"""The lab's network: one bridge in a network namespace that has no way out.

Addresses are from 198.18.0.0/15, which RFC 2544 keeps for tests. Without a default route nothing that a host
sends can leave this machine, so every deployment in a lab is also proof that it needs no network.
"""

from .settings import Lab
from .shell import run, run_inside

BRIDGE = "labbr0"


def up(lab: Lab) -> None:
    if lab.namespace_file.exists():
        return
    run("ip", "netns", "add", lab.namespace)
    run_inside(lab, "ip", "link", "set", "lo", "up")
    run_inside(lab, "ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    run_inside(lab, "ip", "address", "add", f"{lab.controller}/24", "dev", BRIDGE)
    run_inside(lab, "ip", "link", "set", BRIDGE, "up")


def down(lab: Lab) -> None:
    if lab.namespace_file.exists():
        run_inside(lab, "ip", "link", "delete", BRIDGE, check=False)
        run("ip", "netns", "delete", lab.namespace)


def port(machine: str) -> str:
    """The host's end at the bridge, as nspawn names it."""
    return f"vb-{machine}"


def unplug(lab: Lab, machine: str) -> None:
    """Take the cable out: peers hear silence, no FIN and no RST."""
    run_inside(lab, "ip", "link", "set", port(machine), "down", check=False)


def forget(lab: Lab, machine: str) -> None:
    run_inside(lab, "ip", "link", "delete", port(machine), check=False)

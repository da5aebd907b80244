"""What a deployment costs on lab hosts: minutes from nothing to verified, a second run, one host more.

    python -m bench.deploy [--hosts 3,10] [--release]

As root, with Terraform; `make bench-deploy`. For each size: hosts are made, site.yml runs on them bare, runs
again, and one host is added. CPU is that of this machine's Ansible and of each host's own control group, so
what others do meanwhile is not counted. The seconds are those of one machine that is all hosts at once.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.report import Verdicts, table

# The lab of the tests: Terraform, bundle and Ansible as `make fleet` uses them, under another name.
from tests.fleet.lab import NAME, Lab, Run, what_is_missing

FIRST_BAR, AGAIN_BAR = 180.0, 30.0
#: What one host more may cost in a large fleet, in terms of a small one.
GROWTH_BAR = 1.25
HOSTS_OF_THE_LAB = Path("/var/lib/fastcache-lab/labs") / NAME / "hosts"


@dataclass(slots=True)
class Cost:
    """One run of a playbook."""

    seconds: float
    controller: float
    host: float
    tasks: int
    changed: int


def cpu_of_hosts() -> float:
    """Seconds of CPU that all lab hosts have used so far."""
    used = 0.0
    for record in HOSTS_OF_THE_LAB.glob("*/cgroups.json"):
        groups = json.loads(record.read_text())
        if "cpuacct" in groups:
            used += int((Path(groups["cpuacct"]) / "cpuacct.usage").read_text()) / 1e9
        elif "unified" in groups:
            words = (Path(groups["unified"]) / "cpu.stat").read_text().split()
            used += int(words[words.index("usage_usec") + 1]) / 1e6
    return used


def cpu_of_controller() -> float:
    """Seconds of CPU of all programs that have ended here."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(act: Callable[[], Run]) -> Cost:
    """What one run of a playbook costs; it must succeed."""
    began, hosts, controller = time.monotonic(), cpu_of_hosts(), cpu_of_controller()
    run = act()
    seconds = time.monotonic() - began
    if run.code:
        sys.exit(run.text[-6000:])
    counts = [row for host, row in run.recap.items() if host != "localhost"]
    return Cost(
        seconds,
        cpu_of_controller() - controller,
        (cpu_of_hosts() - hosts) / len(counts),
        max(row["ok"] for row in counts),
        sum(row["changed"] for row in counts),
    )


def fleet(count: int, release: bool) -> dict[str, Cost]:
    """A fleet from nothing, again, and one host larger."""
    with tempfile.TemporaryDirectory(prefix="fastcache-bench-") as scratch:
        lab = Lab(Path(scratch))
        lab.command("destroy", "--all")
        try:
            lab.make_bundle(release=release)
            began = time.monotonic()
            lab.up(count)
            made = Cost(time.monotonic() - began, 0, 0, 0, 0)
            costs = {"make hosts": made, "first run": measured(lambda: lab.play("site.yml"))}
            costs["second run"] = measured(lambda: lab.play("site.yml"))
            lab.up(count + 1)
            new = f"h{count + 1}"
            costs["one host more"] = measured(lambda: lab.play("playbooks/add_hosts.yml", "-e", f"new={new}"))
        finally:
            lab.destroy()
    return costs


def report(sizes: dict[int, dict[str, Cost]]) -> int:
    """The table, and whether every bar was met."""
    verdicts = Verdicts()
    rows = []
    for count, costs in sizes.items():
        whole = costs["make hosts"].seconds + costs["first run"].seconds
        for name, cost in costs.items():
            bar = ""
            if name == "first run":
                judged = verdicts.judge(f"{count} hosts from nothing", whole, FIRST_BAR)
                bar = f"{judged} ({whole:.0f} s with the hosts)"
            elif name == "second run":
                bar = verdicts.judge(f"{count} hosts again", cost.seconds, AGAIN_BAR)
            used = [f"{cost.controller:.1f}", f"{cost.host:.1f}", str(cost.tasks), str(cost.changed)]
            rows.append([str(count), name, f"{cost.seconds:.1f}", *(used if cost.tasks else [""] * 4), bar])
    head = ["hosts", "what", "seconds", "CPU s here", "CPU s a host", "tasks a host", "changed", "bar"]
    print(table("Deployment to lab hosts of one machine", head, rows))
    small, large = min(sizes), max(sizes)
    if small != large:
        ratio = sizes[large]["one host more"].seconds / sizes[small]["one host more"].seconds
        judged = verdicts.judge("one host more", ratio, GROWTH_BAR)
        growth = f"{large} hosts take {ratio:.2f} x the time of {small}"
        print(f"\nOne host more: {growth} ({judged}, bar {GROWTH_BAR}).")
    print(
        "Published beside it: kubespray takes 15 minutes for 10 hosts and 35 for 50, on hosts of their own."
    )
    return 1 if verdicts.missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", default="3,10", help="sizes, with commas (default: 3,10)")
    parser.add_argument(
        "--release", action="store_true", help="pack a release build; the debug build is quicker to make"
    )
    options = parser.parse_args()
    if missing := what_is_missing():
        sys.exit(missing)
    return report({count: fleet(count, options.release) for count in map(int, options.hosts.split(","))})


if __name__ == "__main__":
    sys.exit(main())

"""Deployments that are killed at a random task, many times: the next run finishes what the killed one began.

    KILLS=20 SEED=7 pytest -s tests/fleet_long/test_kills.py

Each round gives a playbook something to do, kills it with all its children when a random task begins or
somewhat later, runs it again, and then asks `site.yml` whether anything is left to be changed. The rounds go
through the kinds of WORK in turn, on the same hosts. Clients are there meanwhile, but for bare hosts.
"""

import contextlib
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fleet.lab import Lab, Run, until, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = int(os.environ.get("HOSTS", "3"))
KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", random.randrange(1_000_000)))
#: Written when a cluster is new, and read after each kill that followed.
KEYS = 2000
#: The latest that a kill comes after its task began: longer than most of them take.
LATE = 1.5


@dataclass(frozen=True)
class Work:
    """Something for a playbook to do."""

    playbook: str
    #: How many tasks it has, about; those of a run that was over before its kill correct it.
    tasks: int
    #: Makes it necessary; may say what else the playbook is told.
    prepare: Callable[[Lab, random.Random], tuple[str, ...]]
    #: Clients are served meanwhile, and find what they wrote before.
    served: bool = True
    #: Every host has its part of the slots afterwards.
    even: bool = True


def bare_hosts(lab: Lab, chance: random.Random) -> tuple[str, ...]:
    lab.play_killed_at(
        chance.randint(1, 4), "playbooks/teardown.yml", "-e", "confirm=lab", after=chance.uniform(0, LATE)
    )
    done = lab.play("playbooks/teardown.yml", "-e", "confirm=lab")
    assert done.code == 0, done.text[-6000:]
    return ()


def other_settings(lab: Lab, chance: random.Random) -> tuple[str, ...]:
    """All that serves clients, and the health services, has to start again or to read anew.

    Nodes always have to: they get their share back then, also after a host that came back empty.
    """
    before = lab.settings.get("fastcache_node_maxmemory")
    sizes = [size for size in ("48mb", "56mb", "64mb") if size != before]
    lab.settings["fastcache_node_maxmemory"] = chance.choice(sizes)
    lab.settings["fastcache_proxy_watchdog"] = f"{chance.choice((10, 11, 12))}s"
    lab.settings["fastcache_health_watchdog"] = f"{chance.choice((20, 21, 22))}s"
    lab.settings["fastcache_haproxy_interval"] = chance.choice(("1s", "2s", "3s"))
    return ()


def another_release(lab: Lab, chance: random.Random) -> tuple[str, ...]:
    lab.environment["FASTCACHE_BUNDLE"] = lab.next_release(f"next{chance.randrange(1_000_000)}")
    return ()


def new_admin_key(lab: Lab, chance: random.Random) -> tuple[str, ...]:
    return ("-e", "secret=admin-key")


def a_host_without_its_services(lab: Lab, chance: random.Random) -> tuple[str, ...]:
    """Node and proxy of a host that decides nothing are gone with all that was installed, data included."""
    until(lambda: not lab.replication()["slotsWithoutReplica"], "every slot has its copy")
    lab.on(
        f"h{HOSTS}",
        "systemctl stop 'fastcache-node@*' 'fastcache-proxy@*' fastcache-nodes.target "
        "fastcache-proxies.target; "
        "rm -rf /etc/systemd/system/fastcache* /etc/fastcache /opt/fastcache /var/lib/fastcache; "
        "systemctl daemon-reload",
    )
    until(lambda: not lab.mains().get(f"node-h{HOSTS}-7001"), "copies take over")
    return ()


WORK = {
    "bare hosts": Work("site.yml", 110, bare_hosts, served=False),
    "other settings": Work("site.yml", 90, other_settings),
    "another release": Work("playbooks/upgrade.yml", 80, another_release),
    "a new admin key": Work("playbooks/rotate_secrets.yml", 20, new_admin_key),
    "a host without its services": Work("site.yml", 90, a_host_without_its_services, even=False),
    "settings once more": Work("site.yml", 90, other_settings),
    "a release once more": Work("playbooks/upgrade.yml", 80, another_release),
}
#: By kind of work: how many tasks there are to be killed at.
tasks = {name: work.tasks for name, work in WORK.items()}


@pytest.mark.parametrize("number", range(KILLS))
def test_what_a_killed_run_left_is_finished_by_the_next(lab: Lab, number: int) -> None:
    name = list(WORK)[number % len(WORK)]
    work, chance = WORK[name], random.Random(f"{SEED}/{number}")
    began, seen = time.monotonic(), dict[str, Any]()
    killed = ""
    while not killed:
        task, after = chance.randint(1, tasks[name]), chance.choice((0, chance.uniform(0, LATE)))
        words = work.prepare(lab, chance)
        told = f"SEED={SEED}, round {number}: {name}, killed {after:.1f} s after task {task} began"
        with lab.load(seen) if work.served else contextlib.nullcontext():
            killed = lab.play_killed_at(task, work.playbook, *words, after=after)
            if "PLAY RECAP" in killed:
                assert tasks[name] > 1, f"{told}: it does not come so far\n{killed[-6000:]}"
                # It was over before: that is no round, and later ones are killed earlier.
                tasks[name], killed = min(killed.count("\nTASK ["), tasks[name] - 1), ""
                continue
            run = lab.play(work.playbook, *words)
            assert run.code == 0, f"{told}:\n{killed[-1500:]}\n{run.text[-6000:]}"
            again = lab.play("site.yml")
    where = re.findall(r"^TASK \[(.*?)\]", killed, flags=re.MULTILINE)[-1]
    print(f"{told} ({where}); {time.monotonic() - began:.0f} s; {seen}")
    assert again.code == 0, f"{told}:\n{killed[-1500:]}\n{again.text[-6000:]}"
    assert again.changed() == 0, f"{told}:\n{killed[-1500:]}\n{changes(again)}"
    if work.even:
        lab.shares(HOSTS)
    assert lab.keys("read" if work.served else "write", KEYS) == [], told
    if work.served:
        assert seen["requests"] > 1000
        assert seen["failed"] == 0, f"{told}: {seen}\n{lab.journals(until=seen['gap_ended'])}"


def test_a_proxy_that_a_killed_run_left_drained_serves_before_the_next_one_stops(lab: Lab) -> None:
    """With HOSTS=2 there is no other: the balancer calls itself unable, and its address goes away."""
    lab.settings["fastcache_proxy_watchdog"] = "13s"
    seen: dict[str, Any] = {}
    with lab.load(seen):
        killed = lab.play_killed_at(1, "site.yml", named="fastcache_proxy : Write and read back")
        assert "PLAY RECAP" not in killed, killed[-6000:]
        run = lab.play("site.yml")
    assert run.code == 0, f"{killed[-1500:]}\n{run.text[-6000:]}"
    print(seen)
    assert seen["failed"] == 0, f"{seen}\n{lab.journals(until=seen['gap_ended'])}"
    assert seen["gap"] <= 0.2 + 5 * seen["stall"], f"{seen}\n{lab.journals(until=seen['gap_ended'])}"
    assert lab.play("site.yml").changed() == 0


def changes(run: Run) -> str:
    """Which tasks changed something."""
    lines = run.text.splitlines()
    return "\n".join(line for line in lines if line.startswith(("TASK [", "changed: [")))

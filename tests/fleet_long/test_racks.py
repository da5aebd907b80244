"""Four hosts in two racks that may miss two hosts each: a change takes a rack after the other. One story."""

import json
import re
import sys
from typing import Any

import pytest

from tests.fleet.lab import ASK, PREFIX, Lab, Run, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 4
MACHINES = {"TF_VAR_rack_count": "2"}
#: h1 and h3 stand in one rack, h2 and h4 in the other; each rack has whole copies of what is in the other.
RACKS = [{"h1", "h3"}, {"h2", "h4"}]
SETTINGS_OF_ALL: dict[str, Any] = {"fastcache_rack_budget": 2, "fastcache_replicas": 1}
#: The release that the cluster had before it was upgraded, for the way back.
before: list[str] = []


def well(run: Run) -> Run:
    assert run.code == 0, run.text[-6000:]
    return run


def turns(run: Run) -> list[set[str]]:
    """Which hosts had a task in each turn of a run."""
    parts = re.split(r"^PLAY \[", run.text.rpartition("PLAY RECAP")[0], flags=re.MULTILINE)
    renewing = [part for part in parts if part.startswith(("Renew in turns", "Go back in turns"))]
    return [set(re.findall(r"^(?:ok|changed): \[(\w+)", part, flags=re.MULTILINE)) for part in renewing]


def judged(lab: Lab, seen: dict[str, Any]) -> None:
    """Nobody was refused, and nobody waited long."""
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    # On the way of a request lie five programs, and a busy machine may let each of them oversleep.
    assert seen["gap"] <= 0.2 + 5 * seen["stall"], f"{seen}\n{lab.journals(until=seen['gap_ended'])}"


def test_every_copy_of_a_new_cluster_is_in_the_other_rack(lab: Lab) -> None:
    well(lab.play("site.yml"))
    lab.shares(HOSTS)
    url = f"http://{PREFIX}.11:8080/topology"
    topology = json.loads(lab.inside(sys.executable, "-c", ASK, url, "null"))
    rack = {node["id"]: node["rack"] for node in topology["nodes"]}
    assert len(set(rack.values())) == 2
    assert all(rack[group["main"]] != rack[copy] for group in topology["slots"] for copy in group["replicas"])


def test_an_upgrade_goes_rack_by_rack_and_nobody_notices(lab: Lab) -> None:
    before.append(lab.on("h1", "readlink /opt/fastcache/current").rpartition("/")[2])
    seen: dict[str, Any] = {}
    bundle = lab.next_release()
    with lab.load(seen):
        run = lab.play("playbooks/upgrade.yml", FASTCACHE_BUNDLE=bundle)
    well(run)
    print(f"upgraded rack by rack under load: {seen}")
    assert turns(run) == RACKS
    for host in ("h1", "h2", "h3", "h4"):
        assert lab.on(host, "readlink /opt/fastcache/current").endswith("-next")
    lab.shares(HOSTS)
    judged(lab, seen)


def test_hosts_of_two_racks_that_failed_keep_a_change_from_beginning(lab: Lab) -> None:
    stop = "systemctl stop fastcache-proxy@6382"
    lab.on("h3", stop)
    lab.on("h4", stop)
    run = lab.play("playbooks/upgrade.yml", "-e", "fastcache_room_seconds=10")
    assert run.code != 0
    assert "h3, h4 would be away at once, of racks r1, r2" in re.sub(r"\s+", " ", run.text)
    assert turns(run) == []
    lab.on("h3", "systemctl start fastcache-proxy@6382")


def test_the_rack_of_the_one_that_failed_comes_first_on_the_way_back_which_mends_it(lab: Lab) -> None:
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/rollback.yml", "-e", f"release={before[0]}")
    well(run)
    print(f"back under load, with a proxy that was down: {seen}")
    assert turns(run) == RACKS[::-1]
    assert lab.on("h4", "systemctl is-active fastcache-proxy@6382") == "active"
    lab.shares(HOSTS)
    judged(lab, seen)


def test_with_a_budget_of_one_it_goes_host_by_host(lab: Lab) -> None:
    lab.settings["fastcache_rack_budget"] = 1
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/upgrade.yml", FASTCACHE_BUNDLE=str(lab.scratch / "next"))
    well(run)
    print(f"upgraded host by host under load: {seen}")
    assert turns(run) == [{"h1"}, {"h2"}, {"h3"}, {"h4"}]
    lab.shares(HOSTS)
    judged(lab, seen)

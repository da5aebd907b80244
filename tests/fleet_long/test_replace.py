"""A host is lost for good, and another takes its place by `fab replace-host`: one story on lab hosts."""

import csv
import io
import sys
from typing import Any

import pytest

from tests.fleet.lab import ASK, PREFIX, Lab, until, what_is_missing

from .runbook import Runbook

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
#: The host that is lost runs no health service: who decides is moved in another way.
GROUPS = """
plugin: ansible.builtin.constructed
strict: true
groups:
  nodes: true
  proxies: true
  health: fastcache_host_number == 1
  balancers: fastcache_host_number <= 2
  monitoring: fastcache_host_number == 2
"""
#: Numbers of the hosts in the group of that name.
BALANCERS = (1, 2)
KEYS = 5000


@pytest.fixture(scope="module")
def fab(lab: Lab) -> Runbook:
    return Runbook(lab, groups=GROUPS)


def balancers(lab: Lab) -> list[list[dict[str, str]]]:
    """What HAProxy on each balancer says of its clients and of the proxies."""
    urls = [f"http://{PREFIX}.{10 + number}:8404/;csv" for number in BALANCERS]
    told = [lab.inside(sys.executable, "-c", ASK, url, "null") for url in urls]
    return [list(csv.DictReader(io.StringIO(text.lstrip("# ")))) for text in told]


def clients_come(lab: Lab) -> bool:
    """Whether the load is there: four clients at whichever balancer has the address."""
    rows = [row for page in balancers(lab) for row in page]
    front = [row for row in rows if (row["pxname"], row["svname"]) == ("clients", "FRONTEND")]
    return sum(int(row["scur"]) for row in front) >= 4


def called_dead(lab: Lab, host: str) -> bool:
    """Whether every balancer calls the proxies of a host dead."""
    pages = [[row["status"] for row in page if f"-{host}-" in row["svname"]] for page in balancers(lab)]
    return all(page and all(status.startswith("DOWN") for status in page) for page in pages)


def falls(lab: Lab, fab: Runbook, host: str) -> dict[str, Any]:
    """The host loses its power and its disk under load; what clients saw until all had noticed."""
    seen: dict[str, Any] = {}
    with lab.load(seen):
        until(lambda: clients_come(lab), "clients come")
        lab.command("destroy", host)
        until(lambda: not lab.mains().get(f"node-{host}-7001"), "copies take over")
        until(lambda: called_dead(lab, host), "balancers call its proxy dead")
    return seen


def judged(seen: dict[str, Any]) -> None:
    """While a host fell: each of four clients waited once, and a request on its way may have failed."""
    assert seen["requests"] > 1000
    assert seen["failed"] <= 20, seen
    assert seen["gap"] <= 15, seen


def test_three_hosts_serve_and_every_key_has_its_copy(fab: Runbook, lab: Lab) -> None:
    assert fab.json("deploy", "--yes")["outcome"] == "done"
    assert lab.keys("write", KEYS) == []
    assert fab.json("status")["well"]


def test_a_host_loses_its_power_and_copies_take_over(fab: Runbook, lab: Lab) -> None:
    seen = falls(lab, fab, "h3")
    print(f"a host was lost under load: {seen}")
    judged(seen)
    assert lab.keys("read", KEYS) == []


def test_what_is_lost_is_not_replaced_by_itself(fab: Runbook) -> None:
    assert "h3 does not answer" in fab.run("replace-host", "--host", "h3", "--yes", code=2)


def test_another_host_takes_its_place_while_clients_are_served(fab: Runbook, lab: Lab) -> None:
    lab.up(HOSTS + 1)
    seen: dict[str, Any] = {}
    with lab.load(seen):
        done = fab.json("replace-host", "--host", "h3", "--by", "h4", "--yes")
    print(f"a lost host was replaced under load: {seen}\n{[step.get('found') for step in done['steps']]}")
    assert done["outcome"] == "done"
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, f"{seen}\n{lab.journals(until=seen['gap_ended'])}"
    assert lab.keys("read", KEYS) == []
    lab.shares(HOSTS)
    assert fab.json("lock")["lock"] is None


def test_without_the_lost_host_in_the_inventory_all_is_well_and_nothing_is_left_to_do(
    fab: Runbook, lab: Lab
) -> None:
    assert not fab.json("status", code=3)["well"], "the inventory still has the host that is lost"
    fab.without("h3")
    status = fab.json("status")
    assert status["well"], status["wrong"]
    assert "unknown" not in status or status["unknown"] == []
    assert fab.json("verify")["well"]
    assert fab.json("deploy", "--yes")["outcome"] == "done"
    drift = fab.json("drift")
    assert drift["well"], drift["wrong"]
    assert lab.keys("read", KEYS) == []


def test_a_host_that_comes_back_empty_is_filled_and_gets_its_share_again(fab: Runbook, lab: Lab) -> None:
    seen = falls(lab, fab, "h4")
    print(f"another was lost under load: {seen}")
    judged(seen)
    lab.command("--prefix", PREFIX, "up", "h4:4")
    seen = {}
    with lab.load(seen):
        done = fab.json("replace-host", "--host", "h4", "--yes")
    print(f"it came back empty under load: {seen}\n{[step.get('found') for step in done['steps']]}")
    assert done["outcome"] == "done"
    assert seen["failed"] == 0, f"{seen}\n{lab.journals(until=seen['gap_ended'])}"
    assert lab.keys("read", KEYS) == []
    lab.shares(HOSTS)
    assert fab.json("status")["well"]

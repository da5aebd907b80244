"""From bare hosts to a serving cluster, and what an operator does with it afterwards.

The tests are one story in the order of the file; each stands on the hosts that the one before left, and the
first that fails ends it. Every run of a playbook costs some half a minute: each is asked more than one thing.
"""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_rendered_files import EXPOSURE
from tests.fleet_long.runbook import Runbook

from .lab import NAME, Lab, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
#: Runs neither a health service nor a balancer, nor does it watch: a new host is none of its business.
UNTOUCHED = "h3"


def test_a_plan_touches_nothing(lab: Lab) -> None:
    plan = lab.play("playbooks/plan.yml", "--check", "--diff")
    assert plan.code == 0, plan.text[-6000:]
    assert "absent" in lab.on("h1", "test -e /etc/fastcache && echo present || echo absent")


def test_bare_hosts_become_a_serving_cluster_though_the_first_run_is_killed(lab: Lab) -> None:
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    task = random.Random(seed).randrange(8, 110)
    print(f"SEED={seed}: the first run is killed at task {task}")
    killed = lab.play_killed_at(task, "site.yml")
    run = lab.play("site.yml")
    assert run.code == 0, f"SEED={seed}, killed at task {task}:\n{killed[-500:]}\n{run.text[-6000:]}"
    assert len(run.recap) == HOSTS + 1, "the hosts, and this machine"
    lab.shares(HOSTS)


def test_a_second_run_changes_nothing_and_shows_no_secret(lab: Lab) -> None:
    run = lab.play("site.yml", "-vvv", "--diff")
    assert run.code == 0, run.text[-6000:]
    assert run.changed() == 0, [line for line in run.text.splitlines() if line.startswith("changed")]
    lab.shows_no_secret(run)


def test_services_run_locked_up_as_promised(lab: Lab) -> None:
    for name, tenths in EXPOSURE.items():
        unit = name.replace("node@.", "node@7001.").replace("proxy@.", "proxy@6382.")
        judged = f"systemd-analyze security --no-pager --threshold={tenths} {unit} > /root/judged"
        lab.on("nodes", f"! systemctl is-active -q {unit} || {judged} || (tail -n 2 /root/judged; exit 1)")


def test_the_runbooks_short_tasks_look_restart_a_proxy_and_bring_a_new_admin_key(lab: Lab) -> None:
    fab = Runbook(lab)
    assert fab.json("status")["well"]
    assert fab.json("verify")["well"]
    assert fab.json("rolling-restart", "--plan")["outcome"] == "planned"
    assert "nothing was changed" in fab.run("rotate-secrets", "--secret", "admin-key", code=2)
    restarted = fab.json("rolling-restart", "--only", "proxy-h3-6382", "--yes")
    assert [step["name"] for step in restarted["steps"]] == ["proxy-h3-6382"]
    # The lock is taken with the old key, renewed and given back with the new one.
    old = (lab.secrets / "admin-key").read_text()
    assert fab.json("rotate-secrets", "--secret", "admin-key", "--yes")["outcome"] == "done"
    assert (lab.secrets / "admin-key").read_text() != old
    lock = fab.json("lock")
    assert (lock["lock"], lock["unfinished"]) == (None, [])
    told = fab.json("audit")
    assert told["wrong"] == ""
    assert [one["event"] for one in told["entries"] if one["task"] == "rotate-secrets"][-1] == "done"


def test_a_backend_that_does_not_serve_is_named(lab: Lab) -> None:
    lab.on("h3", "systemctl stop fastcache-proxy@6382")
    run = lab.play("playbooks/verify.yml")
    assert run.code != 0
    assert "proxy-h3-6382" in run.text
    lab.on("h3", "systemctl start fastcache-proxy@6382")


def test_a_host_is_added_under_load_and_nobody_else_notices(lab: Lab) -> None:
    lab.up(HOSTS + 1)
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/add_hosts.yml", "-e", "new=h4")
    assert run.code == 0, run.text[-6000:]
    assert UNTOUCHED not in run.recap, "a host that need not know of the new one got a task"
    assert run.recap["h4"]["changed"] > 5
    print(f"added under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen


def test_an_upgrade_goes_host_by_host_under_load(lab: Lab) -> None:
    bundle = lab.next_release()
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/upgrade.yml", FASTCACHE_BUNDLE=bundle)
    assert run.code == 0, run.text[-6000:]
    assert run.text.count("PLAY [Renew in turns]") == HOSTS + 1
    assert lab.on("h4", "readlink /opt/fastcache/current").endswith("-next")
    print(f"upgraded under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    # On the way of a request lie five programs, and a busy machine may let each of them oversleep.
    assert seen["gap"] <= 0.2 + 5 * seen["stall"], f"{seen}\n{lab.journals(until=seen['gap_ended'])}"


def test_what_was_written_outlives_a_start_of_all_nodes_at_once(lab: Lab) -> None:
    lab.client("SET", "outlives:a-start", "of everybody")
    lab.on("nodes", "systemctl restart fastcache-nodes.target")
    deadline = time.monotonic() + 60
    while (found := lab.client("GET", "outlives:a-start")) != "of everybody" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == "of everybody"


def test_taking_it_off_wants_the_name_of_the_cluster(lab: Lab) -> None:
    run = lab.play("playbooks/teardown.yml", "-e", "confirm=another")
    assert run.code != 0
    assert "confirm=lab" in run.text
    run = lab.play("playbooks/teardown.yml", "-e", "confirm=lab")
    assert run.code == 0, run.text[-6000:]
    left = "ls -d /etc/fastcache /opt/fastcache /var/lib/fastcache 2>/dev/null; pgrep -c fastcache || true"
    assert lab.on("h1", left) == "0"


def test_taking_the_hosts_away_leaves_nothing(lab: Lab) -> None:
    lab.terraform("destroy", "-input=false", "-auto-approve")
    assert not Path(f"/run/netns/fastcache-{NAME}").exists()
    assert not Path(f"/var/lib/fastcache-lab/labs/{NAME}").exists()
    assert NAME not in lab.run("losetup", "--all")

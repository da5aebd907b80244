"""What an operator does to a cluster on hosts by `fab`: one story on one lab, each test after the other."""

import os
import time
from typing import Any

import pytest

from tests.fleet.lab import Lab, what_is_missing

from .runbook import Runbook

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
#: With copies, and a health service that looks often.
SETTINGS_OF_ALL = {
    "fastcache_health_settings": {
        "replicas": 1, "flags": ["replication"], "interval": 1, "suspect-interval": 1, "timeout": 3,
    }
}  # fmt: skip


@pytest.fixture(scope="module")
def fab(lab: Lab) -> Runbook:
    return Runbook(lab)


def test_bare_hosts_are_judged_and_become_a_cluster(fab: Runbook) -> None:
    assert fab.json("preflight")["hosts"].keys() == {"h1", "h2", "h3"}
    done = fab.json("deploy", "--yes")
    assert done["outcome"] == "done"
    assert fab.json("status")["well"]
    assert fab.json("verify")["well"]


def test_nothing_is_done_without_consent(fab: Runbook) -> None:
    assert "nothing was changed" in fab.run("rolling-restart", code=2)
    assert fab.json("rolling-restart", "--plan")["outcome"] == "planned"
    assert fab.json("lock")["unfinished"] == []


def test_a_rolling_restart_that_is_killed_goes_on_and_clients_notice_little(fab: Runbook, lab: Lab) -> None:
    seen: dict[str, Any] = {}
    with lab.load(seen):
        killed = fab.start("rolling-restart", "--yes")
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline and killed.poll() is None:
            lock = fab.json("lock")
            if lock["unfinished"] and len(lock["unfinished"][0]["done"]) >= 2:
                break
        killed.kill()
        killed.communicate()
        assert "holds the lock for rolling-restart" in fab.run("rolling-restart", "--yes", code=1)
        fab.run("lock", "--break", "--yes")
        done = fab.json("rolling-restart", "--yes")
    before = [step["name"] for step in done["steps"] if step["found"] == "done before"]
    assert 2 <= len(before) < len(done["steps"])
    print(f"restarted under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] < seen["requests"] / 100, seen
    assert fab.json("audit")["wrong"] == ""


def test_a_backup_comes_back_into_the_cluster_and_in_a_drill(fab: Runbook, lab: Lab) -> None:
    into = ("--into", str(fab.backups))
    assert fab.json("backup", "--yes", "--keep", "1", *into)["outcome"] == "done"
    drilled = fab.json("restore-drill", *into)
    print(f"drill: {drilled}")
    assert drilled["well"]
    assert drilled["restored"] > 100, "what the load wrote"
    restored = fab.json("restore", "--yes", *into)
    assert restored["steps"][-1]["found"]
    file = next(fab.backups.rglob("*.fcsnap"))
    os.truncate(file, file.stat().st_size // 2)
    assert "it was cut" in fab.run("restore-drill", *into, code=1)


def test_a_main_hands_over_and_one_that_is_killed_costs_no_key_that_was_acknowledged(fab: Runbook) -> None:
    main = max(fab.json("status")["replication"]["mains"].items(), key=lambda one: one[1])[0]
    assert fab.json("switchover", "--node", main, "--yes")["outcome"] == "done"
    broken = fab.json("chaos", "--kind", "kill", "--victim", "h3", "--yes")
    print(f"chaos: {broken['steps'][0]['found']}")
    assert "chaos_test_data_loss_keys" in broken["steps"][0]["found"]


def test_an_upgrade_and_its_way_back(fab: Runbook, lab: Lab) -> None:
    bundle = lab.next_release()
    assert fab.json("rolling-upgrade", "--bundle", bundle, "--yes")["outcome"] == "done"
    assert lab.on("h3", "readlink /opt/fastcache/current").endswith("-next")
    assert fab.json("rollback", "--yes")["outcome"] == "done"
    assert not lab.on("h3", "readlink /opt/fastcache/current").endswith("-next")


def test_a_bundle_for_support_holds_no_secret(fab: Runbook, lab: Lab) -> None:
    import tarfile

    found = fab.json("support-bundle", "--into", str(lab.scratch))
    assert found["blotted"] == []
    with tarfile.open(found["file"]) as archive:
        content = b"".join(
            member.read() for entry in archive if entry.isfile() and (member := archive.extractfile(entry))
        )
    assert b"fastcache-node@7001" in content
    for name in ("requirepass", "admin-key"):
        assert (lab.secrets / name).read_bytes().strip() not in content


def test_a_host_joins_gets_its_share_and_leaves_again_while_clients_are_served(
    fab: Runbook, lab: Lab
) -> None:
    lab.up(HOSTS + 1)
    seen: dict[str, Any] = {}
    with lab.load(seen):
        joined = fab.json("add-node", "--host", "h4", "--yes")
        share = 16384 / (HOSTS + 1)
        assert fab.json("status")["replication"]["mains"]["node-h4-7001"] == pytest.approx(share, rel=0.05)
        drained = fab.json("drain", "--node", "h4", "--yes")
        assert not fab.json("status")["replication"]["mains"].get("node-h4-7001")
        weighed = fab.json("rebalance", "--weights", "h4=50", "--yes")
        assert 0 < fab.json("status")["replication"]["mains"]["node-h4-7001"] < share
        left = fab.json("remove-node", "--host", "h4", "--yes")
    for told in (joined, drained, weighed, left):
        assert told["outcome"] == "done"
        print([step.get("found") for step in told["steps"]])
    print(f"a host came and went under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    lab.up(HOSTS)
    assert fab.json("drift")["well"]
    assert fab.json("verify")["well"]

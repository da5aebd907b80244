"""The playbooks that an operator needs less often: one story on lab hosts, each test after the other."""

from typing import Any

import pytest

from tests.fleet.lab import Lab, Run, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 4


def changed(run: Run) -> dict[str, int]:
    """How many tasks changed something, host by host."""
    return {host: counts["changed"] for host, counts in run.recap.items()}


def well(run: Run) -> Run:
    assert run.code == 0, run.text[-6000:]
    return run


def test_bare_hosts_become_a_cluster_and_no_secret_is_shown_on_the_way(lab: Lab) -> None:
    lab.shows_no_secret(well(lab.play("site.yml", "-vvv", "--diff")))


def test_check_mode_tells_what_a_run_changes(lab: Lab) -> None:
    lab.settings["fastcache_node_maxmemory"] = "48mb"
    told = well(lab.play("playbooks/plan.yml", "--check", "--diff"))
    assert '+maxmemory = "48mb"' in told.text
    assert all(count > 0 for host, count in changed(told).items() if host != "localhost"), told.recap
    assert "64mb" in lab.on("h1", "cat /etc/fastcache/node-7001.toml"), "a plan touches nothing"
    # Killed when the first host has handed over and started again: its slots come back all the same.
    killed = lab.play_killed_at(1, "site.yml", named="Wait until they hold their copies again")
    assert "48mb" in lab.on("h1", "cat /etc/fastcache/node-7001.toml"), killed[-2000:]
    done = well(lab.play("site.yml"))
    lab.shares(HOSTS)
    silent = [host for host, count in changed(done).items() if count and not changed(told)[host]]
    assert not silent, f"the plan said nothing of {silent}"
    assert changed(well(lab.play("playbooks/plan.yml", "--check"))) == dict.fromkeys(done.recap, 0)


def test_what_a_plan_refuses_is_refused_by_the_program_that_reads_it(lab: Lab) -> None:
    run = lab.play("playbooks/plan.yml", "--check", "-e", '{"fastcache_node_settings": {"maxmemroy": "1gb"}}')
    assert run.code != 0
    assert "maxmemroy" in run.text


def test_a_release_goes_back_as_it_came_while_clients_are_served(lab: Lab) -> None:
    before = lab.on("h1", "readlink /opt/fastcache/current").rpartition("/")[2]
    seen: dict[str, Any] = {}
    with lab.load(seen):
        well(lab.play("playbooks/upgrade.yml", FASTCACHE_BUNDLE=lab.next_release()))
        well(lab.play("playbooks/rollback.yml", "-e", f"release={before}"))
    assert {lab.on(f"h{n}", "readlink /opt/fastcache/current").rpartition("/")[2] for n in (1, 4)} == {before}
    print(f"forth and back under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    run = lab.play("playbooks/rollback.yml", "-e", "release=0.0.0-never-was")
    assert run.code != 0


def test_a_new_admin_key_is_noticed_by_nobody(lab: Lab) -> None:
    old = (lab.secrets / "admin-key").read_text()
    seen: dict[str, Any] = {}
    with lab.load(seen):
        well(lab.play("playbooks/rotate_secrets.yml", "-e", "secret=admin-key"))
    assert (lab.secrets / "admin-key").read_text() != old
    assert (lab.secrets / "admin-key.previous").read_text() == old
    print(f"new admin key under load: {seen}")
    assert seen["failed"] == 0, seen


def test_a_new_password_wants_consent_and_is_asked_for_at_once(lab: Lab) -> None:
    run = lab.play("playbooks/rotate_secrets.yml", "-e", "secret=requirepass")
    assert run.code != 0
    assert "confirm=lab" in run.text
    old = (lab.secrets / "requirepass").read_text().strip()
    run = well(lab.play("playbooks/rotate_secrets.yml", "-e", "secret=requirepass", "-e", "confirm=lab"))
    assert old not in run.text
    assert lab.client("SET", "after:the", "rotation") == "OK"
    assert "WRONGPASS" in lab.client("AUTH", old)


def test_a_host_is_taken_out_while_clients_are_served(lab: Lab) -> None:
    lab.client("SET", "outlives:a-host", "its leaving")
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = well(lab.play("playbooks/remove_hosts.yml", "-e", "gone=h4", "-e", "confirm=lab"))
    print(f"removed under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen
    assert "h3" not in run.recap, "a host that need not know got a task"
    assert lab.client("GET", "outlives:a-host") == "its leaving"
    assert lab.on("h4", "ls -d /opt/fastcache 2>/dev/null || echo clean") == "clean"
    refused = lab.play("playbooks/remove_hosts.yml", "-e", "gone=h1", "-e", "confirm=lab")
    assert refused.code != 0
    assert "move that to another host first" in refused.text

"""What the other tasks of the runbook decide: deploying, releases, backups, drift, chaos, hosts."""

import json
from pathlib import Path

import pytest

from fastcache.errors import FastCacheError, UsageError
from fastcache.runbook import chaos, playbooks, snapshots, ssh, support
from fastcache.runbook.fleet import Host, fleet_of
from fastcache.runbook.hands import Outcome, Played
from fastcache.runbook.operation import Consent, StoppedError, carry_out
from fastcache.runbook.plays import failures, playing

from .runbook_fleet import Quiet, World

YES = Consent(yes=True, owner="ann@a", gate_seconds=30)
FAILED = 'TASK [x]\nfatal: [h2]: FAILED! => {"changed": false, "msg": "no bundle"}\n'


def plays(world: World) -> list[str]:
    return [call.split()[1] for call in world.calls if call.startswith("play ")]


# --- deploying --------------------------------------------------------------------------------------


def test_a_deployment_judges_first_and_ends_with_clients_served() -> None:
    names = [step.name for step in playbooks.deploy(World()).steps]
    assert names == ["preflight", "deploy", "verify"]


def test_a_deployment_that_was_killed_goes_on_with_the_playbook_that_was_under_way() -> None:
    world = World()
    world.plays["site.yml"] = Played(2, FAILED, {"h1": 3})
    operation = playbooks.deploy(world)
    with pytest.raises(StoppedError, match="h2: no bundle") as caught:
        carry_out(operation, world, Quiet(), YES)
    assert "it goes on where it stopped" in caught.value.hint
    world.plays.clear()
    ungated = [step for step in playbooks.deploy(world).steps if step.name != "verify"]
    import dataclasses

    again = dataclasses.replace(playbooks.deploy(world), steps=tuple(ungated))
    carry_out(again, world, Quiet(), YES)
    assert plays(world) == ["playbooks/preflight.yml", "site.yml", "site.yml"]


def test_what_a_playbook_changed_is_the_finding() -> None:
    world = World(plays={"site.yml": Played(0, "", {"h1": 3, "h2": 0})})
    assert playing(world, "site.yml")() == "changed: h1 3"


def test_the_recap_of_ansible_is_read() -> None:
    text = "PLAY RECAP ****\nh1 : ok=5 changed=2 unreachable=0\nlocalhost : ok=1 changed=0 failed=0\n"
    assert ssh.changes_in(text) == {"h1": 2, "localhost": 0}


GOOD = "1000.5\n9000\n4000\ndebian 12\n3.11.2\nrunning\n"


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        (GOOD, ""),
        (GOOD.replace("1000.5", "1060.5"), "its clock is 60 s ahead"),
        (GOOD.replace("1000.5", "940.0"), "its clock is 60 s behind"),
        (GOOD.replace("9000", "100"), "100 MiB are free"),
        (GOOD.replace("debian 12", "alpine 3"), "it runs alpine 3"),
        (GOOD.replace("3.11.2", "none"), "it has no python3"),
        (GOOD.replace("running", "offline"), "systemd says offline"),
        ("", "it runs nothing known"),
    ],
)
def test_what_is_wrong_with_a_host_is_told_with_its_cure(said: str, finding: str) -> None:
    wrong = playbooks.judged_host(playbooks.host_of(said), 1000.0, 1001.0)
    assert any(finding in one.says for one in wrong) if finding else wrong == []


def test_preflight_names_the_host_and_what_ansible_refuses() -> None:
    import time

    good = GOOD.replace("1000.5", str(time.time()))
    world = World(says={"MemTotal": Outcome(0, good.replace("9000", "1"))})
    world.plays["playbooks/preflight.yml"] = Played(
        2, FAILED.replace("no bundle", "the group nodes is empty"), {}
    )
    found = playbooks.preflight(world)
    assert [one for one in found["wrong"] if one.startswith("h2: 1 MiB are free")]
    assert "the group nodes is empty" in found["wrong"]
    assert not [call for call in world.calls if "apt-get" in call], "nothing is touched unasked"


def test_preflight_mends_what_it_can_where_it_is_asked_to() -> None:
    import time

    crowded = GOOD.replace("1000.5", str(time.time())).replace("9000", "1").replace("running", "offline")
    world = World(says={"MemTotal": Outcome(0, crowded), "apt-get": Outcome(100, "", "it is locked")})
    found = playbooks.preflight(world, apply=True)
    cure = "apt-get clean && journalctl --quiet --vacuum-size=64M"
    assert f"h1: {cure}" in world.calls
    assert f"h1: {cure}: failed: it is locked" in found["applied"]
    assert len(found["applied"]) == 3, "what systemd says has no cure that is safe"
    assert [one for one in found["wrong"] if one.startswith("h2: 1 MiB are free")], "it is asked again"


def test_a_failure_is_read_as_ansible_prints_it() -> None:
    text = """
TASK [ask] ****
[ERROR]: Task failed: Module failed: not serving
fatal: [h1]: FAILED! =>
    asked: {}
    broken:
    - 'client: no
    changed: false
    msg: 'not serving: client-h1-6380: the connection has been
        closed (EOF)'
    more: true

PLAY RECAP ****
h1 : ok=1 changed=0
"""
    assert failures(text) == [("h1", "not serving: client-h1-6380: the connection has been closed (EOF)")]
    assert failures(FAILED) == [("h2", "no bundle")]


# --- releases ---------------------------------------------------------------------------------------


def bundle(tmp_path: Path, release: str = "2.0") -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps({"release": release}))
    return tmp_path


def test_an_upgrade_stages_then_goes_host_by_host_and_knows_the_way_back(tmp_path: Path) -> None:
    world = World(
        says={"readlink": Outcome(0, "/opt/fastcache/releases/1.9\n"), "for d in": Outcome(0, "1.9\n")}
    )
    operation = playbooks.upgrade(world, bundle(tmp_path))
    assert operation.steps[0].says == "lay it beside the old one on h1, h2, h3"
    assert [step.name for step in operation.steps if ": use" in step.name] == [
        "h1: use 2.0", "h3: use 2.0", "h2: use 2.0",
    ]  # fmt: skip
    assert operation.undo == "fab rollback --release 1.9"
    assert operation.steps[-1].name == "verify"


def test_an_upgrade_to_what_is_in_use_has_nothing_to_do(tmp_path: Path) -> None:
    world = World(says={"readlink": Outcome(0, "/opt/fastcache/releases/2.0\n")})
    report = carry_out(playbooks.upgrade(world, bundle(tmp_path)), world, Quiet(), YES)
    assert report.outcome == "nothing to do"
    assert world.changing() == []


def test_an_upgrade_without_a_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        playbooks.upgrade(World(), tmp_path)
    assert "make bundle" in caught.value.hint


def test_a_rollback_takes_the_only_other_release_and_asks_when_there_are_more() -> None:
    world = World(says={"readlink": Outcome(0, "/x/2.0\n"), "for d in": Outcome(0, "1.9\n2.0\n")})
    assert playbooks.rollback(world, "").arguments == {"release": "1.9"}
    world.says["for d in"] = Outcome(0, "1.8\n1.9\n2.0\n")
    with pytest.raises(UsageError, match=r"which release\? on all hosts are: 1.8, 1.9"):
        playbooks.rollback(world, "")
    with pytest.raises(UsageError, match=r"1\.7 is not on h1"):
        playbooks.rollback(world, "1.7")


# --- secrets ----------------------------------------------------------------------------------------


def test_changing_the_clients_password_says_that_it_interrupts_them() -> None:
    notes = " ".join(playbooks.rotate(World(), "requirepass").notes)
    assert "Clients are interrupted" in notes
    assert "Clients" not in " ".join(playbooks.rotate(World(), "admin-key").notes)
    with pytest.raises(UsageError):
        playbooks.rotate(World(), "root-password")


def test_drift_finds_files_releases_and_members() -> None:
    world = World(
        says={"readlink": Outcome(0, "/x/2.0\n"), "list-units": Outcome(0, "fastcache-node@7001.service\n")},
        plays={"playbooks/plan.yml": Played(0, "", {"h2": 2, "localhost": 1})},
        behind={"proxy-h1-6382"},
    )
    wrong = "\n".join(playbooks.drift(world)["wrong"])
    assert "h2: 2 files or settings are not as deployed" in wrong
    assert "h3: units that do not run: fastcache-node@7001.service" in wrong
    assert "proxy-h1-6382" in wrong
    assert world.changing() == ["play playbooks/plan.yml --check --diff"] + [
        one for one in world.changing() if "list-units" in one
    ]


# --- backups ----------------------------------------------------------------------------------------


def made(into: Path, *names: str) -> None:
    for name in names:
        (into / name).mkdir(parents=True)
        (into / name / "manifest.json").write_text("{}")


def test_the_oldest_backups_of_this_cluster_go_and_no_others(tmp_path: Path) -> None:
    made(
        tmp_path,
        "lab-20260101T000000Z",
        "lab-20260102T000000Z",
        "lab-20260103T000000Z",
        "shop-20250101T000000Z",
    )
    (tmp_path / "lab-20260104T000000Z").mkdir()  # without a manifest it is none
    assert snapshots.retain(tmp_path, "lab", 2) == "1 removed"
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "lab-20260102T000000Z", "lab-20260103T000000Z", "lab-20260104T000000Z", "shop-20250101T000000Z",
    ]  # fmt: skip
    assert snapshots.found_backup(World().fleet, tmp_path, "").name == "lab-20260103T000000Z"
    with pytest.raises(UsageError, match="no backup nine"):
        snapshots.found_backup(World().fleet, tmp_path, "nine")


def test_a_backup_that_is_not_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        snapshots.backup(World(), tmp_path, 0)


def test_a_plan_of_a_backup_makes_no_directory_and_takes_no_snapshot(tmp_path: Path) -> None:
    world, into = World(), tmp_path / "backups"
    carry_out(snapshots.backup(world, into, 3), world, Quiet(), Consent(plan=True))
    assert not into.exists()
    assert world.calls == []


# --- trouble ----------------------------------------------------------------------------------------


def test_secrets_are_blotted_out_of_what_is_handed_on() -> None:
    files = {"a.txt": b"AUTH s3cret-of-the-cluster", "b.txt": b"nothing"}
    assert support.blot(files, [b"s3cret-of-the-cluster"]) == ["a.txt"]
    assert files["a.txt"] == b"AUTH (secret)"


def test_chaos_leaves_the_undoing_on_the_host_before_it_does_harm() -> None:
    world = World()
    node = world.fleet.nodes[2]
    for kind in ("freeze", "slow", "partition", "cpu"):
        world.calls.clear()
        chaos.inject(world, chaos.fault(kind, node), node, 5)
        assert "--on-active 5" in world.calls[0], kind
        assert "--on-active" not in world.calls[1], kind


def test_chaos_on_a_cluster_that_is_no_playground_wants_its_name() -> None:
    import dataclasses

    world = World()
    world.fleet = dataclasses.replace(world.fleet, cluster="shop")
    with pytest.raises(UsageError, match="shop is no playground"):
        chaos.chaos(world, "kill", "", 5, "lab")
    assert chaos.chaos(world, "kill", "", 5, "shop").arguments["victim"] == "node-h3-7001"
    with pytest.raises(UsageError, match="no fault flood"):
        chaos.chaos(world, "flood", "", 5, "shop")


# --- the way to a host ------------------------------------------------------------------------------


def test_the_inventorys_ssh_options_are_obeyed() -> None:
    arguments = (
        "-o UserKnownHostsFile=/lab/known -o StrictHostKeyChecking=no -o ProxyCommand='socat - TCP:%h:%p'"
    )
    files, command = ssh.options_of(Host("h1", "10.0.0.1", arguments=arguments))
    assert files[0] == Path("/lab/known")
    assert command == "socat - TCP:%h:%p"
    files, command = ssh.options_of(Host("h1", "10.0.0.1"))
    assert files[0] == Path("~/.ssh/known_hosts").expanduser()
    assert command == ""


def test_a_command_is_one_word_for_the_shell_whatever_is_in_it() -> None:
    host = Host("h1", "10.0.0.1", user="ops", become=True)
    assert ssh.as_root(host, "echo 'a b'; id") == "sudo -n sh -c 'echo '\"'\"'a b'\"'\"'; id'"


def test_an_inventory_without_hosts_says_what_to_do() -> None:
    with pytest.raises(FastCacheError) as caught:
        fleet_of('{"cluster": "lab", "hosts": {}}', "lab")
    assert "make fleet" in caught.value.hint

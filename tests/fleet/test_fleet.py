"""From bare hosts to a serving cluster, and what an operator does with it afterwards.

The tests are one story in the order of the file; each stands on the hosts that the one before left.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import NAME, Lab, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three bare hosts, and the bundle to install; all gone afterwards, whatever happened."""
    lab = Lab(tmp_path_factory.mktemp("fleet"))
    lab.command("destroy", "--all")
    try:
        lab.make_bundle()
        lab.up(HOSTS)
        yield lab
    finally:
        lab.destroy()


def secret(lab: Lab) -> str:
    return (lab.secrets / "requirepass").read_text().strip()


def test_a_plan_touches_nothing(lab: Lab) -> None:
    plan = lab.play("site.yml", "--check", "--diff")
    assert plan.code == 0, plan.text[-6000:]
    assert "absent" in lab.on("h1", "test -e /etc/fastcache && echo present || echo absent")


def test_bare_hosts_become_a_serving_cluster(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    assert len(run.recap) == HOSTS + 1, "the hosts, and this machine"


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    assert run.changed() == 0, run.text[-8000:]


def test_a_killed_node_is_back_at_once(lab: Lab) -> None:
    unit = "fastcache-node@7001.service"
    show = f"systemctl show --value --property=MainPID {unit}"
    before = lab.on("h1", show)
    lab.on("h1", f"systemctl kill --signal=KILL {unit}")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and lab.on("h1", f"systemctl is-active {unit} || true") != "active":
        pass
    assert lab.on("h1", show) not in ("0", before)
    assert lab.play("playbooks/verify.yml").code == 0


def test_a_changed_setting_is_brought_in_host_by_host(lab: Lab) -> None:
    run = lab.play("site.yml", "-e", "fastcache_node_maxmemory=48mb")
    assert run.code == 0, run.text[-6000:]
    assert run.text.count("PLAY [Renew nodes with old settings, host by host]") == HOSTS
    assert 'maxmemory = "48mb"' in lab.on("h3", "cat /etc/fastcache/node-7001.toml")


def test_a_setting_that_the_node_refuses_never_reaches_it(lab: Lab) -> None:
    run = lab.play("site.yml", "-e", '{"fastcache_node_settings": {"maxmemroy": "1gb"}}')
    assert run.code != 0
    assert "maxmemroy" in run.text
    assert "maxmemroy" not in lab.on("h1", "cat /etc/fastcache/node-7001.toml")
    assert lab.play("playbooks/verify.yml").code == 0


def test_the_secret_shows_nowhere(lab: Lab) -> None:
    run = lab.play("site.yml", "-vvv", "--diff")
    assert run.code == 0
    assert secret(lab) not in run.text
    search = (
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' > /root/seen; "
        "journalctl --no-pager >> /root/seen; "
        "grep -c -F -f /etc/fastcache/secrets/requirepass /root/seen || true"
    )
    assert lab.on("h1", search) == "0"


def test_a_lost_host_is_made_again_and_joins(lab: Lab) -> None:
    lab.terraform(
        "apply", "-input=false", "-auto-approve", f"-var=host_count={HOSTS}",
        "-replace=module.lab.terraform_data.host[\"h3\"]",
    )  # fmt: skip
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    assert run.recap["h3"]["changed"] > 5


def test_taking_it_away_leaves_nothing(lab: Lab) -> None:
    lab.terraform("destroy", "-input=false", "-auto-approve")
    assert not Path(f"/run/netns/fastcache-{NAME}").exists()
    assert not Path(f"/var/lib/fastcache-lab/labs/{NAME}").exists()
    assert NAME not in lab.run("losetup", "--all")

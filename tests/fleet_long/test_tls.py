"""A cluster under TLS from its founding to new certificates: one story on lab hosts."""

import sys
from typing import Any

import pytest

from tests.fleet.lab import PREFIX, VIP, Lab, what_is_missing

from .runbook import Runbook

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
SETTINGS_OF_ALL = {"fastcache_tls": True}
#: Client, node, proxy, health service, etcd.
PLACES = [(VIP, 6380), *((f"{PREFIX}.11", port) for port in (7001, 6382, 8080, 2379))]
ASK_PLAINLY = """
import socket
with socket.create_connection(({host!r}, {port}), 5) as connection:
    connection.settimeout(5)
    connection.sendall(b"PING\\r\\n")
    print(connection.recv(100))
"""
SHOWN = "import ssl; print(ssl.get_server_certificate(({host!r}, {port})))"


def told(lab: Lab, script: str, host: str, port: int) -> str:
    """What a script inside the lab's network prints."""
    return lab.inside(sys.executable, "-c", script.format(host=host, port=port))


def test_a_cluster_is_founded_under_tls_and_a_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    run = lab.play("site.yml", "-vvv", "--diff")
    assert run.code == 0, run.text[-6000:]
    assert run.changed() == 0, [line for line in run.text.splitlines() if line.startswith("changed")]
    lab.shows_no_secret(run)
    lab.shares(HOSTS)


@pytest.mark.parametrize(("host", "port"), PLACES)
def test_nobody_is_served_without_it(lab: Lab, host: str, port: int) -> None:
    answer = told(lab, ASK_PLAINLY, host, port)
    # An alert of TLS, or nothing at all.
    assert answer.startswith(("b'\\x15\\x03", "b''")), answer


def test_new_certificates_come_while_clients_are_served(lab: Lab) -> None:
    asked = [place for place in PLACES if place[1] not in (7001, 2379)]  # These ask for one themselves.
    before = [told(lab, SHOWN, *place) for place in asked]
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/tls.yml")
    assert run.code == 0, run.text[-6000:]
    after = [told(lab, SHOWN, *place) for place in asked]
    assert not set(before) & set(after)
    print(f"new certificates under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen


def test_the_runbook_speaks_it(lab: Lab) -> None:
    fab = Runbook(lab)
    assert fab.json("status")["well"]
    assert fab.json("verify")["well"]
    assert fab.json("rolling-restart", "--yes")["outcome"] == "done"
    into = ("--into", str(fab.backups))
    assert fab.json("backup", "--yes", *into)["outcome"] == "done"
    assert fab.json("restore", "--yes", "--replace", *into)["outcome"] == "done"
    lab.shares(HOSTS)

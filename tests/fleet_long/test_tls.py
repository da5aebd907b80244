"""A cluster under TLS from its founding to new certificates: one story on lab hosts."""

from typing import Any

import pytest

from tests.fleet.lab import VIP, Lab, what_is_missing

MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
HOSTS = 3
SETTINGS_OF_ALL = {"fastcache_tls": True}
SHOWN = "openssl s_client -connect %s </dev/null 2>/dev/null | openssl x509 -noout -serial"


def test_a_cluster_is_founded_under_tls_and_a_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.play("site.yml")
    assert run.code == 0, run.text[-6000:]
    run = lab.play("site.yml", "-vvv", "--diff")
    assert run.code == 0, run.text[-6000:]
    assert run.changed() == 0, [line for line in run.text.splitlines() if line.startswith("changed")]
    assert "PRIVATE KEY" not in run.text


def test_nobody_is_served_without_it(lab: Lab) -> None:
    listening = lab.on("h1", "ss -ltnH | awk '{print $4}'")
    assert ":7001" in listening
    for port in (7001, 6382, 8080, 2379, 6380):
        asked = f"timeout 5 bash -c 'exec 3<>/dev/tcp/$0/{port}; printf \"PING\\r\\n\" >&3; head -c 5 <&3'"
        answer = lab.on("h2", f"{asked} $(getent hosts h1 | cut -d' ' -f1) | tr -d '\\000-\\037' || true")
        assert "PONG" not in answer
        assert "NOAUTH" not in answer


def test_new_certificates_come_while_clients_are_served(lab: Lab) -> None:
    places = ("127.0.0.1:8080", f"{VIP}:6380")
    before = [lab.on("h1", SHOWN % place) for place in places[1:]]
    seen: dict[str, Any] = {}
    with lab.load(seen):
        run = lab.play("playbooks/tls.yml")
    assert run.code == 0, run.text[-6000:]
    assert [lab.on("h1", SHOWN % place) for place in places[1:]] != before
    print(f"new certificates under load: {seen}")
    assert seen["requests"] > 1000
    assert seen["failed"] == 0, seen

"""The lock of a task and the admin key that changes under it: rotate-secrets changes what it speaks with."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastcache.errors import FastCacheError
from fastcache.runbook import playbooks
from fastcache.runbook.fleet import Member
from fastcache.runbook.hands import Outcome, Played, RefusedError, UnreachableError
from fastcache.runbook.operation import Consent, Lock, StoppedError, carry_out
from fastcache.runbook.ssh import OverSsh

from .runbook_fleet import Quiet, World, fleet
from .test_runbook_moving import unproved

YES = Consent(yes=True, owner="ann@a", gate_seconds=30)


class Rotating(World):
    """Its playbook gives everybody a new admin key, and may fail after that."""

    fails = False

    def play(self, playbook: str, *words: str, seconds: float = 3600.0) -> Played:
        super().play(playbook, *words, seconds=seconds)
        self.keys |= {"hosts": "two", "service": "two"}
        return Played(2, "fatal: [h2]: FAILED! => {'msg': 'x'}\n", {}) if self.fails else Played(0, "", {})


def test_a_new_admin_key_does_not_cost_the_lock_that_was_taken_with_the_old_one() -> None:
    world = Rotating()
    assert carry_out(unproved(playbooks.rotate(world, "admin-key")), world, Quiet(), YES).outcome == "done"
    assert world.calls[-2:] == ["POST /lock/step", "POST /lock/release"]
    assert world.kept.lock is None
    assert not world.kept.unfinished


def test_nor_is_the_lock_kept_where_the_rotation_fails_half_way() -> None:
    world = Rotating()
    world.fails = True
    with pytest.raises(StoppedError):
        carry_out(playbooks.rotate(world, "admin-key"), world, Quiet(), YES)
    assert world.kept.lock is None
    assert list(world.kept.unfinished) == ["rotate-secrets"]


def test_a_health_service_that_has_yet_to_read_the_new_key_takes_nobodys_lock() -> None:
    world = World()
    token = world.http("POST", "/lock", {
        "owner": "ann@a", "task": "rotate-secrets", "seconds": 60, "arguments": {}, "fresh": False,
    })["token"]  # fmt: skip
    # The host has the new key, the service on it still says the old one.
    world.keys |= {"hosts": "two", "known": "two"}
    lock = Lock(world, token, frozenset(), 0.12)
    lock.thread.start()
    refused = threading.Event()
    original = world.http

    def counted(method: str, path: str, body: Any = None, *, seconds: float = 15.0) -> Any:
        try:
            return original(method, path, body, seconds=seconds)
        except RefusedError:
            refused.set()
            raise

    world.http = counted  # type: ignore[method-assign]
    assert refused.wait(10)
    world.keys["service"] = "two"
    renewed = world.calls.count("POST /lock/renew")
    deadline = time.monotonic() + 10
    while world.calls.count("POST /lock/renew") == renewed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.over.set()
    lock.thread.join(10)
    assert lock.lost == ""


# --- the hands --------------------------------------------------------------------------------------


class Wires(OverSsh):
    """Hands whose hosts and services are imagined: a key in a file, and the key that the service read."""

    def __init__(self) -> None:
        super().__init__(Path(), fleet())
        self.file, self.read, self.lost = "two", "one", {"h1"}
        self.asked: list[tuple[str, str]] = []

    def run(self, host: str, command: str, *, stdin: bytes = b"", seconds: float = 60.0) -> Outcome:
        if host in self.lost:
            raise UnreachableError(f"{host}: no route to host")
        return Outcome(0, f"{self.file}\n")

    def exchange(
        self,
        member: Member,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        seconds: float,
    ) -> tuple[int, Any, str]:
        if member.host in self.lost:
            raise UnreachableError(f"{member.name} cannot be reached")
        self.asked.append((member.name, headers["X-Admin-Key"]))
        if headers["X-Admin-Key"] != self.read:
            return 401, {"error": "X-Admin-Key is missing or wrong"}, ""
        return 200, {"renewed": True}, ""


def test_a_key_that_was_changed_is_read_anew_from_the_host_that_refused_the_old_one() -> None:
    hands = Wires()
    hands.secrets["admin-key"] = "one"
    hands.read = "two"
    assert hands.http("POST", "/lock/renew", {}) == {"renewed": True}
    assert hands.asked == [("health-h2-8080", "one"), ("health-h2-8080", "two")]
    assert hands.secret("admin-key") == "two"


def test_a_key_that_is_wrong_on_the_host_too_is_refused_after_one_look() -> None:
    hands = Wires()
    hands.secrets["admin-key"] = "three"
    with pytest.raises(RefusedError, match="X-Admin-Key is missing or wrong") as caught:
        hands.http("POST", "/lock/renew", {})
    assert caught.value.status == 401
    assert len(hands.asked) == 2


def test_a_secret_is_read_from_any_host_that_answers() -> None:
    hands = Wires()
    assert hands.secret("requirepass") == "two"
    hands.lost = set(hands.fleet.hosts)
    hands.secrets.clear()
    with pytest.raises(FastCacheError, match="h1: no route to host"):
        hands.secret("requirepass")

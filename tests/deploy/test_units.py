"""What makes a service out of date, and whether a reload is enough: decided from ages, as on the host."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fastcache.daemon import renewal

from .conftest import load

units = load("roles/fastcache/library/fastcache_units.py")


class Host:
    """A unit that was started a minute ago, and files of other ages."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        monkeypatch.setattr(units, "DEFINITIONS", str(directory / "units"))
        monkeypatch.setattr(units, "reload_mark", lambda name: str(directory / f"reloaded-{name}"))
        (directory / "units").mkdir()

    def file(self, name: str, seconds_ago: float) -> str:
        path = self.directory / name
        path.write_text("")
        then = time.time() - seconds_ago
        os.utime(path, (then, then))
        return str(path)

    def renewed_by(self, **unit: Any) -> str | None:
        started = time.clock_gettime(time.CLOCK_MONOTONIC) - 60
        state = {"InactiveExitTimestampMonotonic": str(int(started * 1e6))}
        given = {"name": "door@6382.service", "reads": [], "reads_at_start": [], "reload": True, **unit}
        way: str | None = units.how_to_renew(given, state)
        return way


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_what_is_older_than_the_start_renews_nothing(host: Host) -> None:
    host.file("units/door@.service", 100)
    old = host.file("settings", 90)
    assert host.renewed_by(reads=[old], reads_at_start=[old]) is None
    assert host.renewed_by(reads=["/not/there"]) is None


def test_new_settings_are_read_by_a_reload_where_the_service_knows_how(host: Host) -> None:
    new = host.file("settings", 10)
    assert host.renewed_by(reads=[new]) == "reload"
    assert host.renewed_by(reads=[new], reload=False) == "restart"
    # It has read them since.
    host.file("reloaded-door@6382.service", 5)
    assert host.renewed_by(reads=[new]) is None


def test_credentials_and_units_take_a_restart_in_any_case(host: Host) -> None:
    new = host.file("secret", 10)
    host.file("reloaded-door@6382.service", 5)
    assert host.renewed_by(reads_at_start=[new]) == "restart"
    host.file("units/door@.service", 10)
    assert host.renewed_by() == "restart"


def test_what_a_proxy_says_of_its_renewals_is_understood() -> None:
    class Log:
        def write(self, *_: object, **__: object) -> None:
            """Nobody reads it."""

    renewals = renewal.Renewals()
    said = units.RENEWED.search(f"STATUS=serving: clients 3, {renewals}")
    assert said.groups() == ("0", None, None)
    renewals.done = 2
    renewals.refuse(Log(), "the new program refuses its configuration")  # type: ignore[arg-type]
    said = units.RENEWED.search(f"STATUS=serving: clients 3, {renewals}")
    assert said.groups() == ("2", "1", "the new program refuses its configuration")

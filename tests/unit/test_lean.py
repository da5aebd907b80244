"""The lean process in parts: its log lines, its settings, its watchdog."""

import json
import os
from collections.abc import Callable

import pytest

from fastcache.daemon import launch, lean


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What the log wrote since the start of the test."""
    lines: list[bytes] = []
    monkeypatch.setattr(lean.posix, "write", lambda _descriptor, data: lines.append(data))
    return lambda: b"".join(lines).decode()


def test_a_json_line_is_json_whatever_it_holds(written: Callable[[], str]) -> None:
    lean.Log("node-1", json=True).write("error", 'bad "setting"', error="line\nbreak \\ \x01 ü", port=7001)
    line = json.loads(written())
    assert line["event"] == 'bad "setting"'
    assert line["error"] == "line\nbreak \\ \x01 ü"
    assert line["port"] == 7001
    assert line["process"] == "node-1"
    assert line["time"].endswith("Z")


def test_a_console_line_reads_from_left_to_right(written: Callable[[], str]) -> None:
    lean.Log("node-1", json=False).write("info", "serving", port=7001)
    assert written().endswith(" info    node-1 serving port=7001\n")


def test_settings_arrive_as_they_were_sent() -> None:
    settings = [("port", "7001"), ("requirepass", "pä ss=wörd"), ("unixsocket", "")]
    assert lean.settings_from(launch.sealed_settings(settings)) == settings


def test_no_settings_arrive_as_none() -> None:
    assert lean.settings_from(launch.sealed_settings([])) == []


def test_the_watchdog_is_fed_three_times_in_its_time_and_only_if_it_watches_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lean.posix, "environ", {})
    assert lean.watchdog_interval() == 0
    monkeypatch.setattr(lean.posix, "environ", {b"WATCHDOG_USEC": b"6000000"})
    assert lean.watchdog_interval() == 2.0
    monkeypatch.setattr(lean.posix, "environ", {b"WATCHDOG_USEC": b"6000000", b"WATCHDOG_PID": b"1"})
    assert lean.watchdog_interval() == 0
    own = str(os.getpid()).encode()
    monkeypatch.setattr(lean.posix, "environ", {b"WATCHDOG_USEC": b"6000000", b"WATCHDOG_PID": own})
    assert lean.watchdog_interval() == 2.0


def test_passwords_stand_neither_in_the_arguments_nor_in_the_environment() -> None:
    descriptor = launch.sealed_settings([("requirepass", "s3cret")])
    assert "s3cret" not in " ".join(launch.command("node-7001", descriptor))
    os.close(descriptor)

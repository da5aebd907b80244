"""A host is looked at once; files that are as they were seen cost no second trip."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import load, run

look = load("roles/fastcache/library/fastcache_look.py")
files = load("roles/fastcache/action_plugins/fastcache_files.py")
units = load("roles/fastcache/action_plugins/fastcache_units.py")


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    """A file as a role describes it, and as the host has it."""
    path = tmp_path / "node.toml"
    path.write_text("port = 7001\n")
    path.chmod(0o640)
    owners = {key: look.fingerprint(str(path))[key] for key in ("owner", "group")}
    return {"path": str(path), "content": "port = 7001", "mode": "0640", **owners}


def seen(*paths: str) -> dict[str, dict[str, str]]:
    return {path: look.fingerprint(path) for path in paths}


def test_a_file_that_is_as_described_is_known_by_its_fingerprint(written: dict[str, Any]) -> None:
    assert files.as_seen(written, seen(written["path"]))


@pytest.mark.parametrize(
    "other",
    [{"content": "port = 7002"}, {"mode": "0600"}, {"owner": "another"}, {"secret": True}, {"content": None}],
)
def test_a_file_that_differs_or_is_secret_is_carried_to_the_host(
    written: dict[str, Any], other: dict[str, Any]
) -> None:
    assert not files.as_seen(written | other, seen(written["path"]))
    assert not files.as_seen(written, {})


def test_patterns_find_what_is_there_and_links_tell_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "1.0").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "1.0")
    assert look.found([f"{tmp_path}/*", f"{tmp_path}/none", f"{tmp_path}/current"]) == [
        f"{tmp_path}/1.0",
        f"{tmp_path}/current",
    ]
    assert look.target(f"{tmp_path}/current") == f"{tmp_path}/1.0"
    assert look.target(f"{tmp_path}/1.0") == ""


def test_only_what_differs_is_written_and_what_was_seen_of_it_is_no_longer_believed(
    written: dict[str, Any], tmp_path: Path
) -> None:
    """The first was seen as it shall be, and is gone since: nobody goes and looks. The second is another.

    Services may read it: their units are asked about then, also after a secret, of which nothing is told.
    """
    first, path = written, tmp_path / "proxy.toml"
    path.write_text("old\n")
    second = {**written, "path": str(path), "content": "new", "mode": "0644"}
    secret = {**second, "path": str(tmp_path / "requirepass"), "secret": True}
    facts = {"fastcache_seen": {"files": seen(first["path"], str(path)), "units": {"a.service": {}}}}
    Path(first["path"]).unlink()
    tasks = [
        {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
        {"fastcache_files": {"files": [first]}, "register": "as_seen"},
        {"ansible.builtin.assert": {"that": "ansible_facts.fastcache_seen.units | length == 1"}},
        {"fastcache_files": {"files": [secret]}, "no_log": True},
        {"ansible.builtin.assert": {"that": "ansible_facts.fastcache_seen.units == {}"}},
        {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
        {"fastcache_files": {"files": [second]}, "register": "differs"},
        {
            "ansible.builtin.assert": {
                "that": [
                    "as_seen is not changed",
                    f"differs.written == ['{path}']",
                    f"ansible_facts.fastcache_seen.files.keys() | list == ['{first['path']}']",
                    "ansible_facts.fastcache_seen.units == {}",
                ]
            }
        },
    ]
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(play))
    run("ansible-playbook", "-i", "localhost,", "-e", "ansible_python_interpreter=/usr/bin/python3", playbook)
    assert path.read_text() == "new\n"
    assert not Path(first["path"]).exists()


UNIT = {"name": "fastcache-node@7001.service", "enabled": True, "reads": ["/etc/node.toml"]}


def at_rest() -> dict[str, Any]:
    """A host on which that unit runs as it is to, with all that is seen of it."""
    return {
        "units": {UNIT["name"]: {"active": "active", "enabled": "enabled", "started": 100.0}},
        "units_read": 500.0,
        "ages": {
            "/etc/node.toml": 101.0,
            "/etc/systemd/system/fastcache-node@.service": 300.0,
            "/etc/systemd/system/fastcache-node@.service.d/fastcache.conf": 300.0,
            "/run/fastcache-units-read": 200.0,
        },
        "looked": ["/etc/*.toml", "/var/lib/fastcache/nodes-away"],
    }


def test_a_unit_at_rest_is_not_asked_about_again() -> None:
    away = "/var/lib/fastcache/nodes-away"
    assert units.nothing_to_do({"units": [UNIT]}, at_rest())
    assert units.nothing_to_do({"units": [UNIT], "unfinished": away}, at_rest())
    assert units.nothing_to_do(
        {"units": [UNIT | {"reload": True, "reads_at_start": ["/etc/node.toml"]}]}, at_rest()
    )


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("units", UNIT["name"], {"active": "failed", "enabled": "enabled", "started": 100.0}),
        ("units", UNIT["name"], {"active": "active", "enabled": "disabled", "started": 100.0}),
        ("ages", "/etc/node.toml", 99.0),
        ("ages", "/etc/systemd/system/fastcache-node@.service", 99.0),
        ("ages", "/etc/systemd/system/fastcache-node@7001.service.d/mine.conf", 99.0),
        # Of another unit, and not read yet: systemd is told to.
        ("ages", "/etc/systemd/system/haproxy.service.d/fastcache.conf", 150.0),
    ],
)
def test_a_unit_that_is_not_at_rest_is_asked_about(place: str, key: str, value: Any) -> None:
    seen = at_rest()
    seen[place][key] = value
    assert not units.nothing_to_do({"units": [UNIT]}, seen)


def test_what_was_not_seen_is_asked_about() -> None:
    seen = at_rest()
    assert not units.nothing_to_do({"units": [UNIT]}, {})
    assert not units.nothing_to_do({"units": [UNIT]}, seen | {"units": {}})
    assert not units.nothing_to_do({"units": [UNIT | {"name": "other.service"}]}, seen)
    assert not units.nothing_to_do({"units": [UNIT | {"reads": ["/etc/other.toml"]}]}, seen)
    assert not units.nothing_to_do({"units": [UNIT | {"state": "stopped"}]}, seen)
    assert not units.nothing_to_do({"units": [UNIT], "unfinished": "/somewhere/else"}, seen)
    seen["ages"]["/var/lib/fastcache/nodes-away"] = 7.0
    assert not units.nothing_to_do({"units": [UNIT], "unfinished": "/var/lib/fastcache/nodes-away"}, seen)


def test_a_reload_makes_what_was_read_older_but_not_what_is_read_at_the_start() -> None:
    unit, seen = UNIT | {"reload": True}, at_rest()
    seen["ages"] |= {"/etc/node.toml": 50.0, f"/run/fastcache-reloaded-{UNIT['name']}": 49.0}
    assert units.nothing_to_do({"units": [unit]}, seen)
    assert not units.nothing_to_do({"units": [unit | {"reads_at_start": ["/etc/node.toml"]}]}, seen)
    seen["ages"]["/etc/node.toml"] = 48.0
    assert not units.nothing_to_do({"units": [unit]}, seen)


def test_definitions_are_read_once_after_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd tells of its first reading alone: without a mark every run would have them read again."""
    module = load("roles/fastcache/library/fastcache_units.py")
    said = []

    class Quiet(module.Systemd):  # type: ignore[misc, name-defined]
        def do(self, *words: str) -> str:
            said.append(words[0])
            return "UnitsLoadFinishTimestampMonotonic=1"

    monkeypatch.setattr(module, "DEFINITIONS", str(tmp_path))
    monkeypatch.setattr(module, "READ_MARK", str(tmp_path / "read"))
    unit = tmp_path / "fastcache-node@.service"
    unit.write_text("[Service]\n")
    for _ in range(3):
        Quiet(None).learn_definitions()
    assert said.count("daemon-reload") == 1
    later = time.time() + 1
    os.utime(unit, (later, later))
    Quiet(None).learn_definitions()
    assert said.count("daemon-reload") == 2

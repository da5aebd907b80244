"""A host is looked at once; files that are as they were seen cost no second trip."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import load, run

look = load("roles/fastcache/library/fastcache_look.py")
files = load("roles/fastcache/action_plugins/fastcache_files.py")


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


def test_only_what_differs_is_written_and_what_was_written_is_no_longer_known(
    written: dict[str, Any], tmp_path: Path
) -> None:
    """The first was seen as it shall be, and is gone since: nobody goes and looks. The second is another."""
    first, path = written, tmp_path / "proxy.toml"
    path.write_text("old\n")
    second = {**written, "path": str(path), "content": "new", "mode": "0644"}
    facts = {"fastcache_seen": {"files": seen(first["path"], str(path))}}
    Path(first["path"]).unlink()
    tasks = [
        {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
        {"fastcache_files": {"files": [first]}, "register": "as_seen"},
        {"fastcache_files": {"files": [second]}, "register": "differs"},
        {
            "ansible.builtin.assert": {
                "that": [
                    "as_seen is not changed",
                    f"differs.written == ['{path}']",
                    f"ansible_facts.fastcache_seen.files.keys() | list == ['{first['path']}']",
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

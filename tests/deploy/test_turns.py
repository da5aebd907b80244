"""Rolling changes by playbooks: which hosts go together, when a turn may begin, which budgets are refused."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from fastcache.runbook import turns as rules

from .conftest import PROJECT, run

RACK = {"h1": "r1", "h2": "r2", "h3": "r1", "h4": "r2", "h5": "r1"}
HOSTS = list(RACK)


def inventory(directory: Path, **settings: Any) -> Path:
    """Five hosts in two racks that are this machine in truth."""
    every = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
    content = {
        "all": {
            "vars": every | settings,
            "hosts": {host: {"fastcache_rack": rack} for host, rack in RACK.items()},
            "children": {group: {"hosts": dict.fromkeys(HOSTS)} for group in ("nodes", "proxies")},
        }
    }
    file = directory / "hosts.yml"
    file.write_text(json.dumps(content))
    return file


def played(
    directory: Path, plays: list[dict[str, Any]], *words: str, **settings: Any
) -> CompletedProcess[str]:
    playbook = directory / "playbook.yml"
    playbook.write_text(json.dumps(plays))
    return run("ansible-playbook", "-i", inventory(directory, **settings), playbook, *words, check=False)


# --- turns ------------------------------------------------------------------------------------------


def serial_plays() -> list[tuple[str, str]]:
    """Every play of ours that goes in turns: its playbook and its name."""
    return [
        (playbook, play["name"])
        for playbook in ("site.yml", "playbooks/upgrade.yml", "playbooks/rollback.yml")
        for play in yaml.safe_load((PROJECT / playbook).read_text())
        if "serial" in play
    ]


def test_the_plays_that_renew_what_runs_are_known_here() -> None:
    assert len(serial_plays()) == 4


@pytest.mark.parametrize(("playbook", "name"), serial_plays())
def test_a_play_takes_the_hosts_in_the_turns_of_the_pure_function(
    playbook: str, name: str, tmp_path: Path
) -> None:
    plays = yaml.safe_load((PROJECT / playbook).read_text())
    (play,) = [one for one in plays if one["name"] == name]
    group = re.search(r"fastcache_turns\('(\w+)'", play["vars"]["turns"])
    assert group
    first = play["tasks"][0]
    assert first["ansible.builtin.include_role"]["tasks_from"] == "room", "before anything is done to a host"
    assert first["when"] == "ansible_play_batch | length > 1"
    who = {"ansible.builtin.debug": {"msg": "turn: {{ ansible_play_batch | join(' ') }}"}, "run_once": True}
    grouping = {"ansible.builtin.group_by": {"key": group[1]}}
    failed = {
        "ansible.builtin.add_host": {"name": "h4", "groups": "fastcache_away"},
        "when": "ill is defined",
    }
    before = {"name": "Group", "hosts": "nodes", "gather_facts": False, "tasks": [grouping, failed]}
    racks = {"r1": 2, "r2": 2}
    cases: list[tuple[list[str], list[str], dict[str, int], list[str]]] = [
        ([], HOSTS, {}, []),
        (["-e", "fastcache_rack_budget=2"], HOSTS, racks, []),
        (["-e", "fastcache_rack_budget=2", "-e", "ill=h4"], HOSTS, racks, ["h4"]),
        (["-e", "fastcache_rack_budget=2", "--limit", "h2,h3,h5"], ["h2", "h3", "h5"], racks, []),
    ]
    for words, hosts, budgets, away in cases:
        answer = played(tmp_path, [before, {**play, "tasks": [who]}], *words)
        assert answer.returncode == 0, answer.stdout
        found = [line.split() for line in re.findall(r"turn: ([\w ]+)", answer.stdout)]
        assert found == rules.turns(hosts, RACK, budgets, away), words


def test_a_play_in_turns_of_nobody_does_nothing(tmp_path: Path) -> None:
    plays = yaml.safe_load((PROJECT / "site.yml").read_text())
    (play,) = [one for one in plays if one["name"] == "Renew nodes with old settings, in turns"]
    fails = {"ansible.builtin.fail": {"msg": "somebody was here"}}
    answer = played(tmp_path, [{**play, "tasks": [fails]}])
    assert answer.returncode == 0, answer.stdout
    assert "no hosts matched" in answer.stdout


def test_nodes_of_a_turn_hand_over_at_once_those_that_are_to_start_again(tmp_path: Path) -> None:
    stale = {"h1": ["node"], "h3": [], "h5": ["node"]}
    state = {
        "ansible.builtin.set_fact": {
            "fastcache_node_state": {
                "stale": "{{ stale[inventory_hostname] }}",
                "renewed": "{{ stale[inventory_hostname] }}",
                "unfinished": "{{ inventory_hostname == 'h3' }}",
            }
        },
        "when": "inventory_hostname != 'h2'",
    }
    told = {
        "ansible.builtin.debug": {
            "msg": "leave: {{ fastcache_node_leaving | join(' ') }}. "
            "back: {{ fastcache_node_returning | join(' ') }}."
        },
        "run_once": True,
    }
    play = {
        "name": "A turn",
        "hosts": "h1,h2,h3,h5",
        "gather_facts": False,
        "vars": {"stale": stale},
        "vars_files": [str(PROJECT / "roles/fastcache_node/defaults/main.yml")],
        "tasks": [state, told],
    }
    answer = played(tmp_path, [play])
    assert "leave: h1 h5. back: h1 h5 h3." in answer.stdout, answer.stdout


# --- between turns ----------------------------------------------------------------------------------


@contextlib.contextmanager
def health(status: dict[str, str]) -> Iterator[str]:
    """A health service that says so of every node and every proxy; the URL."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = [
                {"nodeId": f"{kind}-{host}", "status": status.get(f"{kind}-{host}", "HEALTHY")}
                for kind in ("node", "proxy")
                for host in HOSTS
            ]
            body = json.dumps(told if self.path == "/health/nodes" else None).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: who reads a test's output looks for what failed."""

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_turn_begins_and_ends_only_with_room_for_it(tmp_path: Path) -> None:
    members = [{"name": f"{kind}-{host}", "host": host} for kind in ("node", "proxy") for host in HOSTS]
    cases = [
        ({"turn": ["h1", "h3"]}, "3: h1, h2, h3 would be away at once, of racks r1, r2; not well: h2"),
        ({"turn": ["h4", "h2"]}, ""),
        ({}, ""),
        ({"renewed": ["h2"]}, "6: not well again after their turn: h2"),
        ({"turn": ["h1", "h3"], "needed": False}, "7 sees h2"),
    ]
    with health({"proxy-h2": "UNHEALTHY"}) as url:
        tasks = []
        for number, (arguments, _) in enumerate(cases, 3):
            asked = {"health": url, "members": members, "seconds": 0, **arguments}
            tasks += [
                {"fastcache_room": asked, "register": "seen", "ignore_errors": True},
                {
                    "ansible.builtin.debug": {
                        "msg": f"{number}: {{{{ seen.msg | default('') }}}}|"
                        f"{number} sees {{{{ seen.away | join(' ') }}}}"
                    }
                },
            ]
        play = {"name": "Ask", "hosts": "h1", "gather_facts": False, "tasks": tasks}
        answer = played(tmp_path, [play], fastcache_rack_budget=2)
        alone = played(tmp_path, [{**play, "tasks": tasks[4:6]}])
    said = re.sub(r"\s+", " ", answer.stdout)
    for number, (_, expected) in enumerate(cases, 3):
        assert expected in said, said
        if not expected:
            assert f"{number}: |" in said, said
    assert "rack r2 may miss 1 of its hosts at once" in re.sub(r"\s+", " ", alone.stdout), (
        "as ever, by default"
    )


def test_a_health_service_that_does_not_answer_stops_a_change(tmp_path: Path) -> None:
    asked = {"health": "http://127.0.0.1:1", "members": [], "seconds": 0}
    task = {"fastcache_room": asked}
    answer = played(tmp_path, [{"name": "Ask", "hosts": "h1", "gather_facts": False, "tasks": [task]}])
    assert answer.returncode != 0
    assert "the health service does not answer" in answer.stdout


# --- preflight --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"fastcache_rack_budget": 2}, ""),
        ({"fastcache_rack_budget": 2, "fastcache_replicas": 2}, "where 3 racks have nodes; 2 have"),
        ({"fastcache_rack_budget": 2, "fastcache_replicas": 0}, "there are no copies"),
        (
            {"fastcache_rack_budget": 2, "fastcache_health_settings": {"replica-placement": "pairs"}},
            "replica-placement is pairs",
        ),
        ({"fastcache_rack_budget": 0}, "it is a number of hosts that may be away at once, 1 or more"),
    ],
)
def test_preflight_refuses_a_budget_that_is_not_safe(settings: dict[str, Any], why: str) -> None:
    words = ["-e", json.dumps(settings)]
    answer = run(
        "ansible-playbook", "-i", "inventories/production", "playbooks/preflight.yml", *words, check=False
    )
    assert (answer.returncode == 0) is (why == ""), answer.stdout
    assert why in re.sub(r"\s+", " ", answer.stdout)


def test_preflight_refuses_a_larger_budget_where_a_rack_is_not_said(tmp_path: Path) -> None:
    file = inventory(tmp_path, fastcache_rack_budget=2, ansible_host="192.0.2.1")
    content = json.loads(file.read_text())
    for number, host in enumerate(content["all"]["hosts"].values(), 1):
        host["ansible_host"] = f"192.0.2.{number}"
    del content["all"]["hosts"]["h4"]["fastcache_rack"]
    file.write_text(json.dumps(content))
    answer = run("ansible-playbook", "-i", file, "playbooks/preflight.yml", check=False)
    assert answer.returncode != 0
    said = re.sub(r"\s+", " ", answer.stdout)
    assert "nobody has said in which rack stand h4: give each host fastcache_rack" in said
    assert "rack r1 has 3 of 5 nodes" in said, "every reason at once"

"""A run as a table of steps and hosts."""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from .conftest import PROJECT, load

progress = load("roles/fastcache/callback_plugins/fastcache_progress.py")

PLAYBOOK = """
- name: Prepare
  hosts: all
  gather_facts: false
  tasks:
    - name: Something to do
      ansible.builtin.debug:
        msg: done
      changed_when: true
- name: Break one
  hosts: all
  gather_facts: false
  tasks:
    - name: Only the first is well
      ansible.builtin.fail:
        msg: this one has no disk
      when: inventory_hostname == 'h2'
    - name: Nobody is told of it
      ansible.builtin.fail:
        msg: hush-hush
      no_log: true
      when: inventory_hostname == 'h1'
"""


def played(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(PLAYBOOK)
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "h1,h2,", "-c", "local", playbook],
        cwd=PROJECT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "fastcache_progress"},
    )  # fmt: skip


def test_without_a_terminal_every_step_is_a_line_and_failures_are_told_in_full(tmp_path: Path) -> None:
    done = played(tmp_path)
    assert done.returncode == 2
    lines = [line.partition(" (")[0] + line.partition("):")[2] for line in done.stdout.splitlines()]
    assert "Prepare h1 1 changed, h2 1 changed" in lines, done.stdout + done.stderr
    assert "Break one h1 FAILED, h2 FAILED" in lines
    assert "h2: Only the first is well" in done.stdout
    assert "this one has no disk" in done.stdout
    assert "h1: Nobody is told of it" in done.stdout
    assert "hush-hush" not in done.stdout + done.stderr
    assert "FAILED on h1, h2" in lines[-1]


def drawn(board: object, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(board.drawn(1000.0))  # type: ignore[attr-defined]
    return console.export_text()


def test_a_table_has_a_row_for_each_step_and_a_column_for_each_host() -> None:
    board = progress.Board()
    board.steps = [progress.Step("Prepare", 940.0), progress.Step("Run the nodes", 990.0)]
    board.steps[0].cells = {
        name: progress.Cell(changed=number) for number, name in enumerate(["h1", "h10", "h2"])
    }
    board.steps[0].end(960.0)
    board.steps[1].cells = {"h1": progress.Cell(running=True), "h2": progress.Cell(failed="FAILED")}
    text = drawn(board)
    head, first, second = [line.split() for line in text.splitlines()[:3]]
    assert head == ["step", "s", "h1", "h2", "h10"]
    assert first == ["Prepare", "20", "ok", "2", "changed", "1", "changed"]
    assert second == ["Run", "the", "nodes", "10", "running", "FAILED", "-"]


def test_of_many_hosts_it_is_told_how_many_are_how_far() -> None:
    board = progress.Board()
    board.steps = [progress.Step("Prepare", 990.0)]
    board.steps[0].cells = {f"h{number}": progress.Cell(changed=number % 3) for number in range(50)}
    board.steps[0].cells["h7"].failed = "UNREACHABLE"
    text = drawn(board)
    assert "1 UNREACHABLE" in text
    assert "17 ok" in text
    assert "32 changed" in text

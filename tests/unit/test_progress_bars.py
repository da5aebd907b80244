"""On a terminal slots move with their plan first, then a bar with the time left, and last the way back."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastcache.cli import rebalance
from fastcache.errors import FastCacheError

PROGRAM = Path(sys.executable).with_name("fastcache")
PROJECT = Path(__file__).resolve().parents[2]
PLAN = {
    "moves": [{"from": "n1", "to": "n2", "slots": 1000, "keys": 5000, "bytes": 2_000_000}],
    "slots": 1000, "keys": 5000, "bytes": 2_000_000, "seconds": 3.0, "copies": 0, "hitRateDip": 0.0,
}  # fmt: skip


def state(word: str, moved: int) -> dict[str, Any]:
    return {
        "state": word, "slotsMoved": moved, "slotsLeft": 1000 - moved, "slotsTotal": 1000,
        "keysMoved": 5 * moved, "moves": [], "seconds": 1.5, "secondsLeft": (1000 - moved) / 400,
        "givenUp": 0, "waits": "", "replicas": 0, "copiesLeft": 0,
        "pace": {"megabytesPerSecond": 0.0, "p99Ms": 0.0},
    }  # fmt: skip


class Health(BaseHTTPRequestHandler):
    """Answers as a health service whose slots move a bit further with every look."""

    looks: list[int]
    asked: list[str]
    # Looks that are not answered.
    silent: range

    def answer(self, what: object) -> None:
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/topology":
            return self.answer({"nodes": [{"id": "n1", "weight": 100}, {"id": "n2", "weight": 100}]})
        self.looks.append(len(self.looks))
        if self.looks[-1] in self.silent:
            self.close_connection = True
            return None
        moved = min(self.looks[-1] * 100, 1000)
        return self.answer(state("running" if moved < 1000 else "idle", moved))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path)
        self.answer(PLAN)

    def log_message(self, *_words: object) -> None: ...


@pytest.fixture
def service() -> Iterator[str]:
    Health.looks, Health.asked, Health.silent = [], [], range(0)
    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def on_a_terminal(command: list[str], **environment: str) -> str:
    """What a command shows on a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **environment}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=PROJECT)
    os.close(theirs)
    shown = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # Nobody has the other end any more.
            break
        if not some:
            break
        shown += some
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def in_order(text: str, *parts: str) -> None:
    at = 0
    for part in parts:
        found = re.search(part, text[at:])
        assert found, f"{part!r} is not (in this place) in {text!r}"
        at += found.end()


def test_the_command_shows_the_plan_then_a_bar_then_the_way_back(service: str) -> None:
    shown = on_a_terminal([str(PROGRAM), "rebalance", "start", "--weight", "n1=50", "--health", service])
    in_order(
        shown,
        "n1 -> n2: 1000 slots, about 5000 keys, 2.0 MB",
        "1000 slots with about 5000 keys .* move in about 3 s",
        "slots .*━.* [1-9]00/1000 .*keys.* 0:00:0",
        "1000 slots with 5000 keys moved in 1.5 s",
        "The way back: fastcache rebalance start --weight n1=100",
    )
    assert Health.asked == ["/rebalance/plan", "/rebalance/start"]


def test_who_watches_goes_on_when_a_look_is_not_answered(service: str) -> None:
    Health.silent = range(3, 6)
    shown = on_a_terminal([str(PROGRAM), "rebalance", "status", "--watch", "--health", service])
    in_order(shown, "slots .*━.* [1-9]00/1000", "1000 slots with 5000 keys moved in 1.5 s")
    Health.looks.clear()
    shown = on_a_terminal([str(PROGRAM), "rebalance", "status", "--watch", "-o", "json", "--health", service])
    told = [json.loads(line) for line in shown.splitlines()]
    assert [one["slotsMoved"] for one in told] == [0, 100, 200, 600, 700, 800, 900, 1000]
    assert [one["state"] for one in told] == ["running"] * 7 + ["idle"]


def test_who_watches_hears_at_once_that_nobody_is_there_and_in_the_end_that_nobody_is_any_more(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalance, "STUCK_SECONDS", 0.5)
    Health.silent = range(2, 1000)
    with pytest.raises(FastCacheError, match="does not answer"):
        list(rebalance.looks(service))
    assert len(Health.looks) > 3, "it was asked again"
    Health.looks.clear()
    Health.silent = range(1000)
    with pytest.raises(FastCacheError, match="does not answer"):
        list(rebalance.looks(service))
    assert Health.looks == [0]


RUNBOOK = """
import dataclasses, fabfile
from fastcache.runbook import moving
from fastcache.runbook.operation import Consent, carry_out
from tests.unit.runbook_fleet import World
from tests.unit.test_runbook_moving import PLAN, state
looks = [state("running", 100 * one, 1000 - 100 * one) for one in range(10)] + [state("idle", 1000)]
here = World(planned=PLAN, moves=looks, ticks=lambda _world: __import__("time").sleep(0.15))
show = fabfile.Terminal(quiet=False)
operation = moving.drain(here, "h1")
carry_out(operation, here, show, Consent(yes=True, owner="ann@a", gate_seconds=30))
show.close()
"""


def test_the_runbook_shows_the_plan_and_the_way_back_then_a_bar() -> None:
    shown = on_a_terminal([sys.executable, "-c", RUNBOOK], PYTHONPATH=str(PROJECT))
    in_order(
        shown,
        "drain: .*1000 slots with about 5000 keys",
        "1. 500 slots from node-h1-7001 to node-h2-7001",
        "the way back: fab rebalance --weights node-h1-7001=100",
        "━.* 0/1 .*500 of 1000 slots moved, 2500 keys, about 2 s left",
        "ok move slots: 1000 slots with 5000 keys",
    )

"""A node and a fleet of four for the frameworks, or a fleet that is there already (given.py), and the
programs that they run beside us.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance.fleet import start_fleet
from tests.conformance.servers import Server, start_ours
from tests.frameworks.given import Given, given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
# Workers are whole programs that import much, on machines that may be busy.
PATIENCE = 120.0


@pytest.fixture(scope="session", params=["given"] if given() else ["node", "fleet"])
def shared_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    start = start_fleet if request.param == "fleet" else start_ours
    server = given() or start(tmp_path_factory.mktemp("f"))
    yield server
    server.stop()


@pytest.fixture
def node(shared_node: Server) -> Iterator[Server]:
    """The node, empty; or four nodes behind HAProxy and a proxy, which stand for one."""
    shared_node.clean()
    yield shared_node
    shared_node.hang_up()
    assert shared_node.alive(), shared_node.log.read_text(errors="replace")[-3000:]


@pytest.fixture
def url(node: Server) -> str:
    return node.url if isinstance(node, Given) else f"redis://127.0.0.1:{node.port}/0"


@pytest.fixture
def program(tmp_path: Path, url: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Python modules that find the node in FRAMEWORKS_URL; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "FRAMEWORKS_URL": url, "PYTHONPATH": str(ROOT)}
        with (tmp_path / f"program-{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-m", *words]
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        started.append(child)
        return child

    yield start
    for child in started:
        child.terminate()
    for child in started:
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(done: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} seconds"
        time.sleep(0.05)

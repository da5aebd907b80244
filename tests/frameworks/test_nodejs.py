"""Node.js programs on a node, unmodified: ioredis, node-redis, BullMQ."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance.fleet import Fleet

if TYPE_CHECKING:
    from tests.conformance.servers import Server

HERE = Path(__file__).parent / "nodejs"
CACHE = Path(__file__).resolve().parents[2] / ".venv" / "nodejs"
PATIENCE = 300


def installed_packages() -> Path:
    """A directory with the packages and our programs; made once, and anew when what is wanted changes."""
    npm = shutil.which("npm")
    assert npm is not None, "Node.js and npm are needed: apt-get install nodejs npm"
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_bytes()
    there = CACHE / "package.json"
    if not there.exists() or there.read_bytes() != wanted or not (CACHE / "node_modules").is_dir():
        there.write_bytes(wanted)
        try:
            command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
            subprocess.run(command, cwd=CACHE, check=True, timeout=PATIENCE)
        except BaseException:
            there.unlink()
            raise
    for program in HERE.glob("*.mjs"):
        shutil.copy(program, CACHE)
    return CACHE


@pytest.fixture(scope="session")
def packages() -> Path:
    return installed_packages()


@pytest.mark.parametrize("program", sorted(path.name for path in HERE.glob("*.mjs")))
def test_a_nodejs_program_works_on_a_node(packages: Path, url: str, node: Server, program: str) -> None:
    environment = {**os.environ, "FRAMEWORKS_URL": url}
    if program.startswith("cluster"):
        if not isinstance(node, Fleet):
            pytest.skip("for cluster clients there must be a cluster, whose nodes are ours to ask")
        environment["FRAMEWORKS_NODE"] = f"redis://127.0.0.1:{node.node}"
    ran = subprocess.run(
        ["node", program],
        cwd=packages,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"

"""Sidekiq on a node, unmodified: queues, bulk, jobs for later, jobs that are tried again, its API."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

import pytest

HERE = Path(__file__).parent / "ruby"
PATIENCE = 300


@pytest.fixture
def environment(url: str) -> dict[str, str]:
    return {**os.environ, "FRAMEWORKS_URL": url}


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Sidekiq process that serves two queues, the critical one first."""
    sidekiq = shutil.which("sidekiq")
    assert sidekiq is not None, "Sidekiq is needed: apt-get install ruby-sidekiq"
    # It looks for jobs whose time has come at intervals; the shortest that it takes.
    options = tmp_path / "sidekiq.yml"
    options.write_text(
        ":queues: [critical, default]\n:strict: true\n:concurrency: 3\n:poll_interval_average: 1\n"
    )
    command = [sidekiq, "--require", str(HERE / "jobs.rb"), "--config", str(options)]
    with (tmp_path / "worker.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield child
    child.terminate()
    try:
        child.wait(30)
    finally:
        child.kill()


def test_sidekiq_does_its_jobs(
    worker: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path
) -> None:
    command = ["ruby", str(HERE / "ask.rb")]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    log = (tmp_path / "worker.log").read_text(errors="replace")
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{log}"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, (tmp_path / "worker.log").read_text(errors="replace")

"""A short torture of real processes (tests/torture): nothing acknowledged is lost, nothing stale is read.

Long ones: `make torture`. The day is the seed, and a failure prints it with where the history is.
"""

import os
import time
from pathlib import Path

import pytest

from tests.torture.__main__ import torture
from tests.torture.hosts import possible

SEED = int(os.environ.get("FASTCACHE_TORTURE_SEED", time.time() // 86400))


@pytest.mark.skipif(not possible(), reason="hosts of its own need root, ip and nft")
@pytest.mark.parametrize(
    "kinds",
    [
        ["kill", "restart", "pause"],
        ["isolate", "unseen", "cut", "one-way"],
        ["slow", "clock", "disk", "wipe"],
    ],
)
def test_a_cluster_under_faults_keeps_its_promises(tmp_path: Path, kinds: list[str]) -> None:
    outcomes = list(torture(tmp_path, SEED, 3, kinds, clients=4))
    broken = [f"{outcome.fault}: {outcome.broken}" for outcome in outcomes if outcome.broken]
    assert not broken, f"seed {SEED}, {tmp_path}: {broken}"
    assert sum(outcome.operations for outcome in outcomes) > 100

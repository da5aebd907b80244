"""A short torture of real processes (tests/torture): nothing acknowledged is lost, nothing stale is read.

Long ones: `make torture`. The day is the seed, and a failure prints it with where the history is.
"""

import os
import time
from pathlib import Path

import pytest

from tests.torture.__main__ import PACE, torture
from tests.torture.hosts import possible

SEED = int(os.environ.get("FASTCACHE_TORTURE_SEED", time.time() // 86400))


@pytest.mark.skipif(not possible(), reason="hosts of its own need root, ip and nft")
@pytest.mark.parametrize("kinds", [["kill", "restart", "pause"], ["isolate", "unseen", "cut", "one-way"]])
def test_a_cluster_under_faults_keeps_its_promises(tmp_path: Path, kinds: list[str]) -> None:
    outcome = torture(tmp_path, SEED, 15.0, kinds, clients=4, pace=PACE)
    assert not outcome["broken"], f"seed {SEED}: {outcome}"
    assert outcome["operations"] > 100

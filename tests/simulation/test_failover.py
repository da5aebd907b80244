"""Stories of failovers (failover_story.py): no promise is broken.

`make simulate` tells 10,000; here are some, others every day.
"""

import os
import time

import pytest

from tests.simulation.failover_story import told

# The day draws the seeds, so that more and more are told; a failure prints its own.
FIRST = int(os.environ.get("FASTCACHE_FIRST_STORY", int(time.time() // 86400) * 100))
STORIES = int(os.environ.get("FASTCACHE_STORIES", "120"))
BATCH = 20


@pytest.mark.parametrize("first", range(FIRST, FIRST + STORIES, BATCH))
def test_no_promise_is_broken(first: int) -> None:
    broken = [outcome for seed in range(first, first + BATCH) if (outcome := told(seed)).broken]
    assert not broken, f"python -m tests.simulation.failover_story --from {broken[0].seed} --seeds 1"


def test_one_seed_is_one_story() -> None:
    assert told(7) == told(7)
    assert told(7) != told(8)

"""Slots that move among copies in a world of faults (moving_story.py): no promise of strict mode is broken.

`make simulate` tells many; here are some, others every day.
"""

import os
import time

import pytest

from tests.simulation.moving_story import MUTANTS, told

FIRST = int(os.environ.get("FASTCACHE_FIRST_STORY", int(time.time() // 86400) * 100))
STORIES = int(os.environ.get("FASTCACHE_STORIES", "60"))
BATCH = 20
SEARCHED = 60
# The rule that is forgotten, the faults that show it, and a seed from which on they soon do.
CAUGHT_BY: list[tuple[str, list[str], int]] = [
    ("flipped-unjoined", ["giver", "taker"], 3),
    ("joined-not-waited", ["giver", "taker"], 80),
    ("opens-at-once", ["slow"], 100),
    ("copies-before-the-end", ["torn"], 407),
    ("handed-before-acknowledged", ["giver", "taker"], 17),
    ("taker-follows-on", ["deposed"], 0),
]


@pytest.mark.parametrize("first", range(FIRST, FIRST + STORIES, BATCH))
def test_no_promise_is_broken(first: int) -> None:
    outcomes = [told(seed) for seed in range(first, first + BATCH)]
    broken = [outcome for outcome in outcomes if outcome.broken]
    assert not broken, f"python -m tests.simulation.moving_story --from {broken[0].seed} --seeds 1"
    assert sum(outcome.moves for outcome in outcomes) > 3 * BATCH, "slots have moved"


@pytest.mark.parametrize(("mutant", "kinds", "first"), CAUGHT_BY, ids=[case[0] for case in CAUGHT_BY])
def test_a_rule_that_is_forgotten_shows(mutant: str, kinds: list[str], first: int) -> None:
    assert mutant in MUTANTS
    caught = next((seed for seed in range(first, first + SEARCHED) if told(seed, mutant, kinds).broken), None)
    assert caught is not None
    print(
        f"python -m tests.simulation.moving_story --mutant {mutant} --kinds {','.join(kinds)} --from {caught}"
    )
    assert not told(caught, "", kinds).broken, "the story itself is sound"

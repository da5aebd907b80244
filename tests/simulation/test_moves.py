"""Slots that move in a world of faults: one owner at any time, and no acknowledged write is lost.

A story is its seed, which a failure prints: World(seed).run(400). More of them: FASTCACHE_STORIES=10000.
"""

import os

import pytest

from tests.simulation.moves_world import BrokenError, World

STORIES = int(os.environ.get("FASTCACHE_STORIES", "80"))


def test_no_write_is_lost_and_no_slot_has_two_servers_whatever_falls() -> None:
    finished = 0
    for seed in range(STORIES):
        world = World(seed)
        try:
            world.run(400)
        except BrokenError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from None
        finished += world.finished
    assert finished > 3 * STORIES, "slots have moved"


@pytest.mark.parametrize("mutant", ["silence-is-death", "keep-is-only-said"])
def test_a_rule_that_somebody_forgets_is_noticed(mutant: str) -> None:
    for seed in range(4000):
        try:
            World(seed, mutant).run(400)
        except BrokenError:
            return
    raise AssertionError(f"{mutant} was not noticed")

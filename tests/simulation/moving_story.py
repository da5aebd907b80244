"""Stories of moves among copies: as failover_story.py tells them, with slots on their way all the time.

python -m tests.simulation.moving_story --seeds 10000 [--from N] [--mutant NAME] [--jobs 2]
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.history.linear import Verdict, judge
from tests.simulation.failover_story import ENDS, PATIENCE, heal, plan_faults
from tests.simulation.failover_world import SLOTS
from tests.simulation.moving_world import MovingWorld

MUTANTS = (
    "flipped-unjoined",
    "joined-not-waited",
    "opens-at-once",
    "copies-before-the-end",
    "handed-before-acknowledged",
    "taker-follows-on",
)


@dataclass(frozen=True)
class Outcome:
    """How a story ended; `broken` is empty when every promise was kept."""

    seed: int
    broken: tuple[str, ...]
    operations: int
    epochs: int
    moves: int


def told(seed: int, mutant: str = "", kinds: Sequence[str] = ()) -> Outcome:
    """Tell the story of a seed."""
    world = MovingWorld(
        seed,
        nodes=3 + (seed % 3 == 2),
        copies=2 if seed % 4 == 3 else 1,
        mutant=mutant,
        services=1 + (seed % 5 == 4),
    )
    plan_faults(world, kinds)
    at = 0.8
    while at < ENDS:
        world.at(at, world.draw_target)
        at += world.dice.expovariate(1 / 0.8)
    world.run_until(ENDS)
    heal(world)
    broken = [] if rested(world) else [f"slots do not come to rest: {world.store.document['moves']}"]
    for client in world.clients:
        client.resting = True
    world.run_until(world.now + 2.0)
    for slot in range(SLOTS):
        for client in world.clients:
            client.read_until_answered(slot)
        limit = world.now + PATIENCE
        while not all(client.answered for client in world.clients) and world.now < limit:
            world.run_until(world.now + 0.5)
        if not all(client.answered for client in world.clients):
            broken.append(f"slot {slot} was not served within {PATIENCE:.0f} s after everything healed")
    broken += world.broken
    for key, verdict in judge(world.history, seconds=20.0).items():
        if verdict is not Verdict.OK:
            broken.append(f"the history of slot {key} is {verdict}")
    begun = {one["id"] for document in world.saved.values() for one in document.get("moves", ())}
    epochs = int(world.store.document["epoch"])
    return Outcome(seed, tuple(broken), len(world.history), epochs, len(begun))


def rested(world: MovingWorld) -> bool:
    """Whether all slots get where they are to be once nothing goes wrong any more."""
    limit = world.now + PATIENCE
    while world.now < limit:
        world.run_until(world.now + 0.5)
        if world.at_rest():
            return True
    return False


def tell_all(seeds: range, mutant: str, jobs: int) -> int:
    """Tell many stories, on several processors; the exit code."""
    began, done, operations, moves = time.monotonic(), 0, 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(told, seeds, itertools.repeat(mutant), chunksize=5):
            done += 1
            operations += outcome.operations
            moves += outcome.moves
            if outcome.broken:
                print(f"seed {outcome.seed}: {'; '.join(outcome.broken)}")
                print(f"again: python -m tests.simulation.moving_story --from {outcome.seed} --seeds 1")
                pool.shutdown(cancel_futures=True)
                return 1
    seconds = time.monotonic() - began
    print(f"{done} stories from seed {seeds.start}: {operations} operations, {moves} moves, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tell seeded stories of moves among copies and judge them.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS])
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    sys.exit(tell_all(range(chosen.first, chosen.first + chosen.seeds), chosen.mutant, chosen.jobs))

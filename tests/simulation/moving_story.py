"""Stories of moves among copies: as failover_story.py tells them, with slots on their way all the time.

python -m tests.simulation.moving_story --seeds 10000 [--from N] [--mutant NAME] [--jobs 2]
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from fastcache.health.groups import Document, slots_in
from fastcache.health.moves import COPYING, FLIPPED, JOINED
from tests.history.linear import Verdict, judge
from tests.simulation import failover_story
from tests.simulation.failover_node import by_slot
from tests.simulation.failover_story import ENDS, PATIENCE, heal, plan_faults
from tests.simulation.failover_world import SLOTS, World
from tests.simulation.moving_world import MovingWorld

MUTANTS = (
    "flipped-unjoined",
    "joined-not-waited",
    "opens-at-once",
    "copies-before-the-end",
    "handed-before-acknowledged",
    "taker-follows-on",
)
# Besides those of failovers: who gives or takes falls at a chosen moment of a move; what givers send is slow
# for a while; a stream breaks as slots change hands; a giver is deposed and does not hear of it.
KINDS = (*failover_story.KINDS, "giver", "taker", "slow", "torn", "deposed")
OPEN = "open"


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
    plan_faults(world, kinds, KINDS, fault)
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


def fault(world: World, kind: str) -> Callable[[], None]:
    """Something goes wrong for a while."""
    if isinstance(world, MovingWorld):
        if kind in {"giver", "taker"}:
            return lambda: fall_in_a_move(world, kind)
        if kind in AT_A_MOVE:
            return lambda: AT_A_MOVE[kind](world)
    return failover_story.fault(world, kind)


def fall_in_a_move(world: MovingWorld, victim: str) -> None:
    """As soon as a move is so far one of the two falls, and until then what the giver sends may be slow.

    Sometimes its whole host falls, with what it had sent.
    """
    dice = world.dice
    moment = dice.choice([COPYING, JOINED, FLIPPED, FLIPPED, OPEN])
    delay = dice.choice([0.0, 0.05, 0.2]) * dice.uniform(0.7, 1.3)
    rest = dice.choice([0.0, 0.01, 0.1]) * dice.random()
    seconds, host = dice.choice([0.1, 0.5, 1.5]), dice.random() < 0.5
    until, slowed = world.now + 3.0, set[tuple[str, str]]()

    def look() -> None:
        moves = world.store.document.get("moves", ())
        for one in moves:
            link = (one["from"], one["to"])
            slowed.add(link)
            world.slow[link] = delay
        found = next((one for one in moves if reached(world, one, moment)), None)
        if found:
            world.at(world.now + rest, lambda: fall(found[{"giver": "from", "taker": "to"}[victim]]))
        elif world.now < until:
            world.at(world.now + 0.004, look)
        else:
            at_speed()

    def fall(name: str) -> None:
        at_speed()
        if world.safe_to_crash(name):
            world.crash(name, seconds, host=host)

    def at_speed() -> None:
        for link in slowed:
            world.slow.pop(link, None)

    look()


def slow_givers(world: MovingWorld) -> None:
    """What givers send is under way for longer."""
    delay, until, slowed = world.dice.choice([0.02, 0.05, 0.1, 0.2]), world.now + 2.5, set[tuple[str, str]]()

    def look() -> None:
        for one in world.store.document.get("moves", ()):
            slowed.add((one["from"], one["to"]))
            world.slow[one["from"], one["to"]] = delay
        if world.now < until:
            world.at(world.now + 0.02, look)
        else:
            for link in slowed:
                world.slow.pop(link, None)

    look()


def tear(world: MovingWorld) -> None:
    """The stream of a move breaks as its slots change hands and comes back late; then the taker falls."""
    until, late, rest = world.now + 3.0, world.dice.uniform(0.1, 0.4), world.dice.random() * 0.1
    slow_givers(world)

    def look() -> None:
        for one in world.store.document.get("moves", ()):
            giver = world.nodes[one["from"]]
            if one["id"] in giver.given and one["id"] in giver.giving:
                giver.giving[one["id"]].session.broken = True
                world.torn_until = world.now + late
                wait(one)
                return
        if world.now < until:
            world.at(world.now + 0.002, look)

    def wait(move: Document) -> None:
        if reached(world, move, OPEN):
            world.at(world.now + rest, lambda: crash(move["to"]))
        elif world.now < until:
            world.at(world.now + 0.002, lambda: wait(move))

    def crash(name: str) -> None:
        if world.dispensable(name):
            world.crash(name, 0.5)

    look()


def depose(world: MovingWorld) -> None:
    """The services lose sight of a giver, who goes on; later who took its place falls: the taker is left."""
    dice, until = world.dice, world.now + 4.0

    def look() -> None:
        for one in world.store.document.get("moves", ()):
            taking = world.nodes[one["to"]].taking.get(one["id"])
            if one["state"] != FLIPPED and taking and taking.whole:
                away = [service.name for service in world.services]
                pairs = {pair for name in away for pair in ((one["from"], name), (name, one["from"]))}
                world.cut |= pairs
                world.at(world.now + 4.0, partial(world.cut.difference_update, pairs))
                wait(one)
                return
        if world.now < until:
            world.at(world.now + 0.01, look)

    def wait(move: Document) -> None:
        groups = by_slot(world.store.document["slots"])
        held = [groups[slot] for slot in slots_in(move["ranges"])]
        if all(one.main not in {move["from"], move["to"]} and move["to"] in one.plain for one in held):
            world.at(world.now + dice.random() * 0.5, lambda: crash(held[0].main))
        elif world.now < until + 4.0:
            world.at(world.now + 0.01, lambda: wait(move))

    def crash(name: str) -> None:
        if world.dispensable(name):
            world.crash(name, 0.5)

    look()


AT_A_MOVE = {"slow": slow_givers, "torn": tear, "deposed": depose}


def reached(world: MovingWorld, move: Document, moment: str) -> bool:
    """Whether a move is so far; `open`: the taker has had the last word."""
    if moment == OPEN:
        return move["id"] in world.nodes[move["to"]].taken
    return bool(move["state"] == moment)


def rested(world: MovingWorld) -> bool:
    """Whether all slots get where they are to be once nothing goes wrong any more."""
    limit = world.now + PATIENCE
    while world.now < limit:
        world.run_until(world.now + 0.5)
        if world.at_rest():
            return True
    return False


def tell_all(seeds: range, mutant: str, kinds: Sequence[str], jobs: int) -> int:
    """Tell many stories, on several processors; the exit code."""
    began, done, operations, moves = time.monotonic(), 0, 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(told, seeds, itertools.repeat(mutant), itertools.repeat(kinds), chunksize=5):
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
    parser.add_argument("--kinds", default="", help=f"faults, by commas: {', '.join(KINDS)}")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    kinds = [kind for kind in chosen.kinds.split(",") if kind]
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    sys.exit(tell_all(seeds, chosen.mutant, kinds, chosen.jobs))

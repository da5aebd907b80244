"""One seeded story: a cluster, clients, faults; then all heals, everybody reads, and history is judged.

    python -m tests.simulation.failover_story --seeds 10000 [--from N] [--mutant NAME] [--jobs 2]

prints the first seed that broke a promise, with what broke. The same seed tells the same story again.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from fastcache.health.groups import Document, groups_of, slots_in
from tests.history.linear import Verdict, judge
from tests.simulation.failover_node import by_slot
from tests.simulation.failover_world import SLOTS, World

BEGINS, ENDS, PATIENCE = 1.5, 10.0, 30.0
MUTANTS = (
    "not-fenced",
    "acknowledged-before-replicas",
    "dirty-reads",
    "no-lease",
    "no-promotion-wait",
    "learner-promoted",
    "joined-in-one-step",
    "goes-on-without-grant",
    "run-not-checked",
    "epoch-not-checked",
    "store-not-fenced",
    "announce-before-save",
    "copy-over-replica",
    "alone-without-replicas",
    "filled-before-confirmed",
)


KINDS = (
    "crash",
    "pause",
    "cut",
    "isolate",
    "unseen",
    "one-way",
    "loss",
    "service",
    "service-pause",
    "heir",
    "joining",
)


# With these somebody loses his memory.
LOSING = {"crash", "heir", "joining", "giver", "taker", "torn", "deposed"}


@dataclass(frozen=True)
class Outcome:
    """How a story ended; `broken` is empty when every promise was kept."""

    seed: int
    broken: tuple[str, ...]
    operations: int
    epochs: int
    faults: int


def told(seed: int, mutant: str = "", kinds: Sequence[str] = ()) -> Outcome:
    """Tell the story of a seed, with these kinds of faults or with some that it draws itself."""
    copies = 2 if seed % 4 == 3 else 1
    world = World(seed, nodes=3 + (seed % 5 == 4), copies=copies, mutant=mutant, services=1 + (seed % 3 == 2))
    faults = plan_faults(world, kinds)
    world.run_until(ENDS)
    heal(world)
    world.run_until(ENDS + 1.0)
    for client in world.clients:
        client.resting = True
    world.run_until(ENDS + 3.0)
    broken = []
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
    return Outcome(seed, tuple(broken), len(world.history), int(world.store.document["epoch"]), faults)


def fault(world: World, kind: str) -> Callable[[], None]:
    """Something goes wrong for a while."""
    dice = world.dice
    names = sorted(world.nodes)
    seconds = dice.choice([0.1, 0.5, 1.5, 2.5]) * dice.uniform(0.7, 1.3)

    def cut(pairs: set[tuple[str, str]]) -> None:
        world.cut |= pairs
        world.at(world.now + seconds, lambda: world.cut.difference_update(pairs))

    def happen() -> None:
        name, other = dice.sample(names, 2)
        everybody = [process for process in world.processes if process != name]
        if kind == "crash" and world.safe_to_crash(name):
            world.crash(name, seconds / 2)
        elif kind == "heir":
            crash_the_heir(world, seconds)
        elif kind == "joining":
            part_from_who_joins(world, name)
        elif kind == "pause":
            world.pause(name, seconds)
        elif kind == "cut":
            cut({(name, other), (other, name)})
        elif kind == "one-way":
            target = dice.choice([other, *(service.name for service in world.services)])
            cut({dice.choice([(name, target), (target, name)])})
        elif kind == "unseen":
            # Nodes and clients see it, the health services do not: the main they depose lives.
            away = [service.name for service in world.services]
            cut(set(itertools.chain.from_iterable(((name, one), (one, name)) for one in away)))
        elif kind == "isolate":
            # Some clients stay with it on its side.
            away = [one for one in everybody if not one.startswith("c") or dice.random() < 0.5]
            cut(set(itertools.chain.from_iterable(((name, one), (one, name)) for one in away)))
        elif kind == "loss":
            world.loss = 0.05
            world.at(world.now + seconds, lambda: setattr(world, "loss", 0.0))
        elif kind == "service":
            world.crash(dice.choice(world.services).name, seconds)
        elif kind == "service-pause":
            world.pause(dice.choice(world.services).name, seconds)

    return happen


def plan_faults(
    world: World,
    kinds: Sequence[str],
    among: Sequence[str] = KINDS,
    fault: Callable[[World, str], Callable[[], None]] = fault,
) -> int:
    """Draw what goes wrong, and when. How much of each differs from story to story."""
    dice = world.dice
    kinds = kinds or dice.sample(among, 4)
    if not LOSING & set(kinds):
        # Nobody loses his memory, so nobody need be waited for.
        world.replace_after = 3.0
    at, count = BEGINS, 0
    while at < ENDS - 0.5:
        world.at(at, fault(world, dice.choice(kinds)))
        at += dice.expovariate(1 / 0.9)
        count += 1
    return count


def crash_the_heir(world: World, seconds: float) -> None:
    """The main of a slot dies, and who takes its place soon after, while the others still learn of it."""
    groups = groups_of(world.store.document["slots"])
    if not groups:
        return
    group = world.dice.choice(groups)
    if len(group.plain) < world.copies or not world.safe_to_crash(group.main):
        return
    slot, rest = next(iter(slots_in(group.ranges))), world.dice.uniform(0.0, 0.4)
    until = world.now + 2.5
    world.crash(group.main, 2.0 + seconds / 5)

    def look() -> None:
        heir = by_slot(world.store.document["slots"])[slot].main
        if heir != group.main:
            world.at(world.now + rest, lambda: world.safe_to_crash(heir) and world.crash(heir, seconds / 2))
        elif world.now < until:
            world.at(world.now + 0.02, look)

    look()


def part_from_who_joins(world: World, name: str) -> None:
    """A copy falls, its main goes on alone, and as another one joins the services lose sight of that main."""
    if not world.safe_to_crash(name):
        return
    alone = {group.main for group in groups_of(world.store.document["slots"]) if name in group.replicas}
    until, seconds = world.now + 4.0, 3.5 * world.dice.uniform(0.7, 1.3)
    world.crash(name, 0.5)

    def look(before: Document, after: Document) -> None:
        had, has = by_slot(before["slots"]), by_slot(after["slots"])
        joined = {
            group.main
            for slot, group in has.items()
            if group.replicas and slot in had and not had[slot].replicas and had[slot].main == group.main
        }
        for main in sorted(joined & alone)[:1]:
            away = [service.name for service in world.services]
            pairs = set(itertools.chain.from_iterable(((main, one), (one, main)) for one in away))
            world.cut |= pairs
            world.at(world.now + seconds, partial(world.cut.difference_update, pairs))
            world.watchers.remove(look)

    def give_up() -> None:
        if look in world.watchers:
            world.watchers.remove(look)

    world.watchers.append(look)
    world.at(until, give_up)


def heal(world: World) -> None:
    """No more faults; who is paused or down comes back by itself."""
    world.cut.clear()
    world.slow.clear()
    world.watchers.clear()
    world.loss = 0.0


def first_broken(seeds: range, mutant: str = "") -> Outcome | None:
    """The first of these stories in which a promise is broken."""
    return next((outcome for seed in seeds if (outcome := told(seed, mutant)).broken), None)


def tell_all(seeds: range, mutant: str, jobs: int) -> int:
    """Tell many stories, on several processors; the exit code."""
    began, done, operations, epochs, faults = time.monotonic(), 0, 0, 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(told, seeds, itertools.repeat(mutant), chunksize=10):
            done += 1
            operations += outcome.operations
            epochs += outcome.epochs
            faults += outcome.faults
            if outcome.broken:
                print(f"seed {outcome.seed}: {'; '.join(outcome.broken)}")
                print(f"again: python -m tests.simulation.failover_story --from {outcome.seed} --seeds 1")
                pool.shutdown(cancel_futures=True)
                return 1
    seconds = time.monotonic() - began
    print(
        f"{done} stories from seed {seeds.start}: {operations} operations, {faults} faults, {epochs} epochs, "
        f"no promise broken, {seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tell seeded stories of failovers and judge them.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS])
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    sys.exit(tell_all(range(chosen.first, chosen.first + chosen.seeds), chosen.mutant, chosen.jobs))

"""A course: a cluster with a load on it, and rounds of one fault each, every one of which is judged.

After a fault everything heals, every client reads every key, and the history of every key is judged. Then the
keys are changed, so that no history grows long.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.history.linear import FOR_EVER, Operation, Verdict, register
from tests.torture.clients import Client, Keys
from tests.torture.cluster import Cluster, Fleet
from tests.torture.workloads import WORKLOADS

KINDS = ["r0", "r1", "r2", "n0", "n1", "l0", "s0", "x0", "m0"]
# Checks that a machine with other work to do can keep up with.
PACE = {"interval": 0.5, "suspect-interval": 0.5, "timeout": 1.0, "down-after": 2}
JUDGE_SECONDS = 60.0
HEALED_WITHIN = 60.0


@dataclass
class Outcome:
    """What came of a round."""

    fault: str
    operations: int = 0
    unknown: int = 0
    refused: int = 0
    rate: float = 0.0
    write_gap: float = 0.0
    read_gap: float = 0.0
    healed: float = 0.0
    # Changes of mains by the health service.
    promotions: int = 0
    broken: list[str] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        return {name: round(one, 2) if isinstance(one, float) else one for name, one in vars(self).items()}


class Course:
    """See the module's page."""

    def __init__(
        self, fleet: Fleet, seed: int, *, clients: int = 8, pause: float = 0.02, loyal: bool = False
    ) -> None:
        self.fleet, self.keys = fleet, Keys(KINDS)
        self.dice = random.Random(seed)
        hosts = fleet.client_hosts
        self.crowd = [
            Client(fleet, hosts[number % len(hosts)], seed * 100 + number, self.keys, pause)
            for number in range(clients)
        ]
        if loyal:
            # What a node answers that was away is read by those who never went elsewhere.
            self.crowd += [
                Client(fleet, hosts[-1], seed * 100 + 50 + number, self.keys, pause, only=name)
                for number, name in enumerate(fleet.names)
            ]

    def __enter__(self) -> Self:
        self.fleet.until_whole(90)
        for client in self.crowd:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.crowd:
            client.ending.set()
        for client in self.crowd:
            client.join(10)
        self.fleet.close()

    def round(
        self,
        fault: str,
        during: Callable[[], AbstractContextManager[None]] = nullcontext,
        seconds: float = 3.0,
        before: float = 1.0,
        after: float = 1.0,
    ) -> Outcome:
        """One fault of so many seconds, healed and judged."""
        began = time.monotonic()
        promotions = self.promotions()
        time.sleep(before)
        with during():
            time.sleep(seconds)
        outcome = Outcome(fault)
        try:
            time.sleep(after)
            outcome.healed = self.fleet.until_whole(HEALED_WITHIN)
        except TimeoutError:
            outcome.broken.append(f"it was not whole {HEALED_WITHIN:.0f} s after everything had healed")
        outcome.promotions = self.promotions() - promotions
        finished, keys = time.monotonic(), self.keys.all()
        self.keys.turn()
        # Who never asks another node only reads, and may wait for long.
        while any(client.busy in keys for client in self.crowd if not client.only):
            time.sleep(0.02)
        read: list[Operation] = []
        for client, silent in self.final_reads(keys, read):
            outcome.broken += [f"{key} was not served to {client} after everything healed" for key in silent]
        self.judge(outcome, keys, read, began, finished)
        return outcome

    def promotions(self) -> int:
        if not isinstance(self.fleet, Cluster):
            return 0
        with suppress(OSError, ValueError):
            return sum(self.fleet.ask("/replication")["failovers"].values())
        return 0

    def final_reads(self, keys: list[str], read: list[Operation]) -> Iterator[tuple[str, list[str]]]:
        """Every client's host reads everything; keys that nobody answers for are named."""
        for number, host in enumerate(self.fleet.client_hosts):
            reader = Client(self.fleet, host, 10_000 + 100 * self.keys.round + number, self.keys, 0)
            with self.fleet.hosts.on(host):
                yield host, [key for key in keys if not patiently(reader, key)]
            read += itertools.chain(*reader.history.values())

    def judge(
        self, outcome: Outcome, keys: list[str], read: list[Operation], began: float, finished: float
    ) -> None:
        """What clients saw of these keys."""
        history = [
            *read,
            *(one for client in self.crowd for key in keys for one in client.history.pop(key, [])),
        ]
        for key in keys:
            mine = [one for one in history if one.key == key]
            verdict = register(mine, WORKLOADS[key[0]].initial, JUDGE_SECONDS)
            if verdict is not Verdict.OK:
                outcome.broken.append(f"{key}: {verdict}")
        outcome.broken += counted_wrong(history, keys)
        if outcome.broken:
            self.keep(history)
        outcome.operations = len(history)
        outcome.unknown = sum(not one.answered for one in history)
        outcome.refused = sum(one[2] in keys for client in self.crowd for one in list(client.refused))
        outcome.rate = outcome.operations / (finished - began)
        outcome.write_gap = longest_gap(self.crowd, False, began, finished)
        outcome.read_gap = longest_gap(self.crowd, True, began, finished)

    def keep(self, history: list[Operation]) -> None:
        lines = [
            json.dumps(as_line(one), default=sorted) for one in sorted(history, key=lambda one: one.start)
        ]
        self.history_file.write_text("".join(f"{line}\n" for line in lines))

    @property
    def history_file(self) -> Path:
        return self.fleet.directory / f"history-{self.keys.round}.jsonl"


def patiently(reader: Client, key: str) -> bool:
    until = time.monotonic() + 30
    while not reader.operate(key, "read"):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def longest_gap(clients: list[Client], reads: bool, began: float, finished: float) -> float:
    """The longest time in which no operation of a kind was answered to anybody."""
    times = sorted(
        at
        for client in clients
        for at, kind, _ in list(client.answered)
        if (kind == "read") == reads and began <= at <= finished
    )
    return max(
        (later - earlier for earlier, later in itertools.pairwise([began, *times, finished])), default=0.0
    )


def counted_wrong(history: list[Operation], keys: list[str]) -> list[str]:
    """Counters whose last value is not between what was acknowledged and that with what is unknown."""
    wrong = []
    for key in (key for key in keys if key.startswith("n")):
        mine = [one for one in history if one.key == key]
        sure = sum(one.kind == "add" and one.answered for one in mine)
        unknown = sum(one.kind == "add" and not one.answered for one in mine)
        last = max((one for one in mine if one.kind == "read"), key=lambda one: one.end, default=None)
        if last is not None and not sure <= (last.output or 0) <= sure + unknown:
            wrong.append(f"{key} is {last.output}, {sure} were acknowledged and {unknown} are unknown")
    return wrong


def as_line(one: Operation) -> dict[str, Any]:
    """An operation as a line of the history."""
    end = None if one.end == FOR_EVER else one.end
    return {
        "client": one.client,
        "key": one.key,
        "kind": one.kind,
        "start": one.start,
        "end": end,
        "value": one.value,
        "expected": one.expected,
        "output": one.output,
    }

"""What moving slots costs those who ask: how many reads find their key, and how long answers take, meanwhile
and normally. Pure: figures in, figures out; rebalance.py asks the nodes.

Normal is what nodes counted from the end of the last rebalance, or their start, until this one began.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

# Answers that are looked at together for what is normal.
WINDOW = 100


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a node has counted since it started."""

    hits: int = 0
    misses: int = 0


Counts = Mapping[str, Lookups]


def hit_rate(before: Counts, after: Counts) -> float | None:
    """Which part of the reads in between found its key; None when nobody read anything."""
    hits = misses = 0
    for name, now in after.items():
        then = before.get(name, Lookups())
        if now.hits < then.hits or now.misses < then.misses:
            then = Lookups()  # It has started anew, and counts from nothing.
        hits += now.hits - then.hits
        misses += now.misses - then.misses
    return hits / (hits + misses) if hits + misses else None


def slowest(answers: deque[float]) -> float | None:
    """What the 99th of a hundred answers took; None when there were none."""
    ordered = sorted(answers)
    return ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] if ordered else None


class Impact:
    """Of the rebalance that runs, or of the last one."""

    def __init__(self) -> None:
        # What was counted when the last rebalance ended, when this one began, and at last.
        self.ended: dict[str, Lookups] = {}
        self.begun: dict[str, Lookups] | None = None
        self.last: dict[str, Lookups] = {}
        self.normal: float | None = None
        self.normal_ms: float | None = None
        # Which part of the data would have to go for want of room, as the plan had it.
        self.expected_dip: float | None = None
        self.quiet: deque[float] = deque(maxlen=WINDOW)

    def note(self, milliseconds: float) -> None:
        """How long an answer took while nothing moved."""
        self.quiet.append(milliseconds)

    def begin(self) -> None:
        """Slots are to move: what is counted next is where that begins."""
        self.ended, self.begun, self.expected_dip = self.last, None, None
        self.normal_ms = slowest(self.quiet)

    def count(self, counts: Counts) -> None:
        """What those nodes have counted that answered."""
        self.last = {**self.last, **counts}
        if self.begun is None:
            self.normal = hit_rate(self.ended, self.last)
            self.begun = self.last

    @property
    def during(self) -> float | None:
        """The hit rate since this rebalance began, or while it lasted."""
        return hit_rate(self.begun, self.last) if self.begun is not None else None

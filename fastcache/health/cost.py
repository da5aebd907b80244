"""Ask nodes what moving slots costs: how much they hold, what they have counted, how long answers take.

What follows from the figures is worked out by impact.py; rebalance.py moves.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastcache.health.impact import Impact, Lookups

if TYPE_CHECKING:
    from fastcache.health.act import Service
    from fastcache.health.registry import Record

# Nodes are asked so often what they have counted while slots move.
COUNT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much a node holds: keys, bytes of data, bytes in all and how many there may be (0: any)."""

    keys: int = 0
    bytes: int = 0
    used: int = 0
    most: int = 0


def dip(moved: list[dict[str, Any]], sizes: Mapping[str, Size]) -> float:
    """Which part of all data would have to go, for want of room at those who get it: data moves along."""
    coming: dict[str, int] = {}
    for one in moved:
        coming[one["to"]] = coming.get(one["to"], 0) + one["bytes"]
    going = sum(
        min(max(sizes[name].used + more - sizes[name].most, 0), more)
        for name, more in coming.items()
        if sizes[name].most
    )
    there = sum(size.bytes for size in sizes.values())
    return round(going / there, 4) if there else 0.0


def figure(fields: Mapping[str, str], name: str) -> int:
    """A number of INFO; zero where there is none."""
    text = fields.get(name, "0")
    return int(text) if text.isdecimal() else 0


def rounded(value: float | None, digits: int) -> float | None:
    """For people to read."""
    return None if value is None else round(value, digits)


class Cost:
    """What the rebalance that runs costs, or what the last one did."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.impact = Impact()
        self.counted_at = 0.0
        self.counting: asyncio.Task[None] | None = None
        # The last check of each node whose time was noted.
        self.known_checks: dict[str, object] = {}

    def begin(self) -> None:
        """Slots are to move."""
        self.impact.begin()
        self.counted_at = 0.0

    def count_now_and_then(self, *, active: bool) -> None:
        """While slots move, what nodes have counted; else how long answers take. Nobody waits for it."""
        if time.monotonic() - self.counted_at < COUNT_SECONDS or (self.counting and not self.counting.done()):
            return
        self.counted_at = time.monotonic()
        if active:
            self.counting = asyncio.create_task(self.count())
            return
        for one in self.answering():
            if one.check and self.known_checks.get(one.member.id) is not one.check:
                self.known_checks[one.member.id] = one.check
                self.impact.note(one.check.milliseconds)

    def answering(self) -> list["Record"]:
        """Nodes whose last check was answered."""
        return [one for one in self.service.registry.of_kind("node") if one.check and not one.check.failure]

    async def count(self) -> None:
        """What nodes have counted until now."""
        nodes = self.answering()
        told = await asyncio.gather(*(self.info(one.member.id, "stats") for one in nodes))
        names = ("keyspace_hits", "keyspace_misses")
        self.impact.count(
            {
                one.member.id: Lookups(*(figure(found, name) for name in names))
                for one, found in zip(nodes, told, strict=True)
                if found
            }
        )

    async def info(self, name: str, section: str) -> dict[str, str]:
        """A section of a node's INFO; nothing when it does not answer."""
        record = self.service.registry.find(name, "node")
        try:
            told = await self.service.prober.tell(record.member, "INFO", section) if record else None
        except (TimeoutError, OSError):
            return {}
        lines = told.decode(errors="replace").splitlines() if isinstance(told, bytes) else []
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def size(self, name: str) -> Size:
        """How much a node holds, as it says; nothing when it does not."""
        record = self.service.registry.find(name, "node")
        if record is None:
            return Size()
        try:
            keys = await self.service.prober.tell(record.member, "DBSIZE")
        except (TimeoutError, OSError):
            return Size()
        fields = await self.info(name, "memory")
        return Size(
            keys=keys if isinstance(keys, int) else 0,
            bytes=figure(fields, "used_memory_dataset"),
            used=figure(fields, "used_memory"),
            most=figure(fields, "maxmemory"),
        )

    def told(self) -> dict[str, float | None]:
        """For people and their tools."""
        return {
            "hitRate": rounded(self.impact.during, 4),
            "hitRateNormal": rounded(self.impact.normal, 4),
            "hitRateDipExpected": self.impact.expected_dip,
            "p99MsNormal": rounded(self.impact.normal_ms, 2),
        }

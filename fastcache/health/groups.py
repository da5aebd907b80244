"""Slots that have the same holders, as a topology lists them, and sets of slots as text and as bits. Pure."""

import functools
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

Document = dict[str, Any]
# Copies of a slot, the main first.
Holders = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Slots with the same holders."""

    main: str
    replicas: Holders
    learners: Holders
    ranges: str
    keepers: Holders = ()

    @property
    def plain(self) -> Holders:
        """Replicas that may be promoted."""
        return tuple(name for name in self.replicas if name not in self.learners)

    @property
    def copies(self) -> Holders:
        """All but the main, replicas first."""
        return (*self.replicas, *(name for name in self.learners if name not in self.replicas))

    def kept_by(self, names: Iterable[str]) -> "Group":
        """With these as keepers, while there is nobody to promote.

        They have everything that was acknowledged until one that joins has a slot whole, without which the
        main acknowledges nothing; that one knows it itself (salvage).
        """
        kept = () if self.plain else set(names).intersection(self.learners)
        return replace(self, keepers=tuple(name for name in self.copies if name in kept))


def groups_of(slots: Iterable[Document]) -> list[Group]:
    """The groups of a topology."""
    return [
        Group(
            one["main"],
            tuple(one.get("replicas", ())),
            tuple(one.get("learners", ())),
            one["ranges"],
            tuple(one.get("keepers", ())),
        )
        for one in slots
    ]


def as_slots(groups: Iterable[Group]) -> list[Document]:
    """Groups as a topology lists them."""
    return [
        {"main": group.main, "ranges": group.ranges, "replicas": list(group.replicas)}
        | ({"learners": list(group.learners)} if group.learners else {})
        | ({"keepers": list(group.keepers)} if group.keepers else {})
        for group in groups
    ]


def joined_up(groups: Iterable[Group]) -> list[Group]:
    """One group for all slots with the same holders, in the order in which a topology lists them."""
    held: dict[tuple[str, Holders, Holders, Holders], int] = {}
    for group in groups:
        holders = (group.main, group.replicas, group.learners, group.keepers)
        held[holders] = held.get(holders, 0) | mask_of(group.ranges)
    return [
        Group(main, replicas, learners, ranges_of(slots), keepers)
        for (main, replicas, learners, keepers), slots in sorted(held.items())
    ]


def first_to_hear(before: Document, after: Document) -> tuple[str, ...]:
    """New mains: each must obey the new topology before anybody is sent to it.

    From then on it refuses the stream of the main before it, which can acknowledge no strict write any more.
    """
    old: dict[str, int] = {}
    known = 0
    for group in groups_of(before.get("slots", ())):
        slots = mask_of(group.ranges)
        old[group.main] = old.get(group.main, 0) | slots
        known |= slots
    fresh = {
        group.main
        for group in groups_of(after.get("slots", ()))
        if mask_of(group.ranges) & known & ~old.get(group.main, 0)
    }
    return tuple(sorted(fresh))


@functools.lru_cache(4096)
def mask_of(ranges: str) -> int:
    """The slots of `0-99,105` as bits of a number: sets of slots are compared and joined all the time."""
    mask = 0
    for part in ranges.split(",") if ranges else ():
        first, _, last = part.partition("-")
        mask |= (1 << (int(last or first) + 1)) - (1 << int(first))
    return mask


@functools.lru_cache(256)
def ranges_of(mask: int) -> str:
    """The other way round."""
    runs = ((run.start(), run.end() - 1) for run in re.finditer("1+", bin(mask)[:1:-1]))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@functools.lru_cache(64)
def slots_in(ranges: str) -> tuple[int, ...]:
    """The slots of `0-99,105`, ascending: thousands, and asked for several times at every change."""
    parts = (part.partition("-") for part in ranges.split(",")) if ranges else ()
    return tuple(
        itertools.chain.from_iterable(range(int(first), int(last or first) + 1) for first, _, last in parts)
    )


def text_of(slots: Iterable[int]) -> str:
    """Slots as `0-99,105`."""
    bits = bytearray(2048)
    for slot in slots:
        bits[slot >> 3] |= 1 << (slot & 7)
    return ranges_of(int.from_bytes(bits, "little"))

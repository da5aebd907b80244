"""Decide who is main, replica and learner of every slot. Pure: values in, the next topology's slots out.

What the decisions stand on (docs/failover.md tells the whole protocol):

- A main acknowledges a strict write once all `replicas` of the slot hold it. So whoever is a plain replica
  holds every acknowledged write, and only such a one is promoted.
- A learner becomes a replica in two steps. First it is both (joining): the main waits for it from then on.
  Once the main was seen to wait, and to have everything of before acknowledged, it is a plain replica.
- A replica that lags, restarted or is down becomes a learner again before its main may go on without it.
- A process that restarted holds nothing of what it held: its run differs from the one in the topology.
- A new main takes over the other replicas: they hold every acknowledged write too, and wait for it as before.
- While a slot has no replica nothing is acknowledged. So who was its last replica, or the main before, still
  holds every acknowledged write until another joins: a keeper, which saves the slot when its main restarts.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastcache.model import Health

Document = dict[str, Any]
# Copies of a slot, the main first.
Holders = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of one node. `away` is for how many seconds it has been down."""

    status: Health = Health.UNKNOWN
    run: str = ""
    away: float = 0.0
    # It did not answer the last check, whatever the verdict is so far.
    silent: bool = False
    # Asked just now whether it would become main, it did not agree or did not answer.
    unwilling: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """What a main last said of the stream to one of its copies.

    `epoch` is the topology that the main obeyed then, `floor` its sequence number when it first spoke under
    that topology: once that much is acknowledged, nothing older is missing.
    """

    epoch: int
    state: str
    seq: int = 0
    acked: int = 0
    floor: int = 0
    lag_ms: int = 0
    # Since when, by the clock of whoever asks, the stream has not been `streaming`; 0 while it is.
    broken_since: float = 0.0
    # Since when it has, besides, brought the copy no further.
    stalled_since: float = 0.0
    run: str = ""
    lag_bytes: int = 0
    sent_bytes: int = 0
    # Slots, as bits, that came to the stream later and that the copy does not have yet; since when.
    lacks: int = 0
    lacking: tuple[tuple[int, float], ...] = ()

    @property
    def in_sync(self) -> bool:
        """Everything up to the floor has arrived, and what follows is under way."""
        return self.state == STREAMING and self.acked >= self.floor

    def holds(self, ranges: str) -> bool:
        """The same, of these slots."""
        return self.in_sync and not self.lacks & mask_of(ranges)

    def lacks_since(self, ranges: str) -> float | None:
        """Since when any of these slots is being copied."""
        return min((since for slots, since in self.lacking if slots & mask_of(ranges)), default=None)


STREAMING = "streaming"
COPYING = "copying"


def after_row(before: Link | None, row: Link, at: float) -> Link:
    """Take in what a main says now. A new topology or a new run of the main begins a new floor."""
    known = before if before and before.epoch == row.epoch and before.run == row.run else None
    broken = stalled = 0.0
    if row.state != STREAMING:
        broken = before.broken_since if before and before.broken_since else at
        advances = known and row.state == COPYING and row.sent_bytes > known.sent_bytes
        stalled = before.stalled_since if before and before.stalled_since and not advances else at
    lacking, fresh = [], row.lacks
    for slots, since in before.lacking if before else ():
        if still := slots & row.lacks:
            lacking.append((still, since))
            fresh &= ~still
    if fresh:
        lacking.append((fresh, at))
    return replace(
        row,
        floor=known.floor if known else row.seq,
        broken_since=broken,
        stalled_since=stalled,
        lacking=tuple(lacking),
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asked for: `node` gives up its slots, to `to` where that is given.

    `force` takes a copy that is not in sync as well: what it lacks is lost. `slots`: only those of its slots.
    """

    node: str
    to: str = ""
    force: bool = False
    slots: frozenset[int] = frozenset()

    def means(self, group: "Group") -> bool:
        """Whether the wish is about these slots."""
        return self.node == group.main and (not self.slots or self.slots.issuperset(slots_in(group.ranges)))


@dataclass(frozen=True, slots=True)
class View:
    """All that is known at one moment."""

    nodes: Mapping[str, NodeView]
    # (main, peer) -> what the main said; (node, its main) -> what the node says of the stream it receives.
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    received: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    # (main, peer): the main asks to go on without this copy, under the present epoch.
    grants: frozenset[tuple[str, str]] = frozenset()
    strict: bool = False
    # Automatic promotion and new copies are suspended by the operator.
    paused: bool = False
    copies: int = 1
    replace_after: float = 600.0
    # How long the stream to a replica may be broken before it is a learner: to one that is silent, and to one
    # that answers us, such as after a failover, when a new main brings it up to date.
    patience: float = 0.3
    resync_patience: float = 2.0
    wish: Wish | None = None
    # (main, copy) -> slots, as bits, that move from the one to the other. The stream of the move carries
    # them, so what is said of the copy's stream does not hold for them.
    moving: Mapping[tuple[str, str], int] = field(default_factory=dict)
    # Nodes that are to hold nothing, and whether copies are to be where the ring wants them.
    drained: frozenset[str] = frozenset()
    evening: bool = False
    # Nodes that are about to stop in order: nobody waits for them any more.
    leaving: frozenset[str] = frozenset()
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was decided, for the log and the metrics."""

    kind: str
    fields: tuple[tuple[str, object], ...]


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


# Told the groups as they are and the nodes that get no new copies; answers who should hold each slot.
Place = Callable[[list[Document], frozenset[str]], list[Document]]


@dataclass(slots=True)
class Assignment:
    """One decision under way: the groups so far, and what is to be told of it."""

    view: View
    runs: Mapping[str, str]
    epoch: int
    # Restarted mains that must not serve yet: a copy that is away for a while holds what they lost.
    held: set[str] = field(default_factory=set)
    # Nodes that are up and hold nothing.
    idle: frozenset[str] = frozenset()
    events: list[Event] = field(default_factory=list)

    def tell(self, kind: str, **fields: object) -> None:
        self.events.append(Event(kind, tuple(fields.items())))

    # --- what is known ------------------------------------------------------------------------------

    def node(self, name: str) -> NodeView | None:
        """None when it has left."""
        return self.view.nodes.get(name)

    def gone(self, name: str) -> bool:
        """Down, or no member any more."""
        node = self.node(name)
        return node is None or node.status is Health.UNHEALTHY

    def restarted(self, name: str) -> bool:
        """Whether it lives a later life than the one the topology means."""
        node = self.node(name)
        return bool(node and node.run and self.runs.get(name) and node.run != self.runs[name])

    def silent(self, name: str) -> bool:
        """Whether it may be about to fall."""
        node = self.node(name)
        return node is None or node.silent

    def willing(self, name: str) -> bool:
        """Whether it could be main now: up, in the same life, and not known to object."""
        node = self.node(name)
        if node is None or node.status is not Health.HEALTHY:
            return False
        return not node.unwilling and not self.restarted(name)

    def progress(self, name: str, main: str) -> int:
        """How far a copy is, as it says itself, or else as its main last said."""
        own, told = self.view.received.get((name, main)), self.view.links.get((main, name))
        return max(own.seq if own else 0, told.acked if told else 0)

    # --- steps, in the order in which they are taken ------------------------------------------------

    def demoted(self, group: Group) -> Group:
        """Replicas that can no longer be waited for become learners, if the main is there to go on alone."""
        if self.gone(group.main) or self.restarted(group.main) or self.silent(group.main):
            # Nobody goes on, so nobody needs a grant; and who may be falling needs an heir. One that
            # restarted is no replica whatever happens.
            lost = tuple(name for name in group.replicas if self.restarted(name))
        else:
            lost = tuple(name for name in group.replicas if self.lost(group, name))
        kept = [name for name in (*group.keepers, *group.plain) if not self.restarted(name)]
        if not lost:
            return group.kept_by(kept)
        learners = (*group.learners, *(name for name in lost if name not in group.learners))
        self.tell("grant", main=group.main, without=list(lost), slots=group.ranges)
        return replace(
            group,
            replicas=tuple(name for name in group.replicas if name not in lost),
            learners=tuple(name for name in learners if self.node(name)),
        ).kept_by(kept)

    def lost(self, group: Group, name: str) -> bool:
        """Whether a replica holds its main up."""
        main = group.main
        if self.gone(name) or self.restarted(name):
            return True
        if name in self.view.leaving:
            return True
        link = self.view.links.get((main, name))
        if link is None or link.epoch != self.epoch or self.moves(group, name):
            return False
        if not link.broken_since:
            # In strict mode what is waited for is copied first.
            late = None if self.view.strict else link.lacks_since(group.ranges)
            return late is not None and self.view.now - late >= self.view.resync_patience
        if self.silent(name):
            return self.view.now - link.broken_since >= self.view.patience
        # One that lives holds what it held, also while its main brings it up to date: as a learner it would
        # protect nothing. In strict mode that may take as long as it goes on: a main needs of it only the
        # slots that are asked for, and brings those first. Otherwise writes must not wait for that.
        since = link.stalled_since if self.view.strict else link.broken_since
        return self.view.now - since >= self.view.resync_patience

    def moves(self, group: Group, name: str) -> bool:
        """Whether any of these slots is on its way from their main to a copy, which takes its place soon."""
        return bool(self.view.moving.get((group.main, name), 0) & mask_of(group.ranges))

    def promoted(self, group: Group) -> Group:
        """A main that is gone hands over to the best of its copies; without one the slots stay with it."""
        wished = self.view.wish is not None and self.view.wish.means(group)
        if not wished and (self.view.paused or not (self.gone(group.main) or self.restarted(group.main))):
            return group
        heir = self.heir(group, self.view.wish if wished else None)
        if not heir:
            if not wished and self.restarted(group.main) and self.view.strict and self.expected(group):
                self.held.add(group.main)
            return group
        link = self.view.links.get((group.main, heir))
        unseen = max(link.seq - self.progress(heir, group.main), 0) if link else 0
        self.tell("failover", old=group.main, new=heir, slots=group.ranges, lost=unseen)
        # Who is gone as well is not waited for: while nobody else is, nothing is acknowledged, so whoever has
        # everything now has it still when the heir falls, too.
        fallen = tuple(name for name in group.replicas if self.gone(name) or self.restarted(name))
        replicas = tuple(name for name in group.replicas if name not in (heir, *fallen))
        others = dict.fromkeys((*group.learners, *fallen, group.main))
        learners = tuple(name for name in others if name != heir and self.node(name))
        # It holds what it acknowledged as main as well, should it live.
        kept = [name for name in (group.main, *group.keepers, *group.plain) if not self.restarted(name)]
        return Group(heir, replicas, learners, group.ranges).kept_by(
            kept if heir in (*group.plain, *group.keepers) else ()
        )

    def expected(self, group: Group) -> bool:
        """Whether a copy is away for a while that may hold what a restarted main has lost."""
        return any(self.may_be_whole(name, group) for name in group.copies)

    def may_be_whole(self, name: str, group: Group) -> bool:
        """Whether a copy that does not answer at the moment was complete as far as we know."""
        node = self.node(name)
        if node is None or self.restarted(name) or node.away >= self.view.replace_after:
            return False
        if node.status is Health.HEALTHY and not node.unwilling and node.run:
            return False  # It speaks for itself, and has spoken.
        return (
            name in (*group.plain, *group.keepers)
            or (name, group.main) not in self.view.received
            or self.whole(name, group)
        )

    def whole(self, name: str, group: Group) -> bool:
        """Whether a copy says that it holds all that its main's former life had sent it up to some record."""
        own = self.view.received.get((name, group.main))
        return own is not None and not self.partial(name, group) and own.run == self.runs[group.main]

    def salvage(self, group: Group, able: list[str]) -> list[str]:
        """When a main has lost its memory and no replica is left: the copy that has most of its records.

        While it was alone it acknowledged no strict write, so the copy that was the last to be waited for has
        them all, unless another one was joining and had become whole: then that one has. Its reads are no
        worry: that life is over.
        """
        if not self.restarted(group.main) or self.expected(group):
            return []
        if self.view.strict:
            joining = [name for name in able if name in group.replicas and self.whole(name, group)]
            if kept := joining or [name for name in able if name in group.keepers]:
                return kept[:1]
        whole = [name for name in able if self.whole(name, group)]
        if not whole:
            return []
        return [max(whole, key=lambda name: self.view.received[name, group.main].seq)]

    def heir(self, group: Group, wish: Wish | None) -> str:
        """Who is to be the main; empty when nobody can."""
        able = [name for name in group.copies if self.willing(name)]
        able = [name for name in able if not self.half_copied(name, group) or (wish and wish.force)]
        ready = [name for name in able if name in group.plain]
        if wish and wish.force:
            ready += [name for name in able if name not in ready]
        elif not self.view.strict:
            # Nothing was promised about writes that are not strict: a copy that is complete beats none.
            filled = (name for name in able if name not in ready)
            ready += [name for name in filled if self.stream_of(name, group.main) == STREAMING]
        ready = ready or self.salvage(group, able)
        if not self.view.strict:
            # `sort` keeps the order of the topology among equals.
            ready.sort(key=lambda name: (name not in group.plain, -self.progress(name, group.main)))
        if wish and wish.to:
            return wish.to if wish.to in ready else ""
        return ready[0] if ready else ""

    def half_copied(self, name: str, group: Group) -> bool:
        """Whether a learner says itself that a copy of everything was begun and is not finished.

        A replica that is brought up to date says so, too. It still holds all that was acknowledged: key by
        key it has what it had, or what its main has, and a main acknowledges nothing before it is done.
        """
        return name not in (*group.plain, *group.keepers) and self.partial(name, group)

    def partial(self, name: str, group: Group) -> bool:
        """Whether a copy says that it lacks some of these slots."""
        own = self.view.received.get((name, group.main))
        if own is None:
            return False
        lacks = own.lacks & mask_of(group.ranges)
        return own.state == COPYING or own.seq < 0 or bool(lacks) or self.moves(group, name)

    def stream_of(self, name: str, main: str) -> str:
        """The state of the stream that a copy receives, as it says itself; empty when it never told."""
        own = self.view.received.get((name, main))
        return own.state if own else ""

    def joined(self, group: Group) -> Group:
        """Learners that are in sync come nearer to being replicas by one step."""
        if self.gone(group.main) or self.restarted(group.main):
            return group
        replicas, learners = list(group.replicas), list(group.learners)
        for name in group.learners:
            link = self.view.links.get((group.main, name))
            waits = (group.main, name) in self.view.grants or name in self.view.leaving
            if self.gone(name) or self.restarted(name) or waits or link is None:
                continue
            if link.epoch != self.epoch or not link.holds(group.ranges) or self.moves(group, name):
                continue
            if name in group.replicas:
                learners.remove(name)
                self.tell("in-sync", main=group.main, replica=name, slots=group.ranges)
            else:
                replicas.append(name)
        after = replace(group, replicas=tuple(replicas), learners=tuple(learners))
        return after.kept_by(group.keepers)

    def wanted(self, group: Group, target: Holders, away: frozenset[str]) -> Group:
        """Begin the copies that are missing, end those that are too many once the others are in sync."""
        fresh: Holders = ()
        if self.lacks_copies(group, away) or self.evens_out(group, target) or self.view.evening:
            fresh = tuple(name for name in target if name != group.main and name not in group.copies)
        learners = (*group.learners, *fresh)
        replicas = group.replicas
        keep = set(target)
        others = [name for name in target if name != group.main]
        if len(others) >= self.view.copies and all(name in group.plain for name in others):
            replicas = tuple(name for name in replicas if name in keep)
            learners = tuple(name for name in learners if name in keep)
        else:
            # Until then also one that is down stays a learner: should its main turn out to have lost its
            # memory, this one may hold what nobody else does. Not for ever, though.
            learners = tuple(
                name for name in learners if name in keep or name in replicas or name not in away
            )
        if fresh:
            self.tell("copy", main=group.main, to=list(fresh), slots=group.ranges)
        return replace(group, replicas=replicas, learners=learners).kept_by(group.keepers)

    def lacks_copies(self, group: Group, away: frozenset[str]) -> bool:
        """Whether a slot has too few copies. In strict mode one that is down is none: writes need another."""
        if len(group.copies) < self.view.copies or any(name in away for name in group.copies):
            return True
        return self.view.strict and bool(self.view.copies) and all(self.gone(name) for name in group.copies)

    def evens_out(self, group: Group, target: Holders) -> bool:
        """Whether the target brings in somebody who holds nothing at all, so that he takes his part."""
        if len(group.copies) > self.view.copies or self.view.drained.intersection(group.copies):
            return True  # It has moved, or is to leave a node.
        return any(name in self.idle for name in target if name not in group.copies)


@dataclass(frozen=True, slots=True)
class Decision:
    """The slots of the next topology, the run that it names for each node, and what was decided."""

    slots: list[Document]
    runs: dict[str, str]
    events: list[Event]


def assign(before: Document, view: View, place: Place) -> Decision:
    """Decide all slots anew. `before` is the topology in force."""
    runs = {node["id"]: node.get("run", "") for node in before.get("nodes", ())}
    work = Assignment(view, runs, before.get("epoch", 0))
    groups = [without_strangers(group, view) for group in groups_of(before.get("slots", ()))]
    decided: list[Group] = []
    for group in cut(groups, view.wish):
        after = work.promoted(work.demoted(group))
        # One step at a time: who has just changed places has not spoken under this topology yet.
        decided.append(work.joined(after) if after == group else after)
    gone = {name for name, node in view.nodes.items() if node.status is Health.UNHEALTHY}
    away = frozenset(name for name in gone if view.nodes[name].away >= view.replace_after)
    holders = {name for group in decided for name in (group.main, *group.copies)}
    work.idle = frozenset(n for n, node in view.nodes.items() if node.status is Health.HEALTHY) - holders
    orphaned = any(group.main not in view.nodes for group in decided)
    if needs_placing(decided, work, away) and (orphaned or not view.paused):
        spared = frozenset(gone) if view.strict else away
        decided = [work.wanted(group, target, away) for group, target in targets(decided, place, spared)]
    if decided != groups:
        decided = joined_up(decided)
    seen = {
        name: (node.run if name not in work.held else "") or runs.get(name, "")
        for name, node in view.nodes.items()
    }
    return Decision(as_slots(decided), seen, merged(work.events))


def cut(groups: list[Group], wish: Wish | None) -> Iterable[Group]:
    """The groups, those apart that a wish is about only in part."""
    for group in groups:
        slots = set(slots_in(group.ranges))
        within = slots & wish.slots if wish and wish.node == group.main else slots
        for part in (within, slots - within):
            if part:
                yield replace(group, ranges=text_of(part)) if part != slots else group


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


def without_strangers(group: Group, view: View) -> Group:
    """Copies on nodes that have left are no copies any more."""
    return replace(
        group,
        replicas=tuple(name for name in group.replicas if name in view.nodes),
        learners=tuple(name for name in group.learners if name in view.nodes),
    ).kept_by(group.keepers)


def needs_placing(groups: list[Group], work: Assignment, away: frozenset[str]) -> bool:
    """Whether any slot has no main, too few or too many copies, or a node holds nothing."""
    view = work.view
    if not groups or (work.idle and view.copies) or view.evening:
        return True
    return any(
        group.main not in view.nodes
        or len(group.copies) != view.copies
        or work.lacks_copies(group, away)
        or view.drained.intersection(group.copies)
        for group in groups
    )


def targets(groups: list[Group], place: Place, away: frozenset[str]) -> list[tuple[Group, Holders]]:
    """The groups, split where their slots are to be held by different nodes, each with who should hold it."""
    wanted = [
        ((one["main"], *one["replicas"]), mask_of(one["ranges"])) for one in place(as_slots(groups), away)
    ]
    of_main: dict[str, list[tuple[Holders, int]]] = {}
    for holders, slots in wanted:
        of_main.setdefault(holders[0], []).append((holders, slots))
    split: list[tuple[Group, Holders]] = []
    held = 0
    for group in groups:
        rest = mask_of(group.ranges)
        held |= rest
        parts: dict[Holders, int] = {}
        # Mains stay where they can, so that most is found there.
        for candidates in (of_main.get(group.main, ()), wanted):
            for holders, slots in candidates:
                if common := rest & slots:
                    parts[holders] = parts.get(holders, 0) | common
                    rest ^= common
            if not rest:
                break
        if rest:
            parts[()] = rest
        for holders, slots in parts.items():
            main = group.main if not holders else holders[0]
            mine = replace(group, main=main, ranges=ranges_of(slots))
            if main != group.main:
                # Its main has left and nobody could inherit: it begins anew, with nothing.
                mine = Group(main, (), tuple(name for name in group.copies if name != main), mine.ranges)
            split.append((mine, holders))
    fresh = [(holders, slots & ~held) for holders, slots in wanted]  # Slots that nobody held.
    split += [(Group(holders[0], (), (), ranges_of(slots)), holders) for holders, slots in fresh if slots]
    return split


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


def merged(events: Iterable[Event]) -> list[Event]:
    """One event for all groups that met the same fate, with the number of their slots.

    What was lost is told of a stream, which carries all slots of a main and a copy: it is not added up.
    """
    together: dict[tuple[str, str], tuple[Event, int]] = {}
    for event in events:
        rest = repr([pair for pair in event.fields if pair[0] != "slots"])
        first, count = together.get((event.kind, rest), (event, 0))
        slots = str(dict(event.fields).get("slots", ""))
        together[event.kind, rest] = (first, count + mask_of(slots).bit_count())
    return [
        Event(one.kind, tuple((name, count if name == "slots" else value) for name, value in one.fields))
        for one, count in together.values()
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

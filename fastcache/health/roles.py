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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from fastcache.health.groups import (
    Document,
    Group,
    Holders,
    as_slots,
    groups_of,
    joined_up,
    mask_of,
    ranges_of,
    slots_in,
    text_of,
)
from fastcache.health.links import COPYING, STREAMING, Link
from fastcache.model import Health


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
class Wish:
    """What an operator asked for: `node` gives up its slots, to `to` where that is given.

    `force` takes a copy that is not in sync as well: what it lacks is lost. `slots`: only those of its slots.
    """

    node: str
    to: str = ""
    force: bool = False
    slots: frozenset[int] = frozenset()

    def means(self, group: Group) -> bool:
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

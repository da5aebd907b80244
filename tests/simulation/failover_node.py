"""A node as the protocol wants it (docs/failover.md), small enough to be read beside it.

Registers instead of keys, one for each slot. What a node promises: it acknowledges a strict write once
all replicas of its topology hold it; it answers reads of what they hold, while all of them have lately
said that they follow; it follows nobody whom its topology does not name; it takes no topology that is
older than its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fastcache.health.evidence import Report, Row
from fastcache.health.groups import Document, Group, groups_of, slots_in

if TYPE_CHECKING:
    from tests.simulation.failover_world import World

HEARTBEAT = 0.05
LEASE = 0.3
# A stream that is silent for so long is begun anew.
SILENCE = 0.25
# A copy that lacks more than this many records is made anew.
RING = 12
Answer = Callable[..., None]


@dataclass
class Session:
    """One connection of a copy to its main; what is lost on it breaks it."""

    main: str
    copy: str
    # What the copy asks for, under which topology.
    slots: frozenset[int]
    epoch: int
    broken: bool = False


@dataclass
class Outgoing:
    """At the main: one copy."""

    session: Session
    state: str = "copying"
    acked: int = -1
    sent_up_to: int = 0
    # When the newest thing was sent that the copy has answered: the lease runs from then.
    lease_from: float = -1e9
    copied: set[int] = field(default_factory=set)
    # Slots that the copy says it has in full, up to which record; slots to be copied; what it was sent.
    filled: dict[int, int] = field(default_factory=dict)
    due: list[int] = field(default_factory=list)
    sent_bytes: int = 0


@dataclass
class Incoming:
    """At the copy: its main."""

    session: Session
    state: str = "connecting"
    run: str = ""
    seq: int = -1
    heard: float = 0.0
    # While it is filled: slots that are here in full, and up to which record.
    filled: set[int] = field(default_factory=set)
    applied: int = -1


@dataclass
class Waiting:
    """An answer that waits until all replicas hold what it tells of."""

    slot: int
    seq: int
    kind: str
    output: Any
    answer: Answer


def by_slot(slots: list[Document]) -> dict[int, Group]:
    """The groups, one for each slot."""
    return {
        slot: replace(group, ranges=str(slot))
        for group in groups_of(slots)
        for slot in slots_in(group.ranges)
    }


class SimulatedNode:
    """One node."""

    def __init__(self, world: "World", name: str) -> None:
        from tests.simulation.failover_world import Process

        self.world, self.name = world, name
        world.processes[name] = Process(name)
        # On disk:
        self.document: Document = {"epoch": 0, "slots": [], "nodes": []}
        self.known: Document | None = None
        self.by_slot: dict[int, Group] = {}
        self.start()

    def start(self) -> None:
        """A new life: memory is empty, the topology is that of before."""
        self.run = f"{self.name}{self.world.processes[self.name].life}"
        self.values: dict[int, tuple[Any, int]] = {}
        self.records: list[tuple[int, int, Any]] = []
        self.seq = 0
        self.outgoing: dict[str, Outgoing] = {}
        self.incoming: dict[str, Incoming] = {}
        self.applied: dict[str, tuple[str, int]] = {}
        self.waiting: list[Waiting] = []
        self.serves_from = 0.0
        self.last_ack = -1e9
        self.later(self.world.dice.random() * HEARTBEAT, self.beat)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.world.later(self.name, seconds, what)

    # --- what the topology says ---------------------------------------------------------------------

    def groups(self) -> dict[int, Group]:
        """Slot by slot; kept as long as the topology stays the same."""
        if self.known is not self.document:
            self.known, self.by_slot = self.document, by_slot(self.document["slots"])
        return self.by_slot

    def slots_from(self, main: str) -> frozenset[int]:
        """What we are to get from a main."""
        groups = self.groups().items()
        return frozenset(slot for slot, group in groups if group.main == main and self.name in group.copies)

    def accepted(self) -> bool:
        """Whether the topology means this life of ours."""
        runs = {node["id"]: node["run"] for node in self.document["nodes"]}
        return self.world.mutant == "run-not-checked" or runs.get(self.name) == self.run

    def adopt(self, document: Document) -> bool:
        """Take a newer topology; False when it is older."""
        if document["epoch"] <= self.document["epoch"] and self.world.mutant != "epoch-not-checked":
            return document["epoch"] == self.document["epoch"]
        before = self.groups()
        self.world.obeyed(self.name, self.document["epoch"], document)
        self.document = document
        now = self.groups()
        mine = {slot for slot, group in now.items() if group.main == self.name}
        promoted = any(before.get(slot) and before[slot].main != self.name for slot in mine)
        if promoted and self.world.mutant != "no-promotion-wait":
            # The main before us may answer reads as long as it believes that we follow.
            self.serves_from = max(self.serves_from, self.last_ack + LEASE)
        mains = {group.main for group in now.values() if self.name in group.copies}
        if self.world.mutant != "not-fenced":
            for name, one in list(self.incoming.items()):
                if name not in mains or one.session.slots != self.slots_from(name):
                    one.session.broken = True
                    del self.incoming[name]
            for name in set(self.applied) - mains:
                if not name.startswith("sent:"):
                    del self.applied[name]  # Whom we follow no more we do not go on from.
        copies = {name for slot in mine for name in now[slot].copies}
        for name in [name for name in self.outgoing if name not in copies]:
            del self.outgoing[name]
        for name, out in self.outgoing.items():
            if {slot for slot in mine if name in now[slot].copies} != out.session.slots:
                out.session.broken = True  # It should have other slots now: begin anew.
        self.settle()
        return self.accepted() or not mine

    def report(self) -> Report:
        """What a check is told."""
        rows = [
            Row(
                name,
                True,
                "connecting" if out.session.broken else out.state,
                self.run,
                self.seq,
                out.acked,
                sent_bytes=out.sent_bytes,
            )
            for name, out in self.outgoing.items()
        ]
        for name, one in self.incoming.items():
            # While a stream is broken, what was applied before is still here.
            rows.append(Row(name, False, one.state, *self.applied.get(name, ("", -1))))
        return Report(self.name, self.run, self.document["epoch"], tuple(rows))

    # --- clients ------------------------------------------------------------------------------------

    def request(self, slot: int, kind: str, value: Any, expected: Any, answer: Answer) -> None:
        group = self.groups().get(slot)
        if (
            group is None
            or group.main != self.name
            or not self.accepted()
            or self.world.now < self.serves_from
        ):
            answer("refused")
            return
        held, seq = self.values.get(slot, (None, 0))
        if kind == "read" or (kind == "cas" and held != expected):
            self.wait(Waiting(slot, seq, "read", held if kind == "read" else False, answer))
            return
        if not group.replicas:
            if self.world.mutant == "alone-without-replicas":
                self.world.acknowledge(slot, self.document["epoch"], self.name, group.replicas)
                self.record(slot, value)
                answer("ok", True if kind == "cas" else None)
                return
            answer("refused")
            return
        self.record(slot, value)
        self.wait(Waiting(slot, self.seq, kind, True if kind == "cas" else None, answer))

    def record(self, slot: int, value: Any) -> None:
        """Apply a write here and send it to the copies."""
        self.seq += 1
        self.values[slot] = (value, self.seq)
        self.records.append((self.seq, slot, value))
        for name in self.outgoing:
            self.push(name, self.seq, slot, value)

    def wait(self, one: Waiting) -> None:
        if self.world.mutant == "acknowledged-before-replicas" and one.kind != "read":
            self.world.acknowledge(
                one.slot, self.document["epoch"], self.name, self.groups()[one.slot].replicas
            )
            one.answer("ok", one.output)
            return
        if self.world.mutant == "dirty-reads" and one.kind == "read":
            one.seq = 0
        self.waiting.append(one)
        self.settle()

    def settle(self) -> None:
        """Answer whatever no longer has to wait."""
        groups, still = self.groups(), []
        for one in self.waiting:
            group = groups.get(one.slot)
            if group is None or group.main != self.name or not self.accepted():
                one.answer("unknown")
            elif all(self.holds(name, one.slot, one.seq) for name in group.replicas):
                self.conclude(one, group)
            else:
                still.append(one)
        self.waiting = still

    def holds(self, name: str, slot: int, seq: int) -> bool:
        out = self.outgoing.get(name)
        if self.world.mutant == "goes-on-without-grant" and (out is None or out.session.broken):
            return True
        if out is not None and slot in out.due and not out.session.broken:
            # Somebody waits for it: it comes first.
            out.due.remove(slot)
            out.due.insert(0, slot)
        if out is not None and slot not in out.session.slots:
            return False  # What it says is about other slots: it connects anew for this one.
        mutant = self.world.mutant == "filled-before-confirmed" and out is not None and slot in out.copied
        return out is not None and (out.acked >= seq or out.filled.get(slot, -1) >= seq or mutant)

    def conclude(self, one: Waiting, group: Group) -> None:
        if one.kind != "read":
            if not group.replicas:
                one.answer("unknown")  # A grant came in between: nobody but us holds it.
                return
            self.world.acknowledge(one.slot, self.document["epoch"], self.name, group.replicas)
            one.answer("ok", one.output)
            return
        # The lease is looked at after the value was read, at the last moment before the answer leaves.
        oldest = min((self.lease(name, one.slot) for name in group.replicas), default=1e9)
        valid = self.world.now < oldest + LEASE or self.world.mutant == "no-lease"
        one.answer("ok", one.output) if valid else one.answer("refused")

    def lease(self, name: str, slot: int) -> float:
        """Since when a copy has said nothing by which we may answer reads of a slot."""
        out = self.outgoing.get(name)
        if self.world.mutant == "goes-on-without-grant" and (out is None or out.session.broken):
            return 1e9
        return out.lease_from if out else -1e9

    # --- as a main ----------------------------------------------------------------------------------

    def transmit(self, name: str, what: Callable[["SimulatedNode"], None]) -> None:
        """Send to a copy over its session."""
        out = self.outgoing[name]
        session, copy = out.session, self.world.nodes[name]
        if session.broken:
            return
        if not self.world.send(self.name, name, lambda: None if session.broken else what(copy)):
            session.broken = True

    def push(self, name: str, seq: int, slot: int, value: Any) -> None:
        out = self.outgoing[name]
        group = self.groups().get(slot)
        if slot in out.copied and group and name in group.copies:
            sent, session = self.world.now, out.session
            self.transmit(name, lambda copy: copy.take_record(session, seq, slot, value, sent))
        out.sent_up_to = seq

    def connected(self, session: Session, run: str, seq: int) -> None:
        """A copy asks for what it lacks, or for everything."""
        groups = self.groups()
        slots = [s for s, g in groups.items() if g.main == self.name and session.copy in g.copies]
        if session.epoch != self.document["epoch"] and self.world.mutant not in {
            "not-fenced",
            "epoch-not-checked",
        }:
            session.broken = True
            return
        if not slots or not self.accepted() or session.slots != set(slots):
            session.broken = True
            return
        out = self.outgoing[session.copy] = Outgoing(session)
        oldest = self.records[-RING][0] if len(self.records) > RING else 0
        name = session.copy
        known = self.applied.get(f"sent:{name}")
        whole = known is not None and set(slots) <= set(range(99)) and run == self.run and seq >= oldest
        if whole and known and known[0] == ",".join(map(str, sorted(slots))):
            out.copied = set(slots)
            out.state, out.acked = "streaming", seq
            my_run = self.run
            self.transmit(name, lambda copy: copy.resume(session, my_run, seq))
            for number, slot, value in self.records:
                if number > seq and slot in slots:
                    self.push(name, number, slot, value)
            return
        run_now = self.run
        self.transmit(name, lambda copy: copy.begin_copy(session, run_now))
        out.due = list(slots)
        # The slowest take longer than a copy may stand still.
        each = self.world.dice.choice([0.02, 0.15, 0.15, 0.4])
        self.later(each, self.copying(session, sorted(slots), each))

    def copying(self, session: Session, slots: list[int], each: float) -> Callable[[], None]:
        def copy_slot() -> None:
            out = self.outgoing.get(session.copy)
            if out is None or out.session is not session or session.broken:
                return
            slot = out.due.pop(0)
            value, _ = self.values.get(slot, (None, 0))
            out.copied.add(slot)
            out.sent_bytes += 1
            seq = self.seq
            self.transmit(session.copy, lambda copy: copy.take_copy(session, slot, value, seq))
            following = self.copying(session, slots, each) if out.due else self.copied(session, slots)
            self.later(each, following)

        return copy_slot

    def copied(self, session: Session, slots: list[int]) -> Callable[[], None]:
        def end() -> None:
            out = self.outgoing.get(session.copy)
            if out is None or out.session is not session or session.broken:
                return
            seq = self.seq
            self.applied[f"sent:{session.copy}"] = (",".join(map(str, slots)), seq)
            self.transmit(session.copy, lambda copy: copy.end_copy(session, seq))

        return end

    def take_filled(self, session: Session, slots: frozenset[int], seq: int, sent: float) -> None:
        out = self.outgoing.get(session.copy)
        if out is None or out.session is not session:
            return
        for slot in slots:
            out.filled[slot] = max(seq, out.filled.get(slot, -1))
        out.lease_from = max(out.lease_from, sent)
        self.settle()

    def take_ack(self, session: Session, seq: int, sent: float) -> None:
        out = self.outgoing.get(session.copy)
        if out is None or out.session is not session:
            return
        out.state = "streaming"
        out.acked = max(out.acked, seq)
        out.lease_from = max(out.lease_from, sent)
        self.settle()

    # --- as a copy ----------------------------------------------------------------------------------

    def current(self, session: Session) -> Incoming | None:
        one = self.incoming.get(session.main)
        return one if one and one.session is session else None

    def resume(self, session: Session, run: str, seq: int) -> None:
        if one := self.current(session):
            one.state, one.run, one.seq, one.heard = "streaming", run, seq, self.world.now

    def begin_copy(self, session: Session, run: str) -> None:
        one = self.current(session)
        if one is None:
            return
        one.state, one.run, one.seq, one.heard = "copying", run, -1, self.world.now
        self.applied.pop(session.main, None)
        # What is here stays until its main's is: all that was acknowledged is here at every moment.
        if self.world.mutant == "copy-over-replica":
            for slot, group in self.groups().items():
                if group.main == session.main and self.name in group.copies:
                    self.values.pop(slot, None)

    def take_copy(self, session: Session, slot: int, value: Any, seq: int) -> None:
        if one := self.current(session):
            one.heard = self.world.now
            self.values[slot] = (value, 0)
            one.filled.add(slot)
            one.applied = max(one.applied, seq)
            self.fill(session, one, self.world.now - 1e6)

    def fill(self, session: Session, one: Incoming, sent: float) -> None:
        """Say which slots are here, up to which record; a main may count on us from `sent` on."""
        self.last_ack = max(self.last_ack, self.world.now)
        main, slots, seq = self.world.nodes[session.main], frozenset(one.filled), one.applied
        if not self.world.send(self.name, session.main, lambda: main.take_filled(session, slots, seq, sent)):
            session.broken = True

    def end_copy(self, session: Session, seq: int) -> None:
        if one := self.current(session):
            one.state, one.seq, one.heard = "streaming", seq, self.world.now
            self.applied[session.main] = (one.run, seq)
            self.acknowledge(session, seq, self.world.now - 1e6)

    def take_record(self, session: Session, seq: int, slot: int, value: Any, sent: float) -> None:
        one = self.current(session)
        if one is None:
            return
        one.heard = self.world.now
        self.values[slot] = (value, 0)
        if one.state == "streaming":
            one.seq = seq
            self.applied[session.main] = (one.run, seq)
            self.acknowledge(session, seq, sent)
        else:
            one.applied = max(one.applied, seq)
            self.fill(session, one, sent)

    def take_beat(self, session: Session, seq: int, sent: float) -> None:
        one = self.current(session)
        if one is None:
            return
        one.heard = self.world.now
        if one.state == "streaming":
            one.seq = max(one.seq, seq)
            self.applied[session.main] = (one.run, one.seq)
            self.acknowledge(session, one.seq, sent)
        else:
            one.applied = max(one.applied, seq)
            self.fill(session, one, sent)

    def acknowledge(self, session: Session, seq: int, sent: float) -> None:
        """Say that everything up to `seq` is here; a main may count on us from `sent` on."""
        self.last_ack = max(self.last_ack, self.world.now)
        main = self.world.nodes[session.main]
        if not self.world.send(self.name, session.main, lambda: main.take_ack(session, seq, sent)):
            session.broken = True

    # --- time ---------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Tell copies that we live, look after streams that broke, ask for a grant where one holds us up."""
        self.later(HEARTBEAT, self.beat)
        groups = self.groups()
        for name, out in self.outgoing.items():
            self.transmit(name, partial(beaten, out.session, self.seq, self.world.now))
        if self.accepted():
            for group in groups.values():
                if group.main == self.name:
                    for name in group.replicas:
                        if name not in self.outgoing or self.outgoing[name].session.broken:
                            self.ask_for_grant(name)
        self.follow(groups)
        self.settle()

    def ask_for_grant(self, copy: str) -> None:
        epoch = self.document["epoch"]
        for service in self.world.services:
            if self.world.dice.random() < 0.3:
                asking = partial(service.grant, self.name, copy, epoch)
                self.world.send(self.name, service.name, asking)

    def follow(self, groups: dict[int, Group]) -> None:
        """Have a stream from everybody whose copies we are."""
        mains = {group.main for group in groups.values() if self.name in group.copies}
        for name in sorted(mains):
            one = self.incoming.get(name)
            if one and not one.session.broken and self.world.now - one.heard < SILENCE:
                continue
            if one:
                one.session.broken = True
            session = Session(name, self.name, self.slots_from(name), self.document["epoch"])
            run, seq = self.applied.get(name, ("", -1))
            self.incoming[name] = Incoming(session, heard=self.world.now)
            asking = partial(self.world.nodes[name].connected, session, run, seq)
            self.world.send(self.name, name, asking)


def beaten(session: Session, seq: int, sent: float, copy: SimulatedNode) -> None:
    """A heartbeat arrives at a copy."""
    copy.take_beat(session, seq, sent)

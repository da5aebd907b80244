"""A node of failover_node.py whose slots move as well, as replication/moves.rs has it but small.

A move has a stream of its own. While it has joined, the giver waits for the taker as for a replica. Once it
is flipped the giver serves no more, sends what is left, and then one last word; the taker serves from then
on, and only then brings the giver, its replica now, up to date.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastcache.health.groups import Document, Group, slots_in
from fastcache.health.moves import FLIPPED, JOINED, Row
from tests.simulation.failover_node import (
    LEASE,
    RING,
    SILENCE,
    Answer,
    Session,
    SimulatedNode,
    Waiting,
)

if TYPE_CHECKING:
    from tests.simulation.moving_world import MovingWorld


@dataclass
class Giving:
    """At the giver: the stream of one move."""

    session: Session
    flows: bool = False
    acked: int = -1
    lease_from: float = -1e9


@dataclass
class Given:
    """At the giver: a move that it has heard to be flipped."""

    # The last record of what moves.
    last: int
    state: str = "handing"


@dataclass
class Taking:
    """At the taker: the stream of one move."""

    session: Session
    heard: float
    whole: bool = False
    run: str = ""
    seq: int = -1


def slots_of(move: Document) -> frozenset[int]:
    """What moves."""
    return frozenset(slots_in(move["ranges"]))


class MovingNode(SimulatedNode):
    """One node."""

    world: "MovingWorld"

    def start(self) -> None:
        self.giving: dict[str, Giving] = {}
        self.given: dict[str, Given] = {}
        self.floors: dict[str, int] = {}
        self.taking: dict[str, Taking] = {}
        self.taken: set[str] = set()
        super().start()

    # --- what the topology says ---------------------------------------------------------------------

    def listed(self, part: str, document: Document | None = None) -> dict[str, Document]:
        """Moves in which we are `from` or `to`."""
        moves = (document or self.document).get("moves", ())
        return {one["id"]: one for one in moves if one[part] == self.name}

    def between(self, giver: str, taker: str) -> frozenset[int]:
        """Slots on their way from one to the other: their stream is that of the move."""
        found: set[int] = set()
        for one in self.document.get("moves", ()):
            if (one["from"], one["to"]) == (giver, taker) and one["state"] != FLIPPED:
                found |= slots_of(one)
        return frozenset(found)

    def slots_from(self, main: str) -> frozenset[int]:
        return super().slots_from(main) - self.between(main, self.name)

    def slots_for(self, copy: str) -> frozenset[int]:
        """What a copy is to get from us."""
        groups = self.groups().items()
        held = frozenset(slot for slot, group in groups if group.main == self.name and copy in group.copies)
        return held - self.between(self.name, copy)

    def awaits(self, slot: int) -> bool:
        """Whether its giver may still send something of it."""
        due = (one for name, one in self.listed("to").items() if name not in self.taken)
        return any(one["state"] == FLIPPED and slot in slots_of(one) for one in due)

    def adopt(self, document: Document) -> bool:
        if document["epoch"] <= self.document["epoch"]:
            return bool(document["epoch"] == self.document["epoch"])
        before, taking = self.groups() if self.accepted() else {}, self.listed("to")
        self.world.obeyed(self.name, self.document["epoch"], document)
        self.document = document
        now = self.groups()
        mine = {slot for slot, group in now.items() if group.main == self.name}
        self.wait_for_leases(before, mine, taking)
        for name, one in list(self.incoming.items()):
            if not self.slots_from(name) or one.session.slots != self.slots_from(name):
                one.session.broken = True
                del self.incoming[name]
                self.applied.pop(name, None)
        for name in list(self.outgoing):
            if not self.slots_for(name):
                del self.outgoing[name]
            elif self.slots_for(name) != self.outgoing[name].session.slots:
                self.outgoing[name].session.broken = True
        self.begin_and_end_moves(before)
        self.settle()
        return self.accepted() or not mine

    def wait_for_leases(self, before: dict[int, Group], mine: set[int], taking: dict[str, Document]) -> None:
        """Who was the main may answer reads while it believes that we follow; not so one that hands over."""
        awaited = {slot for slot in mine if self.awaits(slot)}
        promoted = any(before.get(slot) and before[slot].main != self.name for slot in mine - awaited)
        for name, one in taking.items():
            cut_off = one["state"] == FLIPPED and name not in self.taken and name not in self.listed("to")
            promoted |= cut_off and bool(slots_of(one) & mine)
        if promoted:
            self.serves_from = max(self.serves_from, self.last_ack + LEASE)

    def begin_and_end_moves(self, before: dict[int, Group]) -> None:
        """What a new topology comes to for the moves we take part in."""
        gives, takes = self.listed("from"), self.listed("to")
        for name in [name for name in self.giving if name not in gives]:
            self.giving.pop(name).session.broken = True
        if self.world.mutant != "taker-follows-on":
            for name in [name for name in self.taking if name not in takes]:
                self.taking.pop(name).session.broken = True
        self.taken &= set(takes)
        self.given = {name: one for name, one in self.given.items() if name in gives}
        self.floors = {name: seq for name, seq in self.floors.items() if name in gives}
        for name, one in gives.items():
            if one["state"] == JOINED:
                self.floors.setdefault(name, self.seq)
            had = all(slot in before and before[slot].main == self.name for slot in slots_of(one))
            if one["state"] == FLIPPED and had and self.accepted():
                self.given.setdefault(name, Given(self.seq))

    def move_rows(self) -> dict[tuple[str, str], Row]:
        """What FASTCACHE MOVES tells."""
        if not self.accepted():
            return {}
        rows = {}
        for name, one in self.listed("from").items():
            stream = self.giving.get(name)
            behind = self.seq - stream.acked if stream else 0
            state = "connecting" if stream is None or stream.session.broken else "streaming"
            if stream and stream.acked < 0:
                state = "copying"
            elif state == "streaming" and stream and stream.acked >= self.floors.get(name, 1 << 60):
                state = JOINED
            if one["state"] == FLIPPED:
                state = self.given[name].state if name in self.given else "gone"
            rows[self.name, name] = Row(state, lag_records=900 * behind)
        for name, one in self.listed("to").items():
            taking = self.taking.get(name)
            state = "streaming" if taking and taking.whole and not taking.session.broken else "copying"
            if one["state"] == FLIPPED:
                state = "open" if name in self.taken else "awaited"
            rows[self.name, name] = Row(state)
        return rows

    # --- clients ------------------------------------------------------------------------------------

    def request(self, slot: int, kind: str, value: Any, expected: Any, answer: Answer) -> None:
        if self.awaits(slot) and self.world.mutant != "opens-at-once":
            answer("refused")
            return
        super().request(slot, kind, value, expected, answer)

    def record(self, slot: int, value: Any) -> None:
        super().record(slot, value)
        seq, sent = self.seq, self.world.now
        for name, stream in self.giving.items():
            if stream.flows and slot in stream.session.slots:
                self.tell(name, partial(moved, stream.session, name, seq, slot, value, sent))

    def settle(self) -> None:
        """As for copies. The taker of a slot is waited for as they are; alone once the slot is its own."""
        groups, still = self.groups(), []
        for one in self.waiting:
            group = groups.get(one.slot)
            if group is None or not self.accepted():
                one.answer("unknown")
            elif group.main == self.name:
                joined = self.joined(one.slot)
                holding = all(self.holds(name, one.slot, one.seq) for name in group.replicas)
                if holding and (joined is None or self.taker_holds(joined, one.seq)):
                    self.conclude_with(one, group, joined)
                else:
                    still.append(one)
            elif name := self.handed(one.slot):
                if self.taker_holds(name, one.seq):
                    leased = self.world.now < self.giving[name].lease_from + LEASE
                    one.answer("ok" if one.kind != "read" or leased else "refused", one.output)
                else:
                    still.append(one)
            else:
                one.answer("unknown")
        self.waiting = still

    def joined(self, slot: int) -> str | None:
        """The move of a slot whose taker we wait for."""
        if self.world.mutant == "joined-not-waited":
            return None
        found = (
            n for n, one in self.listed("from").items() if one["state"] == JOINED and slot in slots_of(one)
        )
        return next(found, None)

    def handed(self, slot: int) -> str | None:
        """The flipped move by which we give a slot away."""
        return next((name for name in self.given if slot in slots_of(self.listed("from")[name])), None)

    def taker_holds(self, name: str, seq: int) -> bool:
        if self.world.mutant == "handed-before-acknowledged" and name in self.given:
            return name in self.giving
        return name in self.giving and self.giving[name].acked >= seq

    def conclude_with(self, one: Waiting, group: Group, joined: str | None) -> None:
        """A read needs the lease of everybody who is waited for."""
        if one.kind == "read" and joined and self.world.now >= self.giving[joined].lease_from + LEASE:
            one.answer("refused")
        else:
            self.conclude(one, group)

    def holds(self, name: str, slot: int, seq: int) -> bool:
        if slot not in self.between(self.name, name):
            return super().holds(name, slot, seq)
        moves = (n for n, one in self.listed("from").items() if one["to"] == name and slot in slots_of(one))
        return self.taker_holds(next(moves), seq)

    def lease(self, name: str, slot: int) -> float:
        """By the stream that carries the slot; what is said over another one says nothing of it."""
        if slot not in self.between(self.name, name):
            return super().lease(name, slot)
        streams = (one for one in self.giving.values() if one.session.copy == name and not one.session.broken)
        return max((one.lease_from for one in streams if slot in one.session.slots), default=-1e9)

    # --- as a giver ---------------------------------------------------------------------------------

    def connected(self, session: Session, run: str, seq: int) -> None:
        if session.epoch != self.document["epoch"] or session.slots != self.slots_for(session.copy):
            session.broken = True
            return
        if any(self.awaits(slot) for slot in session.slots) and self.world.mutant != "copies-before-the-end":
            session.broken = True  # What we may lack ourselves must not take the place of what a replica has.
            return
        self.connect_copy(session, run, seq)

    def connect_copy(self, session: Session, run: str, seq: int) -> None:
        """As failover_node.py has it, for slots that are not all of the topology's."""
        if not session.slots or not self.accepted():
            session.broken = True
            return
        real, between = self.groups(), self.between(self.name, session.copy)
        self.by_slot = {slot: group for slot, group in real.items() if slot not in between}
        try:
            super().connected(session, run, seq)
        finally:
            self.by_slot = real

    def push(self, name: str, seq: int, slot: int, value: Any) -> None:
        if slot not in self.between(self.name, name):
            super().push(name, seq, slot, value)

    def tell(self, name: str, what: Callable[["MovingNode"], None]) -> None:
        """Send to the taker of a move."""
        session = self.giving[name].session
        taker = self.world.nodes[session.copy]
        session.broken |= self.world.now < self.world.torn_until
        if session.broken:
            return
        if not self.world.send(self.name, taker.name, lambda: None if session.broken else what(taker)):
            session.broken = True

    def asked_for(self, session: Session, name: str, run: str, seq: int) -> None:
        """A taker asks for the stream of a move."""
        move = self.listed("from").get(name)
        if move is None or session.epoch != self.document["epoch"] or not self.accepted():
            session.broken = True
            return
        resumed = run == self.run and (not self.records or seq >= self.records[-RING:][0][0])
        given = self.given.get(name)
        if move["state"] == FLIPPED and (given is None or (given.state != "handing" and not resumed)):
            taker = self.world.nodes[session.copy]
            self.world.send(self.name, session.copy, lambda: taker.take_the_end(session, name, gone=True))
            session.broken = True
            return
        self.giving[name] = Giving(session)
        if resumed:
            handed, run_now = given is not None and given.state == "handed", self.run
            self.giving[name].flows = not handed
            self.tell(name, lambda taker: taker.go_on(session, name, run_now, seq))
            for number, slot, value in self.records:
                if number > seq and slot in session.slots:
                    sent = self.world.now
                    self.tell(name, partial(moved, session, name, number, slot, value, sent))
            if handed:
                self.tell(name, lambda taker: taker.take_the_end(session, name))
            return
        self.later(self.world.dice.choice([0.02, 0.15]), lambda: self.copy_all(session, name))

    def copy_all(self, session: Session, name: str) -> None:
        stream = self.giving.get(name)
        if stream is None or stream.session is not session or session.broken:
            return
        stream.flows = True
        values = {slot: self.values.get(slot, (None, 0))[0] for slot in session.slots}
        run, seq = self.run, self.seq
        self.tell(name, lambda taker: taker.take_all(session, name, values, run, seq))

    def take_move_ack(self, session: Session, name: str, seq: int, sent: float) -> None:
        stream = self.giving.get(name)
        if stream is None or stream.session is not session:
            return
        stream.acked = max(stream.acked, seq)
        stream.lease_from = max(stream.lease_from, sent)
        given = self.given.get(name)
        if given and given.state != "handed" and stream.acked >= given.last:
            given.state = "handed"
            self.tell(name, lambda taker: taker.take_the_end(session, name))
            stream.flows = False
        self.settle()

    # --- as a taker ---------------------------------------------------------------------------------

    def current_move(self, session: Session, name: str) -> Taking | None:
        one = self.taking.get(name)
        return one if one and one.session is session else None

    def go_on(self, session: Session, name: str, run: str, seq: int) -> None:
        if one := self.current_move(session, name):
            one.whole, one.run, one.seq, one.heard = True, run, seq, self.world.now
            self.acknowledge_move(one, name, self.world.now - 1e6)

    def take_all(self, session: Session, name: str, values: dict[int, Any], run: str, seq: int) -> None:
        if one := self.current_move(session, name):
            self.values.update({slot: (value, 0) for slot, value in values.items()})
            one.whole, one.run, one.seq, one.heard = True, run, seq, self.world.now
            self.acknowledge_move(one, name, self.world.now - 1e6)

    def take_moved(self, session: Session, name: str, seq: int, slot: int, value: Any, sent: float) -> None:
        if one := self.current_move(session, name):
            self.values[slot] = (value, 0)
            one.seq, one.heard = max(one.seq, seq), self.world.now
            self.acknowledge_move(one, name, sent)

    def take_move_beat(self, session: Session, name: str, seq: int, sent: float) -> None:
        if (one := self.current_move(session, name)) and one.whole:
            one.seq, one.heard = max(one.seq, seq), self.world.now
            self.acknowledge_move(one, name, sent)

    def acknowledge_move(self, one: Taking, name: str, sent: float) -> None:
        self.last_ack = max(self.last_ack, self.world.now)
        giver, session, seq = self.world.nodes[one.session.main], one.session, one.seq
        if not self.world.send(self.name, giver.name, lambda: giver.take_move_ack(session, name, seq, sent)):
            session.broken = True

    def take_the_end(self, session: Session, name: str, *, gone: bool = False) -> None:
        """Nothing will follow."""
        one = self.current_move(session, name)
        if one and (one.whole or gone) and name in self.listed("to"):
            self.taken.add(name)

    # --- time ---------------------------------------------------------------------------------------

    def beat(self) -> None:
        for name, stream in self.giving.items():
            if stream.flows:
                self.tell(name, partial(move_beaten, stream.session, name, self.seq, self.world.now))
        super().beat()
        for name, move in self.listed("to").items():
            one = self.taking.get(name)
            well = one and not one.session.broken and self.world.now - one.heard < SILENCE
            if well or name in self.taken or not self.accepted():
                continue
            session = Session(move["from"], self.name, slots_of(move), self.document["epoch"])
            run, seq = (one.run, one.seq) if one and one.whole else ("", -1)
            if one:
                one.session.broken = True
            self.taking[name] = Taking(session, self.world.now, bool(run), run, seq)
            giver = self.world.nodes[move["from"]]
            self.world.send(self.name, giver.name, partial(giver.asked_for, session, name, run, seq))

    def ask_for_grant(self, copy: str) -> None:
        # A copy whose slots all move has no stream of its own for a while.
        if self.slots_for(copy):
            super().ask_for_grant(copy)


def moved(
    session: Session, name: str, seq: int, slot: int, value: Any, sent: float, taker: MovingNode
) -> None:
    """A record arrives at a taker."""
    taker.take_moved(session, name, seq, slot, value, sent)


def move_beaten(session: Session, name: str, seq: int, sent: float, taker: MovingNode) -> None:
    """A heartbeat arrives at a taker."""
    taker.take_move_beat(session, name, seq, sent)

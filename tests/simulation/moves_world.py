"""A small world in which slots move: nodes, a health service and clients, one step of one of them at a time.

The decisions are the real ones (moves.decided); nodes and the order in which the service saves, tells and
announces are modelled after replication/moves.rs, act.py and rebalance.py. Everything is drawn from a seed.
A write that was acknowledged must be what is read next, unless the node that held it has died since.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from fastcache.health import moves
from fastcache.health.groups import groups_of, slots_in
from fastcache.health.moves import COPYING, FLIPPED, Limits, Row, Step, View
from fastcache.model import Health

Document = dict[str, Any]
SLOTS = range(6)
# Steps in which everything must come to rest once all is well.
REST = 1500


class BrokenError(AssertionError):
    """What must never happen, has."""


@dataclass(slots=True)
class Stream:
    """A connection for one move; `wire` is what the taker has not got yet."""

    move: str
    giver_life: int
    taker_life: int
    wire: list[tuple[str, int, int]] = field(default_factory=list)
    sent: int = 0
    acked: int = -1
    copied: bool = False
    last: int | None = None
    final: bool = False


@dataclass(slots=True)
class Node:
    """A node: what it obeys, what it holds, and what it knows of moves in this life."""

    name: str
    alive: bool = True
    life: int = 0
    document: Document = field(default_factory=dict)
    # The mains of a document: they are asked for all the time.
    known: tuple[Document, dict[int, str]] = field(default_factory=lambda: ({}, {}))
    data: dict[int, int] = field(default_factory=dict)
    log: list[tuple[int, int]] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    # Of moves that we take: whether all was copied, and up to which record of which life of the giver.
    whole: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return int(self.document.get("epoch", 0))

    def mains(self) -> dict[int, str]:
        if self.known[0] is not self.document:
            self.known = (self.document, moves.mains_of(self.document))
        return self.known[1]

    def flipped(self, key: str) -> list[Document]:
        listed = self.document.get("moves", ())
        return [one for one in listed if one[key] == self.name and one["state"] == FLIPPED]

    def awaits(self, slot: int) -> bool:
        due = (one for one in self.flipped("to") if one["id"] not in self.taken)
        return any(slot in slots_in(one["ranges"]) for one in due)

    def serves(self, slot: int) -> bool:
        return self.alive and self.mains().get(slot) == self.name and not self.awaits(slot)

    def obey(self, document: Document) -> None:
        if not self.alive or document["epoch"] <= self.epoch:
            return
        before, old = self.mains(), self.document
        self.document = document
        gives = {one["id"]: one for one in self.flipped("from")}
        self.given = {name: state for name, state in self.given.items() if name in gives}
        for name, one in gives.items():
            if all(before.get(slot) == self.name for slot in slots_in(one["ranges"])):
                self.given.setdefault(name, "ours")
        takes = {one["id"] for one in self.flipped("to")}
        self.taken &= takes
        listed = {one["id"] for one in document["moves"]}
        self.whole = {name: held for name, held in self.whole.items() if name in listed}
        for one in old.get("moves", ()):
            if one["id"] in listed:
                continue
            for slot in slots_in(one["ranges"]):
                if self.mains().get(slot) != self.name:
                    self.data.pop(slot, None)

    def die(self) -> None:
        self.alive = False
        self.data, self.log, self.given, self.taken, self.whole = {}, [], {}, set(), {}


class World:
    """Everything, and one random step after another."""

    def __init__(self, seed: int, mutant: str = "") -> None:
        self.dice = random.Random(seed)
        self.mutant = mutant
        self.nodes = {name: Node(name) for name in "abc"}
        slots = [
            {"main": "a", "ranges": "0-3", "replicas": []},
            {"main": "b", "ranges": "4-5", "replicas": []},
        ]
        self.saved: Document = {"epoch": 1, "moves": [], "slots": slots}
        self.published = self.saved
        self.unsent: Document | None = None
        self.target = {slot: "abc"[slot % 3] for slot in SLOTS}
        self.streams: dict[str, Stream] = {}
        self.cut: set[str] = set()
        self.kept: set[str] = set()
        self.sent: set[str] = set()
        self.unheard: set[str] = set()
        self.number = 0
        self.acknowledged: dict[int, int] = {}
        # Slots whose holder has died: the next read says what there is.
        self.lost: set[int] = set()
        self.finished = 0
        for node in self.nodes.values():
            node.obey(self.saved)

    # --- clients ------------------------------------------------------------------------------------

    def client(self) -> None:
        slot, node = self.dice.choice(SLOTS), self.dice.choice(list(self.nodes.values()))
        servers = [one.name for one in self.nodes.values() if one.serves(slot)]
        if len(servers) > 1:
            raise BrokenError(f"slot {slot} is served by {servers}")
        if not node.serves(slot):
            return
        if slot in self.lost:
            self.lost.discard(slot)
            self.acknowledged[slot] = node.data.get(slot, 0)
        if node.data.get(slot, 0) != self.acknowledged.get(slot, 0):
            told, known = node.data.get(slot, 0), self.acknowledged.get(slot, 0)
            raise BrokenError(f"slot {slot}: {node.name} says {told}, acknowledged was {known}")
        if self.dice.random() < 0.7:
            self.number += 1
            node.data[slot] = self.acknowledged[slot] = self.number
            node.log.append((slot, self.number))

    # --- nodes --------------------------------------------------------------------------------------

    def hear(self) -> None:
        """A node gets the topology that is published."""
        node = self.dice.choice(list(self.nodes.values()))
        if node.name not in self.cut:
            node.obey(self.published)

    def stream(self) -> None:
        """One stream begins, goes on, or breaks."""
        taker = self.dice.choice([one for one in self.nodes.values() if one.alive] or [None])  # type: ignore[list-item]
        mine = [one for one in taker.document.get("moves", ()) if one["to"] == taker.name] if taker else []
        if not taker or not mine:
            return
        move = self.dice.choice(mine)
        giver, name = self.nodes[move["from"]], move["id"]
        stream = self.streams.get(name)
        if stream and (
            not giver.alive
            or (stream.giver_life, stream.taker_life) != (giver.life, taker.life)
            or all(one["id"] != name for one in giver.document["moves"])
            or self.dice.random() < 0.05
        ):
            del self.streams[name]
            return
        if not stream:
            if giver.alive and giver.epoch == taker.epoch and name not in taker.taken:
                self.connect(giver, taker, move)
            return
        self.pump(giver, stream, move)
        self.deliver(taker, stream)
        if stream.final and giver.given.get(name) == "ours":
            giver.given[name] = "sent"

    def connect(self, giver: Node, taker: Node, move: Document) -> None:
        name = move["id"]
        held = taker.whole.get(name)
        resumed = held is not None and held[0] == giver.life
        if move["state"] == FLIPPED:
            state = giver.given.get(name)
            if state == "kept":
                return
            if state != "ours" and not (state in {"sent", "handed"} and resumed):
                taker.taken.add(name)  # GONE
                return
        stream = Stream(name, giver.life, taker.life)
        if resumed and held:
            stream.copied, stream.sent, stream.acked = True, held[1], held[1]
        self.streams[name] = stream

    def pump(self, giver: Node, stream: Stream, move: Document) -> None:
        """What the giver sends in one turn."""
        slots = set(slots_in(move["ranges"]))
        if not stream.copied:
            stream.sent = len(giver.log)
            stream.wire += [("put", slot, giver.data.get(slot, 0)) for slot in slots]
            stream.wire.append(("whole", 0, stream.sent))
            stream.copied = True
        for at in range(stream.sent, len(giver.log)):
            slot, value = giver.log[at]
            if slot in slots:
                stream.wire.append(("put", slot, value))
            stream.wire.append(("seq", 0, at + 1))
        stream.sent = len(giver.log)
        if giver.given.get(move["id"]) in {"ours", "sent", "handed"}:
            stream.last = stream.last if stream.last is not None else len(giver.log)
            if not stream.final and stream.acked >= stream.last:
                stream.wire.append(("final", 0, 0))
                stream.final = True

    def deliver(self, taker: Node, stream: Stream) -> None:
        """Some of what is on the wire arrives."""
        count = self.dice.randint(0, len(stream.wire))
        arrived, stream.wire = stream.wire[:count], stream.wire[count:]
        for kind, slot, value in arrived:
            if kind == "put":
                taker.data[slot] = value
            elif kind == "whole" or (kind == "seq" and stream.move in taker.whole):
                taker.whole[stream.move] = (stream.giver_life, value)
            elif kind == "final":
                taker.taken.add(stream.move)
        if stream.move in taker.whole:
            stream.acked = taker.whole[stream.move][1]

    # --- the health service -------------------------------------------------------------------------

    def rows(self) -> dict[tuple[str, str], Row]:
        """What nodes say that can be reached."""
        told = {}
        for node in self.nodes.values():
            if not node.alive or node.name in self.cut:
                continue
            for one in node.document.get("moves", ()):
                name, stream = one["id"], self.streams.get(one["id"])
                if one["state"] == COPYING:
                    whole = stream is not None and stream.acked >= 0
                    behind = len(node.log) - stream.acked if stream and one["from"] == node.name else 0
                    told[node.name, name] = Row(
                        "streaming" if whole else "copying", lag_records=1000 * behind
                    )
                elif one["to"] == node.name:
                    told[node.name, name] = Row("open" if name in node.taken else "awaited")
                elif one["from"] == node.name:
                    told[node.name, name] = Row(node.given.get(name, "gone"))
        return told

    def lead(self) -> None:
        """The service decides, saves, tells those who must hear first, announces: or falls in between."""
        view = View(
            nodes={
                node.name: Health.HEALTHY if node.alive and node.name not in self.cut else Health.UNHEALTHY
                for node in self.nodes.values()
            },
            dead=frozenset(
                node.name
                for node in self.nodes.values()
                if not node.alive or (self.mutant == "silence-is-death" and node.name in self.cut)
            ),
            rows=self.rows(),
            kept=frozenset(self.kept),
            sent=frozenset(self.sent),
            unheard=frozenset(self.unheard),
        )
        before = self.published
        decision = moves.decided(before, self.planned(before), view, Limits(1, 2))
        for giver, name in decision.ask_to_keep:
            self.keep(giver, name)
        if not decision.events:
            return
        fresh = {"epoch": self.saved["epoch"] + 1, "moves": decision.moves, "slots": decision.slots}
        self.saved = fresh
        known = {one["id"] for one in before["moves"] if one["state"] == FLIPPED}
        flips = [one for one in fresh["moves"] if one["state"] == FLIPPED and one["id"] not in known]
        for one in flips:
            if self.falls() or not self.tell(one["to"], fresh):
                self.unheard.add(one["id"])
                return
        for one in flips:
            if self.falls():
                return
            self.tell(one["from"], fresh)
        if self.falls():
            return
        self.published = fresh
        self.finished += sum(event.kind == "move-done" for event in decision.events)

    def falls(self) -> bool:
        """The service is killed here; its next life announces what was saved."""
        if self.dice.random() < 0.05:
            self.published = self.saved
            self.kept, self.sent, self.unheard = set(), set(), set()
            return True
        return False

    def tell(self, name: str, document: Document) -> bool:
        """Bring it to a node; says whether an answer came."""
        node = self.nodes[name]
        if name in self.cut or not node.alive or self.dice.random() < 0.1:
            return False
        node.obey(document)
        return self.dice.random() < 0.9

    def keep(self, giver: str, name: str) -> None:
        node = self.nodes[giver]
        if not node.alive or giver in self.cut:
            return
        state = node.given.get(name)
        if state in {"ours", "kept"}:
            if self.mutant != "keep-is-only-said":
                node.given[name] = "kept"
            self.kept.add(name)
        elif state:
            self.sent.add(name)

    def planned(self, document: Document) -> list[Step]:
        return moves.steps(document, self.target)

    # --- faults -------------------------------------------------------------------------------------

    def fault(self) -> None:
        node = self.dice.choice(list(self.nodes.values()))
        kind = self.dice.choice(["kill", "start", "start", "cut", "heal", "heal", "target"])
        if kind == "kill" and node.alive:
            for slot in SLOTS:
                if self.holder(slot) in {node.name, ""}:
                    self.lost.add(slot)
            node.die()
        elif kind == "start" and not node.alive and node.name not in self.cut:
            # It asks before it serves. One that cannot would believe its file: docs/rebalancing.md, limits.
            node.alive, node.life = True, node.life + 1
            node.obey(self.published)
        elif kind == "cut":
            self.cut.add(node.name)
        elif kind == "heal":
            self.cut.discard(node.name)
        elif kind == "target":
            self.target = {slot: self.dice.choice("abc") for slot in SLOTS}

    def holder(self, slot: int) -> str:
        """Who has the latest of a slot alone, or may have handed it over this very moment (empty)."""
        servers = [node.name for node in self.nodes.values() if node.serves(slot)]
        if servers:
            return servers[0]
        for node in self.nodes.values():
            for one in node.flipped("from"):
                if slot in set(slots_in(one["ranges"])) and node.given.get(one["id"]) in {"ours", "kept"}:
                    return node.name
        return ""

    def run(self, steps: int) -> None:
        """So many steps, then everything heals and comes to rest."""
        for number in range(steps + REST):
            if number == steps:
                self.cut.clear()
                for node in self.nodes.values():
                    if not node.alive:
                        node.alive, node.life = True, node.life + 1
                        node.obey(self.published)
            what = self.dice.choices(
                [self.client, self.hear, self.stream, self.lead, self.fault],
                [8, 3, 8, 3, 0.25 if number < steps else 0],
            )[0]
            what()
        for slot in SLOTS:
            servers = [node.name for node in self.nodes.values() if node.serves(slot)]
            if servers != [self.target[slot]]:
                raise BrokenError(
                    f"at rest slot {slot} is served by {servers}, and belongs to {self.target[slot]}"
                )
        owners = [slot for group in groups_of(self.saved["slots"]) for slot in slots_in(group.ranges)]
        if sorted(owners) != list(SLOTS):
            raise BrokenError("a slot has not exactly one owner")

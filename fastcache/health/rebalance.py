"""Carry out moves of slots: take orders, look at moves under way, have the topology take them further.

What must survive a crash is in the store: moves in the topology itself, and beside it the orders (orders.py:
whether slots are to move, and nodes whose weight an operator has changed). What comes next follows from them,
see moves.py. What would move is told by forecast.py, how far it is by progress.py.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from fastcache.health import compose, forecast, moves, orders
from fastcache.health.cost import Cost
from fastcache.health.decide import Failure
from fastcache.health.groups import groups_of, mask_of
from fastcache.health.moves import FLIPPED, Decision, Limits, Row, Step, View
from fastcache.health.pace import Pace
from fastcache.health.replication import RefusedError
from fastcache.health.resp import ErrorReply, pairs_of
from fastcache.health.roles import Event
from fastcache.health.store import DeposedError
from fastcache.model import Health

if TYPE_CHECKING:
    from fastcache.health.act import Service

Document = dict[str, Any]
# Moves under way are looked at so often; without any, it is looked whether some should begin.
LOOK_SECONDS = 0.03
IDLE_SECONDS = 0.25
MOST_REPLICAS = 7


class Rebalance:
    """The part of the service that moves slots."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.orders = orders.Orders()
        # The orders have changed and are not saved yet.
        self.unsaved = False
        # The orders are in force from this epoch on.
        self.since = 0
        self.limits = Limits(slots=service.settings.move_slots)
        self.rows: dict[tuple[str, str], Row] = {}
        self.kept: set[str] = set()
        self.sent: set[str] = set()
        self.unheard: set[str] = set()
        # Where slots belong, and for which members that was worked out.
        self.wanted: tuple[object, dict[int, str]] = (None, {})
        # What is still to move, and from which placement on: it is asked for many times a second.
        self.left: tuple[object, object, list[Step]] = (None, None, [])
        self.stirred = asyncio.Event()
        self.pace = Pace()
        # What each node was told last.
        self.paces: dict[str, int] = {}
        self.cost = Cost(service)
        # When the last move began, by the monotonic clock.
        self.begun_at = float("-inf")

    # --- what is kept -------------------------------------------------------------------------------

    def restore(self, body: bytes) -> None:
        """What the store had."""
        self.orders = orders.restored(body)
        self.unsaved = False

    def order(self, **changes: object) -> None:
        """Change the orders; the next topology carries them to the store."""
        for name, value in changes.items():
            setattr(self.orders, name, value)
        self.unsaved = True
        self.since = max(self.service.saved, self.service.epoch) + 1
        self.service.touch()
        self.stirred.set()

    async def saved_orders(self, seconds: float = 5.0) -> None:
        """Wait until the orders are saved: one that was accepted outlives whoever leads."""
        deadline = time.monotonic() + seconds
        while self.service.saved < self.since:
            if not self.service.leading or time.monotonic() > deadline:
                raise DeposedError("the order could not be saved; ask again")
            self.service.touch()
            await asyncio.sleep(0.02)

    # --- what is asked for --------------------------------------------------------------------------

    @property
    def under_way(self) -> list[Document]:
        """The moves of the topology in force."""
        found: list[Document] = self.service.document.get("moves", [])
        return found

    def steps(self, document: Document) -> list[Step]:
        """What is still to move. Where slots belong is worked out once for the same members."""
        names = ("id", "host", "rack", "weight")
        key = (
            tuple(tuple(node[name] for name in names) for node in document.get("nodes", ())),
            document.get("virtual_nodes"),
            document.get("replicas"),
            self.orders.started,
        )
        if self.wanted[0] != key:
            self.wanted = (key, self.target(document))
        placed = document.get("slots")
        if self.left[0] is not placed or self.left[1] is not self.wanted:
            self.left = (placed, self.wanted, moves.steps(document, self.wanted[1]))
        return self.left[2]

    def target(self, document: Document) -> dict[int, str]:
        """Who should be the main of each slot."""
        settings = self.service.settings
        return moves.target(document, settings.replica_placement, settings.pairs)

    def start(
        self,
        weights: dict[str, int] | None = None,
        replicas: int | None = None,
        megabytes: float | None = None,
        p99_ms: float | None = None,
        share: float | None = None,
    ) -> None:
        """Give every node its share, nothing to those of weight 0; or change how many copies there are."""
        if replicas is not None:
            self.judge_replicas(replicas)
        wanted = {**self.orders.weights, **(weights or {})}
        for name in weights or {}:
            if self.service.registry.find(name, "node") is None:
                raise RefusedError(f"there is no node {name}")
        left = [
            record
            for record in self.service.registry.of_kind("node")
            if wanted.get(record.member.id, record.member.weight)
        ]
        if not left:
            raise RefusedError("no node would be left to hold the slots")
        if compose.STRICT in self.service.flags and len(left) < 2:
            raise RefusedError("strict mode needs two nodes that hold slots, and one would be left")
        running = self.orders.state in {"running", "paused"}
        if not running:
            self.cost.begin()
        fresh: dict[str, object] = (
            {}
            if running
            else {
                "started": time.time(),
                "finished": 0.0,
                "slots_moved": 0,
                "keys_moved": 0,
                "bytes_moved": 0,
                "given_up": 0,
                "slots_total": 0,
                "keys_total": 0,
            }
        )
        budget = {"replicas": replicas, "megabytes": megabytes, "p99_ms": p99_ms, "share": share}
        fresh |= {name: value for name, value in budget.items() if value is not None}
        self.order(state="running", weights=wanted, phase="mains", newcomers=[], **fresh)
        told = {"weights": wanted} | ({} if replicas is None else {"replicas": replicas})
        self.service.replication.remember("rebalance-started", **told)

    def judge_replicas(self, replicas: int) -> None:
        """An error when slots cannot have so many copies."""
        if not 0 <= replicas <= MOST_REPLICAS:
            raise RefusedError(f"{replicas} copies of every slot are not between 0 and {MOST_REPLICAS}")
        if replicas and not self.service.replication.on:
            raise RefusedError('replication is off: POST /flags {"replication": true} first')
        if replicas == 0 and compose.STRICT in self.service.flags:
            raise RefusedError("strict mode needs copies: switch it off first (POST /flags)")
        nodes = len([one for one in self.service.registry.of_kind("node") if one.member.weight])
        if replicas >= nodes:
            raise RefusedError(
                f"{replicas} copies of every slot need {replicas + 1} nodes, and there are {nodes}"
            )

    def newcomer(self, name: str) -> None:
        """A node has joined a cluster that has slots."""
        if name not in self.orders.newcomers:
            self.order(newcomers=[*self.orders.newcomers, name])

    @property
    def replicas(self) -> int:
        """Copies of every slot besides its main that are wanted."""
        ordered = self.orders.replicas
        return ordered if ordered >= 0 else self.service.settings.replicas

    @property
    def evening(self) -> bool:
        """Whether copies are to go where the ring wants them."""
        return self.orders.state == "running" and self.orders.phase == "copies"

    @property
    def drained(self) -> frozenset[str]:
        """Nodes that are to hold nothing."""
        weights = self.orders.weights
        members = (record.member for record in self.service.registry.of_kind("node"))
        return frozenset(one.id for one in members if not weights.get(one.id, one.weight))

    @property
    def moving(self) -> dict[tuple[str, str], int]:
        """(giver, taker) -> slots on their way that are the giver's still, as bits."""
        found: dict[tuple[str, str], int] = {}
        for move in self.under_way:
            if move["state"] != FLIPPED:
                pair = (move["from"], move["to"])
                found[pair] = found.get(pair, 0) | mask_of(move["ranges"])
        return found

    def pause(self) -> None:
        """Begin no more moves; those under way end."""
        if self.orders.state != "running":
            raise RefusedError("no rebalance is running")
        self.order(state="paused")
        self.service.replication.remember("rebalance-paused")

    def resume(self) -> None:
        """Go on."""
        if self.orders.state != "paused":
            raise RefusedError("no rebalance is paused")
        self.order(state="running")
        self.service.replication.remember("rebalance-resumed")

    def cancel(self) -> None:
        """Give up what is being copied; what has moved stays where it is, and weights are as before."""
        if self.orders.state not in {"running", "paused"}:
            raise RefusedError("no rebalance is running")
        weights = {name: weight for name, weight in self.orders.weights.items() if weight}
        self.order(state="cancelled", weights=weights)
        self.service.replication.remember("rebalance-cancelled")

    def forget(self, node: str) -> None:
        """A node has left, and its weight with it."""
        if node in self.orders.weights:
            self.order(weights={k: v for k, v in self.orders.weights.items() if k != node})

    # --- deciding -----------------------------------------------------------------------------------

    def view(self) -> View:
        """All that is known now."""
        nodes = {
            record.member.id: record.judgement.status for record in self.service.registry.of_kind("node")
        }
        dead = {
            record.member.id
            for record in self.service.registry.of_kind("node")
            if record.check and record.check.failure is Failure.REFUSED
        }
        return View(
            nodes=nodes,
            dead=frozenset(dead),
            rows=self.rows,
            kept=frozenset(self.kept),
            sent=frozenset(self.sent),
            unheard=frozenset(self.unheard),
            running=self.orders.state == "running",
            replicated=self.service.replication.on,
            cancelled=self.orders.state == "cancelled",
            rests=self.rests,
        )

    @property
    def rests(self) -> bool:
        """Whether it is too early for the next move."""
        return time.monotonic() < self.begun_at + self.pace.rest(self.share)

    @property
    def share(self) -> float:
        """The part of the time in which steps may be felt."""
        return self.orders.share or self.service.settings.move_share

    def decided(self, document: Document) -> Decision:
        """The moves and slots of the next topology."""
        planned = self.steps(document) if self.orders.state == "running" else []
        return moves.decided(document, planned, self.view(), self.limits)

    def applied(self, document: Document) -> tuple[Document, list[Event]]:
        """A topology with every move a step further."""
        if not document.get("slots") or (not document.get("moves") and self.orders.state != "running"):
            return document, []
        decision = self.decided(document)
        return {**document, "moves": decision.moves, "slots": decision.slots}, decision.events

    # --- acting -------------------------------------------------------------------------------------

    async def hand_over(self, before: Document, after: Document, body: bytes) -> bool:
        """Bring a topology to takers of flipped moves, then to their givers; False when a taker was silent.

        The taker first: from then on it holds requests for these slots until the giver has sent everything.
        """
        deliver = self.service.replication.deliver
        begun = {move["id"] for move in before.get("moves", ())}
        givers = sorted({move["from"] for move in after["moves"] if move["id"] not in begun})
        # Before anything is copied. Whoever has lived anew since it was told knows nothing of it.
        await asyncio.gather(*(self.tell_pace(name) for name in givers))
        if self.service.replication.on:
            # A giver may count on the taker as a replica: it must know first by which stream slots go.
            await asyncio.gather(*(deliver(name, body) for name in givers))
        known = {move["id"] for move in before.get("moves", ()) if move["state"] == FLIPPED}
        fresh = [m for m in after["moves"] if m["state"] == FLIPPED and m["id"] not in known]
        if not fresh:
            return True
        takers = sorted({move["to"] for move in fresh})
        answers = await asyncio.gather(*(deliver(name, body) for name in takers))
        silent = {name: answer for name, answer in zip(takers, answers, strict=True) if answer}
        if silent:
            self.service.log("warning", "slots were not taken over", **silent)
            # No giver has heard of it: it goes on serving, and the next topology says so.
            self.unheard.update(move["id"] for move in fresh)
            return False
        await asyncio.gather(*(deliver(name, body) for name in sorted({move["from"] for move in fresh})))
        return True

    def note(self, events: list[Event], seconds: float) -> None:
        """Count what has become of moves, once it is in force; that took so long."""
        if events:
            begins = any(event.kind == "move-begun" for event in events)
            self.pace.note_step(seconds, begins=begins)
            self.begun_at = time.monotonic() if begins else self.begun_at
        for event in events:
            fields = dict(event.fields)
            move, slots = str(fields["move"]), int(str(fields["slots"]))
            if event.kind == "move-done":
                row = self.rows.get((str(fields["to"]), move))
                self.orders.slots_moved += slots
                self.orders.keys_moved += row.keys if row else 0
                self.orders.bytes_moved += row.bytes if row else 0
                self.unsaved = True
            if event.kind in {"move-given-up", "move-undone"}:
                self.orders.given_up += 1
                self.unsaved = True
            self.service.replication.remember(event.kind, epoch=self.service.epoch, **fields)
        there = {move["id"] for move in self.under_way}
        for known in (self.kept, self.sent, self.unheard):
            known.intersection_update(there)
        for key in [key for key in self.rows if key[1] not in there]:
            del self.rows[key]
        self.stirred.set()

    async def run_for_ever(self) -> None:
        """Look at what moves, and have the topology follow."""
        while True:
            busy = self.service.leading and self.under_way
            self.stirred.clear()
            try:
                async with asyncio.timeout(LOOK_SECONDS if busy else IDLE_SECONDS):
                    await self.stirred.wait()
            except TimeoutError:
                pass
            if self.service.leading and self.service.document.get("slots"):
                try:
                    await self.look()
                except Exception as error:
                    self.service.log("error", "moves could not be looked at", error=repr(error))
                    await asyncio.sleep(1.0)

    async def look(self) -> None:
        """One look at everything."""
        self.cost.count_now_and_then(
            active=self.orders.state in {"running", "paused"} or bool(self.under_way)
        )
        if self.under_way:
            names = sorted({name for move in self.under_way for name in (move["from"], move["to"])})
            await asyncio.gather(*(self.hear(name) for name in names))
            await self.keep_pace()
            decision = self.decided(self.service.document)
            await asyncio.gather(*(self.ask_to_keep(*one) for one in decision.ask_to_keep))
            if decision.events or decision.ask_to_keep:
                self.service.touch()
            if self.orders.state == "running" and not self.orders.slots_total:
                await self.estimate()
            return
        if self.orders.state == "cancelled":
            self.order(state="idle", finished=time.time())
        elif self.orders.state == "running":
            await self.run_on()
        elif self.service.admits() and self.startable():
            self.service.admit = False
            self.start()

    async def run_on(self) -> None:
        """Begin the next moves, or end when there is nothing left to move."""
        if self.service.epoch < self.since:
            return self.service.touch()  # The members and weights that it is for are not in force yet.
        left = self.steps(self.service.document)
        if not left and self.service.replication.on:
            if self.orders.phase == "mains":
                return self.order(phase="copies")
            if copies := self.copies_left():
                self.orders.waits = f"copies of {copies} slots are being made"
                return None
        if not left:
            await self.cost.count()
            self.order(state="idle", finished=time.time(), waits="")
            seconds = round(time.time() - self.orders.started, 1)
            slots, keys = self.orders.slots_moved, self.orders.keys_moved
            self.service.replication.remember("rebalance-done", slots=slots, keys=keys, seconds=seconds)
            return None
        if not self.orders.slots_total:
            await self.estimate()
        if self.decided(self.service.document).events:
            self.orders.waits = ""
            self.service.touch()
        elif self.rests:
            self.orders.waits = ""
        else:
            self.orders.waits = f"{left[0].giver} and {left[0].taker} must both be well"
        return None

    def startable(self) -> bool:
        """Whether slots should move without being asked, and any of them could."""
        if self.orders.state != "idle" or not moves.due(self.service.document):
            return False
        if self.service.replication.on:
            # Who has come back after a failover holds copies, and is no newcomer.
            holders = set(moves.mains_of(self.service.document).values())
            if not (set(self.orders.newcomers) - holders) and not (self.drained & holders):
                return False
        view = View(nodes=self.view().nodes)
        document = self.service.document
        return bool(moves.decided(document, self.steps(document), view, self.limits).events)

    def copies_left(self) -> int:
        """Slots whose copies are not where they are to be, as far as nodes are there that can take them."""
        members = self.service.registry.of_kind("node")
        well = {one.member.id for one in members if one.judgement.status is Health.HEALTHY}
        wanted = min(self.replicas, max(len(well - self.drained) - 1, 0))
        return sum(
            mask_of(group.ranges).bit_count()
            for group in groups_of(self.service.document.get("slots", ()))
            if well.intersection(group.learners)
            or len(group.plain) < wanted
            or self.drained.intersection(group.copies)
        )

    async def estimate(self) -> None:
        """How much there is to move, as the givers say."""
        told = await forecast.plan(self)
        self.orders.slots_total = self.orders.slots_moved + told["slots"]
        self.orders.keys_total = self.orders.keys_moved + told["keys"]
        if self.cost.impact.expected_dip is None:
            self.cost.impact.expected_dip = told["hitRateDip"]

    async def hear(self, name: str) -> None:
        """What a node says of its moves."""
        record, began = self.service.registry.find(name, "node"), time.monotonic()
        try:
            reply = await self.service.prober.tell(record.member, "FASTCACHE", "MOVES") if record else None
            self.pace.note((time.monotonic() - began) * 1000)
        except (TimeoutError, OSError):
            reply = None
        for key in [key for key in self.rows if key[0] == name]:
            del self.rows[key]
        for told in reply if isinstance(reply, list) else ():
            move, row = moves.row_from(pairs_of(told))
            self.rows[name, move] = row
            self.pace.note_requests(name, row.requests, began)

    async def keep_pace(self) -> None:
        """Tell givers how fast they may copy, whenever that changes."""
        pace = self.pace.next(*self.budget)
        for name in sorted({move["from"] for move in self.under_way}):
            if self.paces.get(name) != pace and not self.service.stopping.is_set():
                await self.tell_pace(name)

    @property
    def budget(self) -> tuple[float, float]:
        """Bytes a second and milliseconds of an answer that were ordered (0: no limit)."""
        return self.orders.megabytes * 1e6, self.orders.p99_ms

    async def tell_pace(self, name: str) -> None:
        """Tell a giver how fast it may copy."""
        self.paces.pop(name, None)
        record, pace = self.service.registry.find(name, "node"), self.pace.next(*self.budget)
        try:
            words = ("FASTCACHE", "MOVE", "PACE", str(pace))
            reply = await self.service.prober.tell(record.member, *words) if record else None
        except (TimeoutError, OSError):
            return
        if not isinstance(reply, ErrorReply):
            self.paces[name] = pace

    async def ask_to_keep(self, giver: str, move: str) -> None:
        """Have a giver keep slots whose taker has fallen, unless they were handed over already."""
        record = self.service.registry.find(giver, "node")
        try:
            words = ("FASTCACHE", "MOVE", "KEEP", move)
            reply = await self.service.prober.tell(record.member, *words) if record else None
        except (TimeoutError, OSError):
            return
        if isinstance(reply, ErrorReply):
            self.sent.add(move)
        elif reply:
            self.kept.add(move)

"""Act on what roles.py decides: listen to nodes, ask heirs, bring topologies, change places on request.

The order of a change is always the same, and any crash may fall between two of its lines: the epoch is saved
(act.py), new mains hear of it, then everybody. A leader that begins anew announces what was saved; that new
mains hear first only shortens the time in which clients are sent to somebody who does not know yet.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from fastcache.health import compose
from fastcache.health.events import Events
from fastcache.health.evidence import Evidence, Report
from fastcache.health.groups import Document, first_to_hear, groups_of
from fastcache.health.links import STREAMING
from fastcache.health.registry import Member
from fastcache.health.resp import ErrorReply
from fastcache.health.roles import Event, NodeView, View, Wish
from fastcache.model import Health

if TYPE_CHECKING:
    from fastcache.health.act import Published, Service

# One who did not agree to become a main is not asked again for so long.
UNWILLING_SECONDS = 2.0
# Writes are held at most so long by a switchover; the copy has this long to catch up.
HOLD_SECONDS = 3.0
# While copies are not in sync, mains are asked so often.
LISTEN_SECONDS = 0.25
# A topology that was brought to a node is on its disk before it agrees.
DELIVERY_SECONDS = 2.0
FAILOVER = "failover"


class RefusedError(Exception):
    """What was asked for cannot be done; the message says why and what would help."""


@dataclass(slots=True)
class Counts:
    """What has happened since this service started."""

    failovers: Counter[str] = field(default_factory=Counter)
    lost_writes: int = 0
    grants: int = 0


class Replication:
    """The part of the service that looks after mains and copies."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.evidence = Evidence()
        self.events = Events(service.settings.dir)
        self.counts = Counts()
        self.unwilling: dict[str, float] = {}
        # Nodes that are about to stop: until when that is believed, and the life that is meant.
        self.leaving: dict[str, tuple[float, str]] = {}
        self.deliveries: dict[str, asyncio.Task[None]] = {}

    @property
    def on(self) -> bool:
        """Whether the topology says so."""
        return compose.REPLICATION in self.service.flags

    # --- listening ----------------------------------------------------------------------------------

    async def listen(self, member: Member) -> Report | None:
        """Hear a node out and take in what it says."""
        report = await self.service.prober.report(member)
        if report is None or not self.service.leading:
            return None
        changed = self.evidence.take(report, self.service.document, self.now())
        restless = any(
            link.broken_since for key, link in self.evidence.links.items() if key[0] == report.node
        )
        if changed or restless:
            self.service.touch()
        if report.epoch < self.service.epoch:
            self.push(member)
        return report

    async def listen_for_ever(self) -> None:
        """Between checks, hear those out whose copies are not in sync; notice who stays away too long."""
        known_away: frozenset[str] = frozenset()
        known_leaving: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            if self.service.leading and self.on:
                view = self.view()
                away = frozenset(n for n, node in view.nodes.items() if node.away >= view.replace_after)
                if away != known_away or view.leaving != known_leaving:
                    known_away, known_leaving = away, view.leaving
                    self.service.touch()
                mains = {
                    group.main
                    for group in groups_of(self.service.document.get("slots", ()))
                    if group.learners
                }
                await self.listen_to(mains)

    async def listen_to(self, names: set[str]) -> None:
        """Hear several out at once; those that are down have nothing to say."""
        found = (self.service.registry.find(name, "node") for name in sorted(names))
        members = [one.member for one in found if one and one.judgement.status is not Health.UNHEALTHY]
        await asyncio.gather(*(self.listen(member) for member in members))

    def now(self) -> float:
        return self.service.prober.clock()

    def grant(self, main: str, copy: str, epoch: int) -> bool:
        """A main asks to go on without a copy; says whether there is anything to grant."""
        asked = any(
            group.main == main and copy in group.replicas
            for group in groups_of(self.service.document.get("slots", ()))
        )
        if asked and epoch == self.service.epoch:
            self.evidence.ask(main, copy, epoch)
            self.service.touch()
        return asked

    # --- deciding -----------------------------------------------------------------------------------

    def view(self, wish: Wish | None = None) -> View:
        """All that is known now."""
        service, now = self.service, self.now()
        nodes = {}
        for record in service.registry.of_kind("node"):
            name, judgement = record.member.id, record.judgement
            down = judgement.status is Health.UNHEALTHY
            nodes[name] = NodeView(
                status=judgement.status,
                run=self.evidence.runs.get(name, ""),
                away=now - judgement.since if down else 0.0,
                silent=judgement.failures > 0,
                unwilling=now < self.unwilling.get(name, 0.0),
            )
        return View(
            nodes=nodes,
            links=self.evidence.links,
            received=self.evidence.received,
            grants=self.evidence.grants(service.epoch),
            strict=compose.STRICT in service.flags,
            paused=compose.PAUSED in service.flags,
            replace_after=service.settings.replace_after,
            patience=max(service.pace.timeout, LISTEN_SECONDS),
            wish=wish,
            leaving=self.still_leaving(),
            moving=service.rebalance.moving,
            drained=service.rebalance.drained,
            evening=service.rebalance.evening,
            now=now,
        )

    def still_leaving(self) -> frozenset[str]:
        """Who said so not long ago and has not started anew since."""
        now, runs = self.now(), self.evidence.runs
        self.leaving = {
            name: (until, run)
            for name, (until, run) in self.leaving.items()
            if now < until and runs.get(name, "") == run
        }
        return frozenset(self.leaving)

    async def decided(
        self, document: Document, before: Document, wish: Wish | None
    ) -> tuple[Document, list[Event]]:
        """The topology with its slots; whoever is to become a main was asked just now."""
        asked: set[str] = set()
        while True:
            draft, events = self.composed(document, before, wish)
            heirs = set(first_to_hear(before, draft))
            if heirs <= asked:
                return draft, events
            # Hear all copies of the mains that are replaced: who is the most advanced may have changed.
            old = {str(dict(event.fields)["old"]) for event in events if event.kind == FAILOVER}
            copies = {
                name
                for group in groups_of(before.get("slots", ()))
                if group.main in old
                for name in group.copies
            }
            await self.ask_heirs(heirs | copies)
            asked |= heirs | copies

    def composed(
        self, document: Document, before: Document, wish: Wish | None
    ) -> tuple[Document, list[Event]]:
        draft = {**document, "nodes": [dict(node) for node in document["nodes"]]}
        service = self.service
        return compose.with_roles(draft, before, service.shape(), self.view(wish), admit=service.admits())

    async def ask_heirs(self, names: set[str]) -> None:
        """A last look before a promotion: what was seen at the last check may be over."""
        members = [
            record.member for name in sorted(names) if (record := self.service.registry.find(name, "node"))
        ]
        reports = await asyncio.gather(*(self.service.prober.report(member) for member in members))
        for member, report in zip(members, reports, strict=True):
            if report:
                self.evidence.take(report, self.service.document, self.now())
            elif member.id in self.evidence.runs:
                self.unwilling[member.id] = self.now() + UNWILLING_SECONDS

    def planned(self, wish: Wish) -> list[Event]:
        """What would come of a wish: only what concerns its node."""
        service = self.service
        if not self.on:
            raise RefusedError("replication is off: there is nobody to hand over to (POST /flags)")
        if service.registry.find(wish.node, "node") is None:
            raise RefusedError(f"there is no node {wish.node}")
        if not any(group.main == wish.node for group in groups_of(service.document.get("slots", ()))):
            raise RefusedError(f"{wish.node} is the main of no slot: there is nothing to hand over")
        _, events = self.composed(service.draft(), service.document, wish)
        events = [one for one in events if one.kind == FAILOVER and dict(one.fields)["old"] == wish.node]
        if not events:
            who = wish.to or "any copy"
            raise RefusedError(
                f"{who} of {wish.node} is not in sync, and writes would be lost; GET /replication tells more"
            )
        return events

    # --- acting -------------------------------------------------------------------------------------

    async def deliver_first(self, before: Document, fresh: "Published", first: tuple[str, ...]) -> bool:
        """Bring a topology to the new mains; False when one of them is not what we took it for.

        Who does not answer may have heard all the same, so that there is no way back but a newer topology.
        """
        after = msgspec.json.decode(fresh.body)
        relieved = ""
        for name in first:  # An old main that gives up by itself comes before its heir.
            if not await self.deliver(name, fresh.body):
                relieved = name  # Its heirs need not wait until what they promised it has run out.
        heirs = first_to_hear(before, after) if self.on else ()
        answers = await asyncio.gather(*(self.deliver(name, fresh.body, relieved) for name in heirs))
        for name, answer in zip(heirs, answers, strict=True):
            if answer.startswith("STALERUN"):
                self.unwilling[name] = self.now() + UNWILLING_SECONDS
                return False
            if answer:
                self.service.log("warning", "a new main did not agree", node=name, answer=answer)
        return True

    async def deliver(self, name: str, body: bytes, relieved: str = "") -> str:
        """Bring a topology to a node: empty when it agrees, else what it said.

        `relieved`: a main of before that obeys it already.
        """
        record = self.service.registry.find(name, "node")
        if record is None:
            return "it has left"
        words = ("FASTCACHE", "TOPOLOGY", "SET", body)
        more = ("RELIEVED", relieved) if relieved else ()
        try:
            reply = await self.service.prober.tell(record.member, *words, *more, seconds=DELIVERY_SECONDS)
            if more and isinstance(reply, ErrorReply) and "syntax" in str(reply):  # One of an older release.
                reply = await self.service.prober.tell(record.member, *words, seconds=DELIVERY_SECONDS)
        except (TimeoutError, OSError) as error:
            return str(error) or "no answer"
        return str(reply) if isinstance(reply, ErrorReply) else ""

    def push(self, member: Member) -> None:
        """Bring the topology in force to a node that knows an older one, in the background."""
        if (
            member.id in self.deliveries
            or self.service.current is None
            or member.id not in self.evidence.runs
        ):
            return

        async def bring() -> None:
            try:
                while (current := self.service.current) and self.service.leading:
                    answer = await self.deliver(member.id, current.body)
                    if answer or current is self.service.current:
                        return
            finally:
                self.deliveries.pop(member.id, None)

        self.deliveries[member.id] = asyncio.create_task(bring())

    def push_all(self) -> None:
        """Bring the topology in force to everybody who takes one."""
        for record in self.service.registry.of_kind("node"):
            if record.judgement.status is not Health.UNHEALTHY:
                self.push(record.member)

    def note(self, events: list[Event], epoch: int, wish: Wish | None, how: str) -> None:
        """Write down what was decided, once it is in force."""
        for event in events:
            fields = dict(event.fields)
            if event.kind == FAILOVER:
                manual = wish is not None and fields["old"] == wish.node
                fields["how"] = how if manual else "automatic"
                self.counts.failovers[str(fields["how"])] += 1
                self.counts.lost_writes += int(str(fields["lost"]))
            if event.kind == "grant":
                self.counts.grants += 1
            self.remember(event.kind, epoch=epoch, **fields)

    def remember(self, kind: str, **fields: object) -> None:
        """One line in the log and in the list of events."""
        level = "warning" if kind in {FAILOVER, "grant"} else "info"
        self.service.log(level, kind, **fields)
        self.events.add(time.time(), kind, fields)

    async def leave(self, wish: Wish, seconds: float) -> dict[str, Any]:
        """Before a node stops in order: copies take over its slots, and nobody waits for those it holds.

        It is nobody's copy for so many seconds, or until it starts anew. Otherwise those who write would wait
        for it until its silence is noticed.
        """
        if not self.on:
            raise RefusedError("replication is off: there is nobody to hand over to (POST /flags)")
        name, began = wish.node, time.monotonic()
        self.leaving[name] = (self.now() + seconds, self.evidence.runs.get(name, ""))
        try:
            if any(group.main == name for group in groups_of(self.service.document.get("slots", ()))):
                return await self.hand_over(wish, orderly=True)
            async with self.service.one_at_a_time:
                await self.service.publish()
        except BaseException:
            self.leaving.pop(name, None)
            raise
        seconds_taken = round(time.monotonic() - began, 3)
        return {"epoch": self.service.epoch, "from": name, "to": [], "seconds": seconds_taken}

    def hopeful(self, node: str) -> bool:
        """Whether a copy of what a node holds could take over soon: it answers, and is not to stop itself."""
        groups = groups_of(self.service.document.get("slots", ()))
        copies = {name for group in groups if group.main == node for name in group.copies}
        records = [self.service.registry.find(name, "node") for name in copies - self.still_leaving()]
        return self.on and any(
            record is not None and record.judgement.status is not Health.UNHEALTHY for record in records
        )

    async def hand_over(self, wish: Wish, *, orderly: bool) -> dict[str, Any]:
        """Let copies take over the slots of a node. Orderly: writes are held until they have everything."""
        service = self.service
        began = time.monotonic()
        async with service.one_at_a_time:
            events = self.planned(wish)
            heirs = {str(dict(event.fields)["new"]) for event in events}
            record = service.registry.find(wish.node, "node")
            assert record is not None  # noqa: S101  (planned() has looked)
            if orderly:
                await self.hold_writes(record.member, heirs)
            try:
                first = (wish.node,) if orderly else ()
                how = "switchover" if orderly else "manual"
                done = await service.publish(wish, first, how)
            finally:
                if orderly:
                    await self.release_writes(record.member)
        if not done:
            raise RefusedError("nothing changed: the copy did not agree; see the log of the health service")
        told = [{name: value for name, value in event.fields if name != "old"} for event in events]
        return {
            "epoch": service.epoch,
            "from": wish.node,
            "to": told,
            "seconds": round(time.monotonic() - began, 3),
        }

    async def hold_writes(self, main: Member, heirs: set[str]) -> None:
        """Have a main hold its writes until its heirs hold all of before."""
        milliseconds = str(int(HOLD_SECONDS * 1000))
        try:
            reply = await self.service.prober.tell(main, "CLIENT", "PAUSE", milliseconds, "WRITE")
            if isinstance(reply, ErrorReply):
                raise RefusedError(f"{main.id} does not hold its writes: {reply}")
            until = time.monotonic() + HOLD_SECONDS * 0.6
            while not await self.caught_up(main, heirs):
                if time.monotonic() > until:
                    raise RefusedError(
                        f"the copies of {main.id} did not catch up in time; nothing was changed"
                    )
                await asyncio.sleep(0.01)
        except RefusedError:
            await self.release_writes(main)
            raise
        except (TimeoutError, OSError) as error:
            await self.release_writes(main)
            raise RefusedError(
                f"{main.id} does not answer ({error or 'in time'}); 'failover' goes without it"
            ) from None

    async def caught_up(self, main: Member, heirs: set[str]) -> bool:
        """Whether all heirs have acknowledged everything."""
        report = await self.service.prober.report(main)
        if report is None:
            raise TimeoutError
        self.evidence.take(report, self.service.document, self.now())
        rows = {row.peer: row for row in report.rows if row.outgoing}
        return all(
            name in rows and rows[name].state == STREAMING and rows[name].acked >= rows[name].seq
            for name in heirs
        )

    async def release_writes(self, main: Member) -> None:
        """What was held is judged anew: by now another node may be its place."""
        try:
            await self.service.prober.tell(main, "CLIENT", "UNPAUSE")
        except (TimeoutError, OSError):
            self.service.log("warning", "writes are held until the pause ends by itself", node=main.id)

    # --- telling ------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """How mains and copies are, for people and their tools."""
        service = self.service
        streams: dict[tuple[str, str], dict[str, Any]] = {}
        mains: Counter[str] = Counter()
        alone = down = 0
        states = {node["id"]: node["state"] for node in service.document.get("nodes", ())}
        for group in groups_of(service.document.get("slots", ())):
            slots = compose.count(group.ranges)
            mains[group.main] += slots
            alone += 0 if group.plain else slots
            down += slots if states.get(group.main) == "down" else 0
            for name in group.copies:
                link = self.evidence.links.get((group.main, name))
                one = streams.setdefault(
                    (group.main, name),
                    {"main": group.main, "copy": name, "inSync": 0, "joining": 0, "learning": 0}
                    | {"state": link.state if link else "unknown", "lagMs": link.lag_ms if link else None}
                    | {"lagBytes": link.lag_bytes if link else None}
                    | {"behind": max(link.seq - link.acked, 0) if link else None},
                )
                kind = (
                    "inSync" if name in group.plain else "joining" if name in group.replicas else "learning"
                )
                one[kind] += slots
        return {
            "replication": self.on,
            "strict": compose.STRICT in service.flags,
            "paused": compose.PAUSED in service.flags,
            "replicas": service.rebalance.replicas,
            "placement": service.settings.replica_placement,
            "epoch": service.epoch,
            "slotsWithoutReplica": alone if self.on else 0,
            "slotsDown": down,
            "mains": dict(mains),
            "streams": [streams[key] for key in sorted(streams)],
            "failovers": dict(self.counts.failovers),
            "lostWrites": self.counts.lost_writes,
        }

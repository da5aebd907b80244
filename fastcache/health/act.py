"""Act on verdicts (checks.py): raise the epoch, keep it, publish it, lead or follow.

Only the leader checks and publishes. A new topology is saved before anybody hears of it, and the store
refuses a leader that has been deposed. Followers read what the leader saved, as soon as it says that there
is something.
"""

import asyncio
import hashlib
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from fastcache import _core
from fastcache.health import compose
from fastcache.health.checks import Checks
from fastcache.health.decide import Judgement
from fastcache.health.hearing import newer_at
from fastcache.health.observe import Prober
from fastcache.health.rebalance import Rebalance
from fastcache.health.registry import Kind, Member, Registry
from fastcache.health.remembered import newest_known
from fastcache.health.replication import RefusedError, Replication
from fastcache.health.roles import Event, Wish
from fastcache.health.settings import Settings, StaticMember
from fastcache.health.store import DeposedError, Store, Stored

Result = TypeVar("Result")
Log = Callable[..., None]

# Changes within this time become one epoch.
GATHER_SECONDS = 0.01
# Publishing takes at most this part of our time: with thousands of nodes a topology takes a while to write.
PUBLISHING_SHARE = 0.2
LONGEST_REST_SECONDS = 0.05
# A follower that cannot ask the leader for news, or does not know who leads, tries again after so long.
HEARING_REST_SECONDS = 0.5
# A claim of a higher epoch than this is nonsense, not a cluster with a past.
HIGHEST_EPOCH = 1 << 48


@dataclass(frozen=True, slots=True)
class Published:
    """A topology as it is served."""

    epoch: int
    body: bytes
    digest: str
    topology: _core.Topology


def published(body: bytes) -> Published:
    """Canonical bytes with what is asked of them."""
    topology = _core.Topology(body)
    canonical = topology.canonical()
    return Published(topology.epoch, canonical, hashlib.sha256(canonical).hexdigest(), topology)


class Service:
    """The health service without its HTTP face."""

    def __init__(self, settings: Settings, store: Store, prober: Prober, log: Log) -> None:
        self.settings = settings
        self.pace = settings.pace
        self.store = store
        self.prober = prober
        self.log = log
        self.registry = Registry(self.pace)
        self.started = time.monotonic()
        self.leading = False
        self.leader_url = ""
        self.leading_until = 0.0
        self.current: Published | None = None
        self.document: compose.Document = {}
        self.restored: compose.Document | None = None
        self.cluster_id = ""
        self.epoch_floor = 0
        # The epoch that was saved last. It runs ahead of what is published while new mains hear of it.
        self.saved = 0
        self.flags: tuple[str, ...] = settings.flags
        self.one_at_a_time = asyncio.Lock()
        # Held by whoever leads, follows, or changes from one to the other.
        self.turns = asyncio.Lock()
        self.checks = Checks(self)
        self.replication = Replication(self)
        self.rebalance = Rebalance(self)
        self.joined_at = 0.0
        # Whether nodes were asked what they know, when there was no topology; who is asking them.
        self.asked = False
        self.asking: asyncio.Task[None] | None = None
        self.admit = False
        self.changed = asyncio.Event()
        self.news = asyncio.Event()
        self.stopping = asyncio.Event()
        self.publishes = 0
        self.compose_seconds = 0.0
        # One thread: the store sees one call at a time, in order.
        self.thread = ThreadPoolExecutor(1, "store")

    @property
    def epoch(self) -> int:
        """The epoch that was published last."""
        return self.current.epoch if self.current else 0

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Call the store without holding up the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *arguments)

    # --- leading and following ----------------------------------------------------------------------

    async def run(self) -> None:
        """Campaign, lead or follow until told to stop."""
        publishing = asyncio.create_task(self.publish_for_ever())
        listening = asyncio.create_task(self.replication.listen_for_ever())
        moving = asyncio.create_task(self.rebalance.run_for_ever())
        hearing = asyncio.create_task(self.hear_for_ever())
        try:
            while not self.stopping.is_set():
                async with self.turns:
                    await self.take_turn()
                await self.pause(self.settings.lease / 4)
        finally:
            hearing.cancel()
            publishing.cancel()
            listening.cancel()
            moving.cancel()
            await asyncio.gather(hearing, publishing, listening, moving, return_exceptions=True)
            self.checks.stop()
            self.prober.close()
            try:
                await self.in_thread(self.store.resign)
            except Exception as error:
                self.log("warning", "could not resign", error=str(error))
            await self.in_thread(self.store.close)
            self.thread.shutdown(wait=False)

    async def pause(self, seconds: float) -> None:
        """Sleep, unless told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            pass

    async def take_turn(self) -> None:
        """Campaign once, and adapt to the outcome."""
        began = time.monotonic()
        try:
            leads = await self.in_thread(self.store.campaign)
            if leads:
                self.leading_until = began + self.settings.lease
                if not self.leading:
                    await self.ascend()
                self.leader_url = self.settings.url
            else:
                self.descend("another health service leads")
                self.leader_url = await self.in_thread(self.store.leader)
                if await self.in_thread(self.store.epoch) > self.epoch:
                    await self.follow()
        except Exception as error:
            self.log("warning", "the store does not answer", error=str(error))
            if self.leading and time.monotonic() > self.leading_until:
                self.descend("the lease could not be renewed")

    async def hear_for_ever(self) -> None:
        """As a follower: have the leader's topologies when it has them, not when our next turn comes."""
        while not self.stopping.is_set():
            try:
                while (leader := self.leader_url) and not self.leading and leader != self.settings.url:
                    began = time.monotonic()
                    if await newer_at(leader, self.epoch, self.prober.tls) > self.epoch:
                        if not await self.catch_up():
                            break
                    elif time.monotonic() - began < 1.0:
                        break  # It ends, and waits for nothing any more.
            except (OSError, ValueError):
                pass  # The store will tell who leads then.
            await self.pause(HEARING_REST_SECONDS)

    async def catch_up(self) -> bool:
        """Follow if there is something new in the store; says whether there was."""
        async with self.turns:
            try:
                if self.leading or await self.in_thread(self.store.epoch) <= self.epoch:
                    return False
                await self.follow()
                return True
            except Exception as error:
                self.log("warning", "the store does not answer", error=str(error))
                return False

    async def ascend(self) -> None:
        """Become the leader: take over what the last one saved, then check and publish."""
        await self.follow()
        self.cluster_id = self.document.get("cluster", {}).get("id") or uuid.uuid4().hex
        listed = {
            (kind, member.id): given(member, kind)
            for kind, members in (("node", self.settings.nodes), ("proxy", self.settings.proxies))
            for member in members
        }
        for record in list(self.registry):
            # One that was listed and is no longer has left.
            if record.member.static and (record.member.kind, record.member.id) not in listed:
                self.registry.remove(record.member.id, record.member.kind)
        for member in listed.values():
            self.registry.put(member)
        if not self.document.get("slots"):
            await self.ask_nodes()
        self.leading = True
        self.log("info", "leading", epoch=self.epoch, members=len(self.registry.records))
        if self.epoch and set(self.flags) != set(self.settings.flags):
            self.log("info", "flags of the running cluster hold", flags=" ".join(self.flags))
        self.checks.watch_all()
        self.touch()

    def descend(self, reason: str) -> None:
        """Stop checking and publishing."""
        if self.leading:
            self.leading = False
            self.leader_url = ""
            self.checks.stop()
            self.log("warning", "no longer leading", reason=reason)

    async def follow(self) -> None:
        """Take over what was saved last: topology, members, and their states as first verdicts."""
        stored = await self.in_thread(self.store.load)
        if stored is None:
            return
        self.announce(published(stored.topology))
        self.saved = stored.epoch
        self.rebalance.restore(stored.orders)
        self.flags = tuple(self.document["flags"])
        members = msgspec.json.decode(stored.members, type=list[Member])
        keep = {(member.kind, member.id) for member in members}
        for key in [key for key in self.registry.records if key not in keep]:
            del self.registry.records[key]
        states = {
            (kind, one["id"]): compose.HEALTH[one["state"]]
            for kind, listed in (("node", "nodes"), ("proxy", "proxies"))
            for one in self.document[listed]
        }
        for member in members:
            self.registry.put(member)
            record = self.registry.records[member.kind, member.id]
            if status := states.get((member.kind, member.id)):
                # How long it has been so is not known: it counts from now.
                record.judgement = Judgement(status, self.prober.clock(), reason="as the topology says")

    # --- membership ---------------------------------------------------------------------------------

    def join(self, member: Member, known_epoch: int = 0) -> bool:
        """Take in a member that registers; says whether that changed anything."""
        if self.epoch < known_epoch <= HIGHEST_EPOCH:
            # It outlived our memory: what we publish must outrank what it obeys.
            self.epoch_floor = max(self.epoch_floor, known_epoch)
            self.touch()
        if not self.registry.put(member):
            return False
        self.log("info", "joined", **{member.kind: member.id}, host=member.host, port=member.port)
        self.joined_at = time.monotonic()
        if member.kind == "node":
            if self.document.get("slots"):
                self.rebalance.newcomer(member.id)
            else:
                self.asked = False  # It may know more than those who were asked.
        self.checks.watch_all()
        self.touch()
        return True

    def leave(self, member_id: str, kind: Kind) -> bool:
        """Forget a member; says whether there was one."""
        if not self.registry.remove(member_id, kind):
            return False
        self.log("info", "left", **{kind: member_id})
        self.replication.evidence.forget(member_id)
        self.rebalance.forget(member_id)
        self.checks.watch_all()
        self.touch()
        return True

    # --- publication --------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something changed that the topology may have to say."""
        self.changed.set()

    async def publish_for_ever(self) -> None:
        """Publish whenever something changed."""
        while True:
            await self.changed.wait()
            rest = self.compose_seconds * (1 / PUBLISHING_SHARE - 1)
            if self.replication.on or self.rebalance.under_way:
                rest = min(rest, LONGEST_REST_SECONDS)  # Somebody may be waiting for a main.
            await asyncio.sleep(max(GATHER_SECONDS, rest))
            self.changed.clear()
            if not self.leading:
                continue
            try:
                async with self.one_at_a_time:
                    await self.publish()
            except DeposedError as error:
                self.descend(str(error))
            except (ValueError, sqlite3.Error, OSError) as error:
                self.log("error", "cannot publish", error=str(error))
                asyncio.get_running_loop().call_later(1.0, self.touch)
            except Exception as error:
                self.log("error", "cannot save the topology", error=str(error))
                asyncio.get_running_loop().call_later(1.0, self.touch)

    async def publish(self, wish: Wish | None = None, first: tuple[str, ...] = (), how: str = "") -> bool:
        """Decide, save, bring it to new mains, announce: in this order. Says whether anything was published.

        `wish`: what an operator asked for, `how` it is called, and who hears of it before everybody.
        """
        began, started = time.process_time(), time.monotonic()
        base, admitting = self.restored, self.admit
        before = base or self.document
        document, events = self.draft(), list[Event]()
        if self.replication.on and (before.get("slots") or self.may_place()):
            document, events = await self.replication.decided(document, before, wish)
        document, moved = self.rebalance.applied(document)
        behind = self.saved > self.epoch or self.epoch_floor > self.epoch
        if not compose.differs(document, self.document) and not behind and not self.rebalance.unsaved:
            return False
        document["epoch"] = max(self.epoch, self.epoch_floor, self.saved) + 1
        fresh = published(msgspec.json.encode(document))
        members = msgspec.json.encode([record.member for record in self.registry])
        self.compose_seconds = time.process_time() - began
        stored = Stored(fresh.epoch, fresh.body, members, self.rebalance.orders.saved())
        self.rebalance.unsaved = False
        try:
            await self.in_thread(self.store.save, stored, self.saved)
        except BaseException:
            self.rebalance.unsaved = True
            raise
        self.saved = fresh.epoch
        if admitting:
            self.admit = False
        if self.restored is base:
            self.restored = None
        if not await self.replication.deliver_first(before, fresh, first):
            # It restarted this very moment and never was a main: all is as before, under the next epoch.
            self.touch()
            return False
        if not await self.rebalance.hand_over(before, document, fresh.body):
            self.touch()
            return False
        self.announce(fresh)
        self.log("info", "topology", epoch=fresh.epoch, nodes=len(document["nodes"]))
        self.replication.note(events, fresh.epoch, wish, how)
        self.rebalance.note(moved, time.monotonic() - started)
        if self.replication.on:
            self.replication.push_all()
        return True

    def draft(self) -> compose.Document:
        """The topology as far as it does not depend on who is in sync with whom."""
        return compose.compose(
            self.shape(),
            self.registry,
            self.restored or self.document,
            place_now=bool(self.restored) or self.may_place(),
            admit=self.admits(),
        )

    def set_flags(self, flags: dict[str, bool]) -> None:
        """Switch features of the running cluster; they are kept with the topology."""
        if compose.REPLICATION in flags and self.rebalance.under_way:
            raise RefusedError("slots move: 'fastcache rebalance cancel', or wait for the end")
        on = {name for name, wanted in flags.items() if wanted}
        self.flags = tuple(sorted((set(self.flags) | on) - (set(flags) - on)))
        self.replication.remember("flags", flags=list(self.flags))
        self.touch()

    def announce(self, fresh: Published) -> None:
        """Serve it, and wake everybody who waits for it."""
        self.current = fresh
        self.document = msgspec.json.decode(fresh.body)
        self.publishes += 1
        self.news.set()
        self.news = asyncio.Event()

    def shape(self) -> compose.Shape:
        """What the settings say of the topology."""
        urls = (
            {self.settings.url, *self.document.get("health", [])} if self.settings.store == "etcd" else None
        )
        return compose.Shape(
            cluster=self.settings.cluster,
            cluster_id=self.cluster_id,
            flags=self.flags,
            virtual_nodes=self.settings.virtual_nodes,
            replicas=self.rebalance.replicas,
            health=tuple(sorted(urls)) if urls else (self.settings.url,),
            layout=self.settings.replica_placement,
            pairs=self.settings.pairs,
            weights=tuple(sorted(self.rebalance.orders.weights.items())),
        )

    def may_place(self) -> bool:
        """The first placement waits until no more nodes join; it would move slots for each of them."""
        if self.document.get("slots"):
            return True
        quiet = time.monotonic() - self.joined_at
        if self.joined_at and quiet < self.settings.settle:
            asyncio.get_running_loop().call_later(self.settings.settle - quiet, self.touch)
            return False
        if not self.asked and not self.restored:
            self.asking = self.asking or asyncio.create_task(self.ask_nodes())
        return self.asked or bool(self.restored)

    async def ask_nodes(self) -> None:
        """Before anything is placed for the first time: have what nodes know, if they know anything."""
        try:
            if body := await newest_known(self):
                epoch = self.restore(body)
                self.log("warning", "the store was empty: what nodes know is taken over", epoch=epoch)
        except Exception as error:
            self.log("error", "what nodes know of a topology could not be taken over", error=repr(error))
        finally:
            self.asked, self.asking = True, None
            self.touch()

    def admits(self) -> bool:
        """Whether nodes without slots get some."""
        return self.admit or self.settings.placement == "auto"

    def restore(self, body: bytes) -> int:
        """Take over a topology that was saved elsewhere, when our memory was lost; the epoch it had."""
        topology = _core.Topology(body)
        if topology.epoch <= self.epoch and self.document.get("slots"):
            raise ValueError(f"epoch {topology.epoch} is not newer than {self.epoch}, which is published")
        restored: dict[str, Any] = msgspec.json.decode(topology.canonical())
        name, own = restored["cluster"]["name"], self.settings.cluster
        if name != own:
            raise ValueError(f"this is the topology of {name!r}, and we serve {own!r}")
        self.restored = restored  # What is being saved this moment must not take its place.
        self.cluster_id = restored["cluster"]["id"] or self.cluster_id
        self.epoch_floor = max(self.epoch_floor, topology.epoch)
        for kind, listed in (("node", "nodes"), ("proxy", "proxies")):
            for one in restored[listed]:
                fields = {name: one[name] for name in ("id", "host", "port", "unix", "rack", "weight")}
                if self.registry.find(one["id"], kind) is None:  # type: ignore[arg-type]
                    self.registry.put(msgspec.convert({**fields, "kind": kind}, Member))
        self.checks.watch_all()
        self.touch()
        return topology.epoch


def given(member: StaticMember, kind: str) -> Member:
    """A member from the configuration."""
    return msgspec.convert(
        {
            "id": member.id,
            "host": member.host,
            "port": member.port,
            "unix": member.unix_socket,
            "rack": member.rack,
            "weight": member.weight,
            "kind": kind,
            "static": True,
        },
        Member,
    )

"""Check every member at the pace that is set, each on its own, and sooner when it may have died.

Members are asked by observe.py, judged by decide.py; a verdict that changes is for act.py to publish.
"""

import asyncio
import math
import time
from typing import TYPE_CHECKING

from fastcache.health import decide
from fastcache.health.registry import Kind, Member, Outcome, Record

if TYPE_CHECKING:
    from fastcache.health.act import Service

Key = tuple[Kind, str]

# Checks a second at start; later they stay as spread as they began.
FIRST_CHECKS_PER_SECOND = 1000
# Checks of this time begin together: waking up costs as much as a check.
TOGETHER_SECONDS = 0.05
# Timers end a little early or late.
CLOCK_SECONDS = 0.005


class Checks:
    """The part of the service that looks at members."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.pace = service.pace
        self.registry = service.registry
        self.prober = service.prober
        self.prober.on_end = self.look_at
        self.watchers: dict[Key, asyncio.Task[None]] = {}
        self.alarms: dict[Key, asyncio.Future[None]] = {}
        self.sleepers: dict[float, list[asyncio.Future[None]]] = {}
        # Whom to look at at once, since their last check began.
        self.suspects: set[Key] = set()
        # When the last check of each began, or should have. It outlives the watcher: who leaves and comes
        # back is not asked again at once.
        self.begun: dict[Key, float] = {}
        # Checks that began before their time.
        self.too_soon = 0

    def watch_all(self) -> None:
        """Have a watcher for every member and none for others."""
        for key in [key for key in self.watchers if key not in self.registry.records]:
            self.watchers.pop(key).cancel()
        past = asyncio.get_running_loop().time() - self.pace.interval
        self.begun = {key: at for key, at in self.begun.items() if key in self.registry.records or at > past}
        fresh = [key for key in self.registry.records if key not in self.watchers]
        spread = min(len(fresh) / FIRST_CHECKS_PER_SECOND, self.pace.interval)
        for number, key in enumerate(fresh):
            delay = spread * number / len(fresh)
            self.watchers[key] = asyncio.create_task(self.watch(key, delay))

    def stop(self) -> None:
        """End all checks."""
        for task in self.watchers.values():
            task.cancel()
        self.watchers.clear()

    async def watch(self, key: Key, delay: float) -> None:
        """Check one member for ever. Word that it may have died wakes us early, but not again and again."""
        loop = asyncio.get_running_loop()
        due = max(loop.time() + delay, self.begun.get(key, float("-inf")) + self.pace.suspect_interval)
        await self.sleep_until(key, due, due)
        hurried = False
        try:
            while record := self.registry.records.get(key):
                began = loop.time()
                member = record.member
                self.suspects.discard(key)
                self.note_beginning(key, record, began, due, hurried=hurried)
                check = await self.prober.check(member)
                if record.member is member:  # else it moved meanwhile, and this says nothing about it
                    self.take_in(record, check)
                    if check.failure is None and member.kind == "node" and self.service.replication.on:
                        await self.service.replication.listen(member)
                urgent = self.urgent(record)
                pause = decide.next_check_in(record.judgement, self.pace, urgent=urgent)
                # From the time it was due: drift would let many checks gather at one moment.
                due = max(due, began - self.pace.interval) + pause
                due = max(due, loop.time())
                if pause == self.pace.interval:
                    due = math.ceil(due / TOGETHER_SECONDS - 0.01) * TOGETHER_SECONDS
                woken = await self.sleep_until(key, due, min(due, began + self.soonest(urgent)))
                hurried = woken or pause < self.pace.interval
        finally:
            if record := self.registry.records.get(key):
                self.prober.forget(record.member)

    def urgent(self, record: Record) -> bool:
        """Whether somebody may be waiting for another main."""
        return self.service.replication.on and record.member.kind == "node"

    def soonest(self, urgent: bool) -> float:
        """How long after a check the next one may begin at the earliest, whatever we hear meanwhile."""
        return self.pace.urgent_interval if urgent else self.pace.suspect_interval

    def note_beginning(self, key: Key, record: Record, now: float, due: float, *, hurried: bool) -> None:
        """Count a check that begins; one before its time is one too many, and a fault of ours.

        One that is late, because the machine is busy, puts off none of those that follow.
        """
        record.hurried_checks += hurried
        gap = now - self.begun.get(key, float("-inf"))
        if gap < min(self.soonest(self.urgent(record)), self.pace.interval) - CLOCK_SECONDS:
            self.too_soon += 1
        self.begun[key] = min(now, due)

    def take_in(self, record: Record, check: decide.Check) -> None:
        """Judge, and tell when the verdict changed."""
        outcome = self.registry.observe(record, check, time.time())
        if outcome is Outcome.HELD:
            self.service.log("warning", "held", **{record.member.kind: record.member.id}, error=check.error)
            self.ask_others(record)
        if outcome is Outcome.CHANGED:
            level = "warning" if check.failure else "info"
            status, reason = record.judgement.status, record.judgement.reason
            kind = record.member.kind
            self.service.log(level, "verdict", **{kind: record.member.id}, status=str(status), reason=reason)
            self.service.touch()

    def ask_others(self, suspect: Record) -> None:
        """Bring checks forward: whether others answer decides what a silence means."""
        for record in self.registry:
            unasked = record.judgement.answered_at < suspect.judgement.failing_since
            key = (record.member.kind, record.member.id)
            if unasked and record.member.kind == suspect.member.kind and (alarm := self.alarms.get(key)):
                ring(alarm)

    async def sleep_until(self, key: Key, due: float, earliest: float) -> bool:
        """Sleep until `due`, or until an alarm but then at least until `earliest`; says whether one rang."""
        loop = asyncio.get_running_loop()
        alarm: asyncio.Future[None] = loop.create_future()
        self.alarms[key] = alarm
        if key in self.suspects:
            ring(alarm)
        if (sleepers := self.sleepers.get(due)) is None:
            sleepers = self.sleepers[due] = []
            loop.call_at(due, self.wake, due)
        sleepers.append(alarm)
        try:
            await alarm
        finally:
            if self.alarms.get(key) is alarm:
                del self.alarms[key]
        woken = loop.time() < due - CLOCK_SECONDS
        if (rest := earliest - loop.time()) > 0:
            await asyncio.sleep(rest)
        return woken

    def wake(self, due: float) -> None:
        """Wake all who sleep until this moment: they share one timer."""
        for alarm in self.sleepers.pop(due):
            ring(alarm)

    def report(self, node_id: str, reporter: str) -> bool:
        """A proxy could not get through to a node; says whether we know both."""
        record = self.registry.find(node_id, "node")
        if record is None or self.registry.find(reporter, "proxy") is None:
            return False
        self.registry.report(record, reporter, self.prober.clock())
        self.look_at(record.member)
        return True

    def look_at(self, member: Member) -> None:
        """Bring the next check of a member forward: it may have died."""
        key = (member.kind, member.id)
        self.suspects.add(key)
        if alarm := self.alarms.get(key):
            ring(alarm)


def ring(alarm: asyncio.Future[None]) -> None:
    """Wake whoever sleeps until this alarm."""
    if not alarm.done():
        alarm.set_result(None)

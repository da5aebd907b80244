"""The lock, unfinished work and the audit chain over HTTP: what operators share (fastcache/ledger.py).

Every change reads what the store holds, decides, and saves both the ledger and an entry of the chain at
once; only the leader does, one request at a time. So the entry of a change is there if and only if the
change is.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fastcache import ledger
from fastcache.health.act import Service
from fastcache.health.registry import timestamp
from fastcache.health.web import Handler, body, json, number
from fastcache.ledger import Entry, HeldError, Ledger, Name, News

MOST_ENTRIES = 1000
Seconds = Annotated[float, Meta(ge=1, le=ledger.LONGEST_LOCK_SECONDS)]
Text = Annotated[str, Meta(max_length=2000)]
Fields = Annotated[dict[Name, Text], Meta(max_length=100)]


class Taking(msgspec.Struct, forbid_unknown_fields=True):
    """Who wants to change the cluster, how, and for how long nobody else may."""

    owner: Name
    task: Name
    seconds: Seconds
    arguments: Fields = {}
    fresh: bool = False


class Renewing(msgspec.Struct, forbid_unknown_fields=True):
    """The holder is still at it."""

    token: int
    seconds: Seconds


class Stepping(msgspec.Struct, forbid_unknown_fields=True):
    """The holder has done a step, and this came of it."""

    token: int
    step: Name
    found: Text = ""


class Releasing(msgspec.Struct, forbid_unknown_fields=True):
    """The holder is at the end, or had to stop and says why."""

    token: int
    stopped: Text = ""


class Breaking(msgspec.Struct, forbid_unknown_fields=True):
    """Somebody takes the lock from its holder, or has unfinished work forgotten."""

    owner: Name
    task: Annotated[str, Meta(max_length=200)] = ""


class Noting(msgspec.Struct, forbid_unknown_fields=True):
    """Something that was done without the lock."""

    owner: Name
    task: Name
    event: Name
    fields: Fields = {}


Change = Callable[[Ledger, float], tuple[Ledger, News | None]]


class Operators:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.one_at_a_time = asyncio.Lock()

    async def read(self) -> Ledger:
        """What the store holds."""
        kept = await self.service.in_thread(self.service.store.ledger)
        return msgspec.json.decode(kept, type=Ledger) if kept else Ledger()

    async def change(self, how: Change) -> Ledger:
        """Read, decide, save. 409 when the lock is another's."""
        async with self.one_at_a_time:
            now = time.time()
            try:
                after, news = how(await self.read(), now)
            except HeldError as error:
                raise HTTPException(409, str(error)) from None
            entry: Entry | None = None
            if news:
                after, entry = ledger.appended(after, timestamp(now), news)
            line = (entry.number, msgspec.json.encode(entry)) if entry else None
            await self.service.in_thread(self.service.store.keep_ledger, msgspec.json.encode(after), line)
        if entry:
            # The journal has the end of the chain, too: one more place where it cannot be rewritten unseen.
            said = {"owner": entry.owner, "task": entry.task, "did": entry.event, "hash": entry.hash}
            self.service.log("info", "audit", number=entry.number, **said)
        return after

    # --- asked --------------------------------------------------------------------------------------

    async def shown(self, _request: Request) -> Response:
        """Who holds the lock, what is unfinished, where the chain ends."""
        now, kept = time.time(), await self.read()
        lock = ledger.held(kept, now)
        return json(
            {
                "now": now,
                "lock": lock,
                "expired": None if lock else kept.lock,
                "unfinished": list(kept.unfinished.values()),
                "number": kept.number,
                "hash": kept.hash,
            }
        )

    async def entries(self, request: Request) -> Response:
        """Entries of the chain behind number `after`."""
        limit = min(number(request, "limit", MOST_ENTRIES), MOST_ENTRIES)
        found = await self.service.in_thread(self.service.store.entries, number(request, "after", 0), limit)
        return json([msgspec.Raw(entry) for entry in found])

    # --- changed ------------------------------------------------------------------------------------

    async def take(self, request: Request) -> Response:
        """Take the lock and begin a task; answers with the steps of it that are done already."""
        told = await body(request, Taking)

        def how(before: Ledger, now: float) -> tuple[Ledger, News | None]:
            after = ledger.taken(before, told.owner, told.task, told.seconds, now)
            after = ledger.begun(after, after.token, told.arguments, now, fresh=told.fresh)
            done = after.unfinished[told.task].done
            event = "goes on" if done else "begins"
            return after, (told.owner, told.task, event, told.arguments)

        after = await self.change(how)
        return json({"token": after.token, "done": after.unfinished[told.task].done}, 201)

    async def renew(self, request: Request) -> Response:
        """Hold the lock for longer."""
        told = await body(request, Renewing)
        await self.change(lambda before, now: (ledger.renewed(before, told.token, told.seconds, now), None))
        return json({"token": told.token})

    async def step(self, request: Request) -> Response:
        """Remember a step that is done."""
        told = await body(request, Stepping)

        def how(before: Ledger, _now: float) -> tuple[Ledger, News | None]:
            lock = ledger.owned(before, told.token)
            fields = {"step": told.step} | ({"found": told.found} if told.found else {})
            return ledger.stepped(before, told.token, told.step), (lock.owner, lock.task, "step", fields)

        await self.change(how)
        return json({"token": told.token})

    async def release(self, request: Request) -> Response:
        """Give the lock back: the task is over, or stopped."""
        told = await body(request, Releasing)

        def how(before: Ledger, _now: float) -> tuple[Ledger, News | None]:
            lock = ledger.owned(before, told.token)
            after = ledger.released(ledger.ended(before, told.token, told.stopped), told.token)
            fields = {"why": told.stopped} if told.stopped else {}
            return after, (lock.owner, lock.task, "stopped" if told.stopped else "done", fields)

        await self.change(how)
        return json({"released": True})

    async def seize(self, request: Request) -> Response:
        """Take the lock from its holder."""
        told = await body(request, Breaking)

        def how(before: Ledger, _now: float) -> tuple[Ledger, News | None]:
            if before.lock is None:
                raise HeldError("nobody holds the lock")
            fields = {"of": before.lock.owner, "for": before.lock.task}
            return ledger.broken(before), (told.owner, "lock", "broken", fields)

        await self.change(how)
        return json({"broken": True})

    async def forget(self, request: Request) -> Response:
        """Unfinished work will not be gone on with."""
        told = await body(request, Breaking)

        def how(before: Ledger, now: float) -> tuple[Ledger, News | None]:
            if told.task not in before.unfinished:
                raise HeldError(f"no {told.task or 'such task'} is unfinished")
            lock = ledger.held(before, now)
            if lock and lock.task == told.task:
                raise HeldError(f"{lock.owner} is at it: {told.task} is under way")
            return ledger.with_unfinished(before, told.task, None), (told.owner, told.task, "forgotten", {})

        await self.change(how)
        return json({"forgotten": told.task})

    async def note(self, request: Request) -> Response:
        """An entry of the chain about what needs no lock."""
        told = await body(request, Noting)
        after = await self.change(
            lambda before, _now: (before, (told.owner, told.task, told.event, told.fields))
        )
        return json({"number": after.number, "hash": after.hash}, 201)


def routes(service: Service, guarded: Callable[[Handler], Handler]) -> list[Route]:
    """What operators ask and change; changes need the admin key."""
    face = Operators(service)
    changing = {
        "/lock": face.take,
        "/lock/renew": face.renew,
        "/lock/step": face.step,
        "/lock/release": face.release,
        "/lock/break": face.seize,
        "/lock/forget": face.forget,
        "/audit": face.note,
    }
    found = [Route("/lock", face.shown, methods=["GET"]), Route("/audit", face.entries, methods=["GET"])]
    return found + [Route(path, guarded(handler), methods=["POST"]) for path, handler in changing.items()]

"""The HTTP face of the health service: verdicts, topology, registration, probes, metrics.

Moves of slots have their pages in rebalance_http.py, what operators share in operators.py; web.py is what all
of them stand on.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from fastcache import _core
from fastcache.health import compose, operators, rebalance_http
from fastcache.health.act import Service
from fastcache.health.metrics import Metrics
from fastcache.health.registry import Id, Kind, Member, Record
from fastcache.health.replication import RefusedError
from fastcache.health.roles import Wish
from fastcache.health.store import DeposedError
from fastcache.health.web import Handler, body, json, number, refused, whole
from fastcache.model import SLOTS, Health

LONGEST_TOPOLOGY = 16 << 20
LONGEST_POLL_SECONDS = 60.0
# A stream that says nothing for longer is taken for dead by what stands in between.
HEARTBEAT_SECONDS = 10.0
# A node that is to stop is nobody's copy for so long, or until it starts anew.
LEAVING_SECONDS = 30.0


class Joining(msgspec.Struct, forbid_unknown_fields=True):
    """What a node or proxy says when it registers. `epoch` is the highest it has obeyed."""

    id: Id
    host: Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^\S+$")]
    port: Annotated[int, Meta(ge=0, le=65535)]
    unix: Annotated[str, Meta(max_length=100)] = ""
    rack: Annotated[str, Meta(max_length=128)] = ""
    weight: Annotated[int, Meta(ge=0, le=100_000)] = 100
    epoch: Annotated[int, Meta(ge=0)] = 0


class Complaint(msgspec.Struct, forbid_unknown_fields=True):
    """A node that a proxy could not get through to."""

    node: Id
    kind: Literal["refused", "timeout", "closed", "unreachable"] = "refused"
    count: Annotated[int, Meta(ge=1)] = 1


class Complaints(msgspec.Struct, forbid_unknown_fields=True):
    """What a proxy reports at once."""

    proxy: Id
    reports: Annotated[list[Complaint], Meta(max_length=10_000)]


class Granting(msgspec.Struct, forbid_unknown_fields=True):
    """A main that cannot wait for a copy any more; `epoch` is the topology it obeys."""

    node: Id
    replica: Id
    epoch: Annotated[int, Meta(ge=0)]


class Leaving(msgspec.Struct, forbid_unknown_fields=True):
    """A node that is to stop."""

    node: Id


class HandOver(msgspec.Struct, forbid_unknown_fields=True):
    """Who is to give up its slots, and to whom; `plan`: only tell what would happen."""

    node: Id
    to: Annotated[str, Meta(max_length=128)] = ""
    # Only these of its slots, as a topology lists them: 0-99,105.
    slots: Annotated[str, Meta(max_length=100_000)] = ""
    # Seconds for which it is nobody's copy either, or until it starts anew: it is about to stop.
    leave: Annotated[float, Meta(ge=0, le=3600)] = 0
    force: bool = False
    plan: bool = False


def application(service: Service) -> Starlette:
    """The application around a service."""
    face = Face(service)
    reading = [
        ("/health/nodes", face.nodes),
        ("/health/nodes/{id}", face.node),
        ("/health/summary", face.summary),
        ("/health/healthy", face.healthy),
        ("/health/unhealthy", face.unhealthy),
        ("/health", face.itself),
        ("/nodes", face.members("node")),
        ("/proxies", face.members("proxy")),
        ("/topology", face.topology),
        ("/topology/stream", face.stream),
        ("/locate/{key:path}", face.locate),
        ("/replication", face.replication),
        ("/events", face.events_page),
        ("/metrics", face.metrics_page),
        ("/leader", face.leader),
        ("/primary", face.primary),
        ("/replica", face.replica),
        ("/readiness", face.readiness),
        ("/liveness", face.liveness),
        ("/probe/{id}", face.probe),
    ]
    changing = [
        ("/nodes", "POST", face.register("node")),
        ("/proxies", "POST", face.register("proxy")),
        ("/nodes/{id}", "DELETE", face.unregister("node")),
        ("/proxies/{id}", "DELETE", face.unregister("proxy")),
        ("/placement", "POST", face.placement),
        ("/topology", "PUT", face.restore),
        ("/grants", "POST", face.grants),
        ("/switchover", "POST", face.hand_over(orderly=True)),
        ("/failover", "POST", face.hand_over(orderly=False)),
        ("/pause", "POST", face.pause(True)),
        ("/resume", "POST", face.pause(False)),
        ("/flags", "POST", face.flags),
    ]
    routes = [Route(path, handler, methods=["GET"]) for path, handler in reading]
    routes += [Route(path, face.guarded(handler), methods=[method]) for path, method, handler in changing]
    # Proxies have no admin key, and a report decides nothing: it counts beside a failed check of ours.
    routes.append(Route("/reports", face.on_the_leader(face.reports), methods=["POST"]))
    # Nor have nodes; what is said there is believed only when the node itself says so.
    routes.append(Route("/leaving", face.on_the_leader(face.leaving), methods=["POST"]))
    routes += rebalance_http.routes(service, face.guarded)
    routes += operators.routes(service, face.guarded)
    return Starlette(
        routes=routes, exception_handlers=dict.fromkeys((HTTPException, RefusedError, DeposedError), refused)
    )


class Face:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.page = Metrics(service)

    # --- verdicts -----------------------------------------------------------------------------------

    def told(self, request: Request, status: Health | None = None) -> Response:
        """All members, or those of `?type=node|proxy`, or with one verdict."""
        wanted = request.query_params.get("type", "").lower()
        if wanted not in {"", "node", "proxy"}:
            raise HTTPException(400, "type must be node or proxy")
        kinds: tuple[Kind, ...] = ("node", "proxy")
        records = [r for kind in kinds if wanted in {"", kind} for r in self.service.registry.of_kind(kind)]
        return json([r.told() for r in records if status is None or r.judgement.status is status])

    async def nodes(self, request: Request) -> Response:
        return self.told(request)

    async def healthy(self, request: Request) -> Response:
        return self.told(request, Health.HEALTHY)

    async def unhealthy(self, request: Request) -> Response:
        return self.told(request, Health.UNHEALTHY)

    async def node(self, request: Request) -> Response:
        return json(self.found(request).told())

    def found(self, request: Request) -> Record:
        """The member that the path names."""
        record = self.service.registry.find(request.path_params["id"])
        if record is None:
            raise HTTPException(404, f"there is no node or proxy {request.path_params['id']}")
        return record

    async def summary(self, _request: Request) -> Response:
        return json(self.service.registry.summary())

    async def itself(self, _request: Request) -> Response:
        service = self.service
        return json(
            {
                "status": "UP",
                "uptime": round(time.monotonic() - service.started, 3),
                "role": "leader" if service.leading else "follower",
                "epoch": service.epoch,
                "version": _core.version(),
            }
        )

    def members(self, kind: Kind) -> Handler:
        """The members of a kind as they registered."""

        async def members(_request: Request) -> Response:
            return json([record.member for record in self.service.registry.of_kind(kind)])

        return members

    # --- topology -----------------------------------------------------------------------------------

    async def topology(self, request: Request) -> Response:
        """The topology; with `?after=EPOCH` wait for a newer one, 304 when none comes in `timeout` seconds.

        One who knows a higher epoch than we do waits as well: registering tells us of it.
        """
        after = number(request, "after", -1)
        service = self.service
        if after >= 0 and service.epoch <= after:
            limit = min(number(request, "timeout", 30), LONGEST_POLL_SECONDS)
            await self.news_or_stop(limit)
            if service.epoch <= after:
                return Response(status_code=304, headers={"X-FastCache-Epoch": str(service.epoch)})
        now = service.current
        if now is None:
            raise HTTPException(503, "there is no topology yet", {"Retry-After": "1"})
        headers = {
            "ETag": f'"{now.digest}"',
            "X-FastCache-Epoch": str(now.epoch),
            "Cache-Control": "no-cache",
        }
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(now.body, headers=headers, media_type="application/json")

    async def news_or_stop(self, seconds: float) -> None:
        """Wait for a new topology, for our end, or for the time to pass."""
        waits = [asyncio.ensure_future(e.wait()) for e in (self.service.news, self.service.stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def stream(self, request: Request) -> Response:
        """Every topology as a server-sent event whose id is the epoch; Last-Event-ID resumes."""
        last = request.headers.get("Last-Event-ID", "")
        known = int(last) if last.isdecimal() else -1
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self.events(known), headers=headers, media_type="text/event-stream")

    async def events(self, known: int) -> AsyncIterator[bytes]:
        """Events until the service ends; the framework ends it when the reader leaves."""
        service = self.service
        while not service.stopping.is_set():
            now = service.current
            if now is not None and now.epoch != known:
                known = now.epoch
                yield b"id: %d\nevent: topology\ndata: %b\n\n" % (now.epoch, now.body)
                continue
            before = service.epoch
            await self.news_or_stop(HEARTBEAT_SECONDS)
            if service.epoch == before and not service.stopping.is_set():
                yield b": still here\n\n"

    async def locate(self, request: Request) -> Response:
        """Which slot and which nodes hold a key."""
        now = self.service.current
        if now is None:
            raise HTTPException(503, "there is no topology yet")
        slot = _core.slot_of(request.path_params["key"])
        holders = now.topology.holders(slot)
        return json(
            {
                "key": request.path_params["key"],
                "slot": slot,
                "main": holders[0] if holders else None,
                "replicas": holders[1:],
                "epoch": now.epoch,
            }
        )

    # --- probes of load balancers -------------------------------------------------------------------

    async def metrics_page(self, _request: Request) -> Response:
        return Response(self.page.page(), media_type=self.page.content_type)

    async def leader(self, _request: Request) -> Response:
        service = self.service
        return json({"leader": service.leader_url, "self": service.settings.url, "epoch": service.epoch})

    async def primary(self, _request: Request) -> Response:
        return probed(self.service.leading, "this service leads", "another one leads")

    async def replica(self, _request: Request) -> Response:
        follows = not self.service.leading and bool(self.service.leader_url)
        return probed(follows, "this service follows", "this service leads, or nobody does")

    async def readiness(self, _request: Request) -> Response:
        ready = self.service.current is not None and not self.service.stopping.is_set()
        return probed(ready, "a topology is served", "there is no topology yet")

    async def liveness(self, _request: Request) -> Response:
        return probed(True, "alive", "")

    async def probe(self, request: Request) -> Response:
        """200 while the node or proxy is healthy, 503 otherwise: a check for load balancers."""
        record = self.found(request)
        reason = record.judgement.reason
        return probed(record.judgement.status is Health.HEALTHY, reason, reason)

    # --- changes ------------------------------------------------------------------------------------

    def guarded(self, handler: Handler) -> Handler:
        """Changes need the admin key where one is set, and the leader."""

        led = self.on_the_leader(handler)

        async def guard(request: Request) -> Response:
            key = self.service.settings.admin_key
            offered = request.headers.get("X-Admin-Key", "")
            if key and not hmac.compare_digest(offered.encode(), key.encode()):
                self.service.log("warning", "wrong admin key", path=request.url.path, client=client(request))
                raise HTTPException(401, "X-Admin-Key is missing or wrong")
            return await led(request)

        return guard

    def on_the_leader(self, handler: Handler) -> Handler:
        """A follower names the leader."""

        async def led(request: Request) -> Response:
            if not self.service.leading:
                leader = self.service.leader_url
                if leader and leader != self.service.settings.url:
                    return RedirectResponse(leader + request.url.path, 307)
                raise HTTPException(503, "no health service leads at the moment", {"Retry-After": "1"})
            return await handler(request)

        return led

    def register(self, kind: Kind) -> Handler:
        """Take in a node or proxy: 201 when it is new or has changed, 200 when it was known."""

        async def register(request: Request) -> Response:
            joining = await body(request, Joining)
            known = self.service.registry.find(joining.id, kind)
            if known and known.member.static:
                # The configuration outranks what a member says of itself.
                return json({"id": joining.id, "epoch": self.service.epoch, "static": True})
            if not self.service.settings.registration:
                raise HTTPException(403, "members are listed in the configuration; registration is off")
            fields = {
                name: getattr(joining, name) for name in ("id", "host", "port", "unix", "rack", "weight")
            }
            if not joining.port and not joining.unix:
                raise HTTPException(400, "neither a port nor a Unix socket is given")
            changed = self.service.join(Member(**fields, kind=kind), joining.epoch)
            return json({"id": joining.id, "epoch": self.service.epoch}, 201 if changed else 200)

        return register

    def unregister(self, kind: Kind) -> Handler:
        """Forget a node or proxy."""

        async def unregister(request: Request) -> Response:
            member_id = request.path_params["id"]
            record = self.service.registry.find(member_id, kind)
            if record is None:
                raise HTTPException(404, f"there is no {kind} {member_id}")
            if record.member.static and request.query_params.get("listed") != "removed":
                raise HTTPException(
                    409, f"{member_id} is listed in the configuration: remove it there (then ?listed=removed)"
                )
            self.service.leave(member_id, kind)
            return json({"id": member_id, "epoch": self.service.epoch})

        return unregister

    async def reports(self, request: Request) -> Response:
        """Proxies tell which nodes they could not get through to."""
        told = await body(request, Complaints)
        if self.service.registry.find(told.proxy, "proxy") is None:
            raise HTTPException(404, f"there is no proxy {told.proxy}: register first")
        unknown = [one.node for one in told.reports if not self.service.checks.report(one.node, told.proxy)]
        return json({"accepted": len(told.reports) - len(unknown), "unknown": unknown}, 202)

    async def placement(self, _request: Request) -> Response:
        """Give slots to nodes that wait for some."""
        self.service.admit = True
        self.service.touch()
        self.service.rebalance.stirred.set()
        return json({"epoch": self.service.epoch}, 202)

    async def restore(self, request: Request) -> Response:
        """Take over a saved topology after the store was lost."""
        try:
            restored = self.service.restore(await whole(request, LONGEST_TOPOLOGY))
        except ValueError as error:
            raise HTTPException(409, str(error)) from None
        return json({"restored": restored}, 202)

    # --- replication --------------------------------------------------------------------------------

    async def replication(self, _request: Request) -> Response:
        """How mains and copies are."""
        return json(self.service.replication.told())

    async def events_page(self, request: Request) -> Response:
        """What happened after event `?after=N`."""
        return json(self.service.replication.events.after(number(request, "after", 0)))

    async def grants(self, request: Request) -> Response:
        """A main asks to go on without a copy: 202 when there will be a topology that says so."""
        told = await body(request, Granting)
        granted = self.service.replication.grant(told.node, told.replica, told.epoch)
        return json({"granted": granted, "epoch": self.service.epoch}, 202 if granted else 200)

    def hand_over(self, *, orderly: bool) -> Handler:
        """Let copies take over from a node: in order, without losing a write, or at once."""

        async def hand_over(request: Request) -> Response:
            told = await body(request, HandOver)
            if orderly and told.force:
                raise HTTPException(400, "a switchover loses nothing: force is for a failover")
            wish = Wish(told.node, told.to, told.force, slots_from(told.slots))
            if told.plan:
                events = self.service.replication.planned(wish)
                return json({"plan": [dict(event.fields) for event in events]})
            if told.leave and orderly:
                return json(await self.service.replication.leave(wish, told.leave))
            return json(await self.service.replication.hand_over(wish, orderly=orderly))

        return hand_over

    async def leaving(self, request: Request) -> Response:
        """A node that is to stop asks for its copies to take over; it serves until this is answered.

        503 says that it is worth asking again soon, 409 that nobody will be there.
        """
        told = await body(request, Leaving)
        record = self.service.registry.find(told.node, "node")
        if record is None:
            raise HTTPException(404, f"there is no node {told.node}")
        report = await self.service.replication.listen(record.member)
        if report is None:
            raise HTTPException(503, f"{told.node} was asked whether it is to stop, and did not answer")
        if not report.leaving:
            raise HTTPException(409, f"{told.node} does not say that it is to stop")
        replication = self.service.replication
        try:
            return json(await replication.leave(Wish(told.node), LEAVING_SECONDS))
        except RefusedError as error:
            if replication.hopeful(told.node):
                raise HTTPException(503, f"{error}; ask again") from None
            raise

    def pause(self, wanted: bool) -> Handler:
        """Suspend or resume automatic failover."""

        async def pause(_request: Request) -> Response:
            self.service.set_flags({compose.PAUSED: wanted})
            return json({"paused": wanted})

        return pause

    async def flags(self, request: Request) -> Response:
        """Switch features on and off: {"replication": true}."""
        wanted = await body(request, dict[Id, bool])
        self.service.set_flags(wanted)
        return json({"flags": list(self.service.flags)})


def probed(well: bool, yes: str, no: str) -> Response:
    """200 or 503 with a word of explanation."""
    return json({"status": yes if well else no}, 200 if well else 503)


def slots_from(text: str) -> frozenset[int]:
    """The slots of `0-99,105`."""
    slots: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        known = first.isdecimal() and (last.isdecimal() or not dash) and len(part) <= 11
        low, high = (int(first), int(last or first)) if known else (1, 0)
        # In rising order, so that the list is never longer than there are slots.
        if not (slots[-1] if slots else -1) < low <= high < SLOTS:
            raise HTTPException(400, f"slots are numbers below {SLOTS}, rising, such as 0-99,105")
        slots.extend(range(low, high + 1))
    return frozenset(slots)


def client(request: Request) -> str:
    """Where a request came from."""
    return request.client.host if request.client else ""

"""Moves of slots over HTTP: what would move, how far it is, and the orders (rebalance.py)."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fastcache.health import forecast, progress
from fastcache.health.act import Service
from fastcache.health.registry import Id
from fastcache.health.web import Handler, body, json


class Weighing(msgspec.Struct, forbid_unknown_fields=True):
    """Nodes and the weights that they are to have; 0 takes all slots away."""

    weights: dict[Id, Annotated[int, Meta(ge=0, le=100_000)]] = {}
    # Copies of every slot from now on, besides its main.
    replicas: Annotated[int, Meta(ge=0, le=7)] | None = None
    # What moves may cost: megabytes a second of one node, and the 99th of a hundred answers; 0 for no limit.
    megabytes_per_second: Annotated[float, Meta(ge=0, le=100_000)] | None = msgspec.field(
        default=None, name="megabytesPerSecond"
    )
    p99_ms: Annotated[float, Meta(ge=0, le=60_000)] | None = msgspec.field(default=None, name="p99Ms")
    # In which part of the time steps of moves may be felt.
    share: Annotated[float, Meta(ge=0.001, le=1)] | None = None


class Moves:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self.work = service.rebalance

    async def shown(self, _request: Request) -> Response:
        """What moves, and how far it is."""
        return json(progress.told(self.work))

    async def stream(self, _request: Request) -> Response:
        """The same as server-sent events, as often as it changes."""

        async def events() -> AsyncIterator[bytes]:
            async for told in progress.stream(self.work):
                yield b"event: rebalance\ndata: %b\n\n" % msgspec.json.encode(told)

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), headers=headers, media_type="text/event-stream")

    async def plan(self, request: Request) -> Response:
        """What would move with these weights."""
        told = await body(request, Weighing)
        return json(await forecast.plan(self.work, told.weights, told.replicas))

    async def start(self, request: Request) -> Response:
        """Move slots until everybody has a fair share by weight."""
        told = await body(request, Weighing)
        self.work.start(told.weights, told.replicas, told.megabytes_per_second, told.p99_ms, told.share)
        await self.work.saved_orders()
        return json(progress.told(self.work), 202)

    async def order(self, request: Request) -> Response:
        """Pause, resume or cancel."""
        verbs = {"pause": self.work.pause, "resume": self.work.resume, "cancel": self.work.cancel}
        verb = verbs.get(request.path_params["verb"])
        if verb is None:
            raise HTTPException(404, "it is one of plan, start, pause, resume, cancel")
        verb()
        await self.work.saved_orders()
        return json(progress.told(self.work))


def routes(service: Service, guarded: Callable[[Handler], Handler]) -> list[Route]:
    """What is told and ordered; orders need the admin key."""
    face = Moves(service)
    found = [
        Route("/rebalance", face.shown, methods=["GET"]),
        Route("/rebalance/stream", face.stream, methods=["GET"]),
    ]
    changing = {
        "/rebalance/plan": face.plan,
        "/rebalance/start": face.start,
        "/rebalance/{verb}": face.order,
    }
    return found + [Route(path, guarded(handler), methods=["POST"]) for path, handler in changing.items()]

"""What all pages of the health service stand on: JSON in, JSON out, and errors that say so."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastcache.health.replication import RefusedError

LONGEST_BODY = 1 << 20

Body = TypeVar("Body")
Handler = Callable[[Request], Awaitable[Response]]


def json(value: object, status: int = 200, headers: Any = None) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def refused(_request: Request, error: Exception) -> Response:
    """Errors are JSON like everything else; what cannot be done now, or not by us, says so."""
    if isinstance(error, HTTPException):
        return json({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RefusedError):
        return json({"error": str(error)}, 409)
    return json({"error": str(error)}, 503, {"Retry-After": "1"})


def number(request: Request, name: str, default: int) -> int:
    """A query parameter that is a number."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18:
        raise HTTPException(400, f"{name} must be a number")
    return int(text)


async def whole(request: Request, longest: int) -> bytes:
    """The body, refused as soon as it is too long."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > longest:
            raise HTTPException(413, f"a body of at most {longest} bytes is taken")
    return bytes(received)


async def body(request: Request, kind: type[Body]) -> Body:
    """The JSON body as a value."""
    try:
        return msgspec.json.decode(await whole(request, LONGEST_BODY), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, str(error)) from None

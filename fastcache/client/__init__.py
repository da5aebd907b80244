"""How programs speak to servers: the client library for applications, and probes for our own.

    from fastcache.client import FastCache

    cache = FastCache("http://health:8080")       # or redis://, of any proxy or node
    cache.set("user:7", "Ada")

`FastCache` and `AsyncFastCache` have redis-py's commands. They know the topology, go directly to the node
that owns a key, and fall back to the proxies. They are imported when they are asked for: daemons that only
probe must not pay for redis-py.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcache.client.asynchronous import AsyncFastCache as AsyncFastCache
    from fastcache.client.blocking import FastCache as FastCache

__all__ = ["AsyncFastCache", "FastCache"]


def __getattr__(name: str) -> object:
    if name == "FastCache":
        from fastcache.client.blocking import FastCache as Blocking  # noqa: PLC0415

        return Blocking
    if name == "AsyncFastCache":
        from fastcache.client.asynchronous import AsyncFastCache as Asynchronous  # noqa: PLC0415

        return Asynchronous
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

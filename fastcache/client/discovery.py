"""Learn the topology and hear of new ones: from a health service by long poll, else from nodes or proxies.

One thread per client, for blocking and asynchronous clients alike: it replaces the view in one assignment.
"""

import contextlib
import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from fastcache import _core
from fastcache.client.probe import answers
from fastcache.client.routing import Router, Server, View, view_of
from fastcache.errors import FastCacheError, UsageError
from fastcache.model import Endpoint

ASK_TIMEOUT_SECONDS = 3.0
POLL_SECONDS = 20
PAUSE_SECONDS = 1.0
DEFAULT_PORTS = {"redis": 6379, "http": 8080, "https": 443}

INTRODUCTION = ("FASTCACHE", "ROUTED")

Member = dict[str, Any]


class Source:
    """Where to begin, and how to log in."""

    def __init__(
        self, urls: Sequence[str], nodes: Sequence[Member], password: str | None, username: str | None
    ) -> None:
        self.health: list[str] = []
        self.seeds: list[Server] = []
        self.nodes = list(nodes)
        self.password, self.username = password, username
        for url in urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme in {"http", "https"}:
                self.health.append(url.rstrip("/"))
            elif parts.scheme in {"redis", "unix"}:
                self.password = self.password or parts.password
                self.username = self.username or parts.username
                self.seeds.append(seed(parts))
            else:
                raise UsageError(f"{url}: begin with redis://, unix:// or http://")
        if not (urls or nodes):
            raise UsageError("give the URL of a proxy, a node or a health service, or a list of nodes")

    def static_view(self) -> View | None:
        """The topology of listed nodes: the ring alone decides."""
        if not self.nodes:
            return None
        placed = json.loads(_core.place(json.dumps([weighed(node) for node in self.nodes]).encode()))
        body = json.dumps({"epoch": 0, "nodes": self.nodes, "slots": placed["slots"]}).encode()
        return view_of(body, self.seeds)

    def ask(self, known: View, wait: bool) -> View | None:
        """A newer view from whoever answers first; None when there is none."""
        for url in dict.fromkeys([*self.health, *known.health]):
            try:
                return self.from_health(url, known, wait)
            except (OSError, http.client.HTTPException, ValueError):
                continue
        servers = [*self.seeds, *known.nodes.values()] if not (self.health or known.health) else self.seeds
        for one in servers:
            with contextlib.suppress(redis.RedisError, OSError, ValueError):
                return self.from_server(one, known)
        return None

    def from_health(self, url: str, known: View, wait: bool) -> View | None:
        """Ask a health service; `wait` for news."""
        query = f"?after={known.epoch}&timeout={POLL_SECONDS if wait else 0}" if known.epoch >= 0 else ""
        timeout = ASK_TIMEOUT_SECONDS + (POLL_SECONDS if wait else 0)
        try:
            with urllib.request.urlopen(f"{url}/topology{query}", timeout=timeout) as reply:  # noqa: S310
                body: bytes = reply.read()
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_MODIFIED:
                return None
            raise
        return view_of(body, self.seeds)

    def from_server(self, one: Server, known: View) -> View | None:
        """Ask a node or proxy for its slots; one that has none is used as a proxy."""
        client = connect(one, self, decode_responses=True)
        try:
            connection = client.connection_pool.get_connection()
            try:
                connection.send_command("CLUSTER", "SLOTS")
                rows = connection.read_response()
            finally:
                client.connection_pool.release(connection)
        except redis.ResponseError:
            rows = []
        finally:
            client.close()
        document = document_of(rows)
        if not document["nodes"]:
            return None if known.proxies else View(None, {}, tuple(self.seeds))
        # Whoever answers for all slots alone is a proxy or a lone node: it takes everything.
        seeds = self.seeds if len(document["nodes"]) == 1 else []
        fresh = view_of(json.dumps(document).encode(), seeds)
        if known.topology and fresh.topology and known.epoch == 0:
            same = known.topology.canonical() == fresh.topology.canonical()
            return None if same else fresh
        return fresh


def document_of(rows: Sequence[Any]) -> dict[str, Any]:
    """The answer to CLUSTER SLOTS as a topology."""
    nodes: dict[str, Member] = {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for first, last, *holders in rows:
        names = []
        for host, port, *_ in holders:
            name = f"{host}:{port}"
            nodes[name] = {"id": name, "host": host, "port": port}
            names.append(name)
        groups.setdefault(tuple(names), []).append(f"{first}-{last}")
    copies = max((len(names) for names in groups), default=1) - 1
    slots = [
        {
            "main": main,
            "replicas": list(replicas),
            "ranges": ",".join(sorted(ranges, key=lambda text: int(text.partition("-")[0]))),
        }
        for (main, *replicas), ranges in groups.items()
    ]
    return {"epoch": 0, "nodes": list(nodes.values()), "slots": slots, "replicas": copies}


def seed(parts: urllib.parse.SplitResult) -> Server:
    """The server that a URL names."""
    if parts.scheme == "unix":
        return Server(f"seed {parts.path}", Endpoint("localhost", 0), parts.path, kind="proxy")
    endpoint = Endpoint(parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORTS["redis"])
    return Server(f"seed {endpoint}", endpoint, kind="proxy")


def weighed(node: Member) -> Member:
    """What placement wants to know of a listed node."""
    return {name: node[name] for name in ("id", "host", "rack", "weight") if name in node}


def connect(one: Server, source: Source, **options: Any) -> "redis.Redis":
    """A redis-py client of one server. It never retries by itself: whether that is safe is decided here."""
    return redis.Redis(**connection_options(one, source, introduced), **options)


def introduced(connection: Any) -> None:
    """Greet a node as one who splits requests by node: keys of several slots at once are all right."""
    connection.on_connect()
    connection.send_command(*INTRODUCTION)
    with contextlib.suppress(redis.ResponseError):  # Another kind of server knows nothing of it.
        connection.read_response()


async def introduced_asynchronously(connection: Any) -> None:
    """As `introduced`, for asynchronous connections."""
    await connection.on_connect()
    await connection.send_command(*INTRODUCTION)
    with contextlib.suppress(redis.ResponseError):
        await connection.read_response()


def connection_options(one: Server, source: Source, introduction: Callable[[Any], Any]) -> dict[str, Any]:
    """Options that blocking and asynchronous clients of redis-py share, but for how they greet a node."""
    place: dict[str, Any] = (
        {"unix_socket_path": one.unix}
        if one.unix and Path(one.unix).is_socket()
        else {"host": one.endpoint.host, "port": one.endpoint.port}
    )
    return {
        **place,
        "username": source.username,
        "password": source.password,
        "socket_connect_timeout": 1.0,
        "redis_connect_func": introduction if one.kind == "node" else None,
    }


class Watcher:
    """The thread that keeps the view new and looks after servers that failed."""

    def __init__(self, source: Source, router: Router, cache_file: Path | None) -> None:
        self.source = source
        self.router = router
        self.cache_file = cache_file
        self.view = self.first_view()
        self.wanted = threading.Event()
        self.stopped = threading.Event()
        self.updates = 0
        # The thread must not keep alive a client that nobody holds any more.
        self.thread = threading.Thread(
            target=watch, args=(weakref.ref(self),), name="fastcache-topology", daemon=True
        )
        if self.source.health or self.source.seeds:
            self.thread.start()

    def first_view(self) -> View:
        """From whoever answers, else from disk, else as listed."""
        nothing = View(None, {}, tuple(self.source.seeds))
        found = self.source.ask(nothing, wait=False) if self.source.health or self.source.seeds else None
        if found is None and self.cache_file is not None:
            with contextlib.suppress(ValueError):
                found = view_of(_core.Topology.load(self.cache_file).canonical(), self.source.seeds)
        found = found or self.source.static_view()
        if found is None and not self.source.seeds:
            raise FastCacheError(
                f"no health service answers at {', '.join(self.source.health)}",
                "give more addresses, or a list of nodes",
            )
        self.remember(found or nothing)
        return found or nothing

    def remember(self, view: View) -> None:
        """Keep a topology on disk for the next start."""
        if self.cache_file and view.topology:
            with contextlib.suppress(OSError):
                view.topology.save(self.cache_file)

    def refresh(self) -> None:
        """Something contradicted the view: ask soon."""
        self.wanted.set()

    def turn(self) -> None:
        """Ask once, and look whether a server that failed is back."""
        urgent = self.wanted.is_set()
        self.wanted.clear()
        if self.router.flags.health_checks:
            self.look_after_the_fallen()
        fresh = self.source.ask(self.view, wait=not urgent and not self.router.own.failures)
        if fresh and (fresh.epoch >= self.view.epoch or fresh.epoch == 0):
            self.view = fresh
            self.updates += 1
            self.remember(fresh)

    def look_after_the_fallen(self) -> None:
        """PING servers that failed; one that answers is used again at once."""
        servers = {one.id: one for one in (*self.view.nodes.values(), *self.view.proxies)}
        for name in list(self.router.own.failures):
            one = servers.get(name)
            if one is None or (one.endpoint.port and answers(one.endpoint, 0.5)):
                self.router.own.answered(name)

    def stop(self) -> None:
        """End the thread; it may take until its question is answered."""
        self.stopped.set()
        self.wanted.set()


def watch(reference: "weakref.ref[Watcher]") -> None:
    """Take turns until the client is gone."""
    while True:
        watcher = reference()
        if watcher is None or watcher.stopped.is_set():
            return
        polls = bool(watcher.source.health or watcher.view.health)
        before, updates = watcher.wanted, watcher.updates
        with contextlib.suppress(Exception):
            watcher.turn()
        # A long poll is its own pause; without one, or after a failure, wait.
        pause = PAUSE_SECONDS if not polls or watcher.updates == updates else 0.0
        if watcher.router.own.failures:
            pause = min(pause or 0.1, 0.25)
        del watcher
        before.wait(pause)

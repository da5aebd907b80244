"""Where a command goes: the topology, and what we ourselves have seen of nodes. No sockets here."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastcache import _core
from fastcache.client.keys import READS, Word, keys_of, name_of
from fastcache.errors import FastCacheError
from fastcache.model import Endpoint, Health

# A node that failed is left alone for so long, doubled with each further failure.
FIRST_REST_SECONDS = 0.25
LONGEST_REST_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Server:
    """A node or proxy that commands can be sent to."""

    id: str
    endpoint: Endpoint
    unix: str = ""
    state: Literal["up", "down", "unknown"] = "unknown"
    kind: Literal["node", "proxy"] = "node"


@dataclass(frozen=True, slots=True)
class View:
    """One topology, ready for routing. Replaced whole when a newer one is heard of."""

    topology: _core.Topology | None
    nodes: dict[str, Server]
    proxies: tuple[Server, ...]
    health: tuple[str, ...] = ()

    @property
    def epoch(self) -> int:
        return self.topology.epoch if self.topology else -1


def view_of(body: bytes, seeds: Iterable[Server] = ()) -> View:
    """The view that a topology document gives; `seeds` are proxies known besides it."""
    topology = _core.Topology(body)
    document = json.loads(topology.canonical())
    nodes = {one["id"]: server(one, "node") for one in document["nodes"]}
    proxies = [server(one, "proxy") for one in document["proxies"]]
    known = {proxy.endpoint for proxy in proxies}
    proxies += [seed for seed in seeds if seed.endpoint not in known]
    return View(topology, nodes, tuple(proxies), tuple(document["health"]))


def server(one: dict[str, str | int], kind: Literal["node", "proxy"]) -> Server:
    """A server as the document lists it."""
    endpoint = Endpoint(str(one["host"]), int(one["port"]))
    return Server(str(one["id"]), endpoint, str(one["unix"]), one["state"], kind)  # type: ignore[arg-type]


class OwnView:
    """What we ourselves have seen: a server that failed rests a while, then one command may try it again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.failures: dict[str, int] = {}
        self.rests_until: dict[str, float] = {}
        self.lock = threading.Lock()

    def failed(self, name: str) -> None:
        """It could not be reached, or left a command unanswered."""
        with self.lock:
            count = self.failures.get(name, 0) + 1
            self.failures[name] = count
            rest = min(FIRST_REST_SECONDS * 2 ** (count - 1), LONGEST_REST_SECONDS)
            self.rests_until[name] = self.clock() + rest

    def answered(self, name: str) -> None:
        """It is there."""
        if name in self.failures:
            with self.lock:
                self.failures.pop(name, None)
                self.rests_until.pop(name, None)

    def usable(self, server: Server) -> bool:
        """Whether to send it a command now."""
        until = self.rests_until.get(server.id)
        if until is None:
            return server.state != "down"
        # Our own news are newer than the topology: after its rest it may show that it is back.
        return self.clock() >= until

    def health(self, server: Server) -> Health:
        """One word for people."""
        if server.id in self.failures or server.state == "down":
            return Health.UNHEALTHY
        return Health.HEALTHY if server.state == "up" else Health.UNKNOWN


@dataclass(frozen=True, slots=True)
class Flags:
    """What the client may do; each can be switched off."""

    direct: bool = True  # go to the node that owns a key; else always through proxies
    read_replicas: bool = False  # reads may be answered by a replica while the main is down
    health_checks: bool = True  # look in the background whether a server that failed is back


class NoRouteError(FastCacheError):
    """Nobody is known who could take a command."""


class Router:
    """Chooses servers for commands."""

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        self.own = OwnView()
        self.turn = itertools.count()

    def choose(self, view: View, words: Sequence[Word], tried: Iterable[str] = ()) -> Server:
        """The best server for a command among those not tried yet."""
        tried = set(tried)
        keys = keys_of(words)
        if self.flags.direct and keys and view.topology:
            for name in self.holders(view, keys, name_of(words)):
                if name not in tried and self.own.usable(view.nodes[name]):
                    return view.nodes[name]
        return self.proxy(view, keys, tried)

    def holders(self, view: View, keys: Sequence[bytes], command: str) -> list[str]:
        """Nodes that hold all these keys, the best first; none when the keys live on several."""
        if view.topology is None:
            return []
        slots = {_core.slot_of(key) for key in keys}
        holders = [view.topology.holders(slot) for slot in slots]
        mains = {nodes[0] if nodes else "" for nodes in holders}
        if len(mains) != 1 or "" in mains:
            return []
        copies: list[str] = []
        if self.flags.read_replicas and command in READS:
            copies = [name for name in holders[0][1:] if all(name in nodes for nodes in holders)]
        return [mains.pop(), *copies]

    def proxy(self, view: View, keys: Sequence[bytes] | None, tried: set[str]) -> Server:
        """The next proxy that is usable; without proxies, a node where any node will do."""
        candidates: list[Server] = [proxy for proxy in view.proxies if proxy.id not in tried]
        if not candidates and not keys:
            candidates = [node for node in view.nodes.values() if node.id not in tried]
        candidates = [one for one in candidates if self.own.usable(one)] or candidates
        if not candidates:
            many = keys is not None and len(keys) > 1 and not view.proxies
            raise NoRouteError(
                "CROSSSLOT the keys live on several nodes, and no proxy is known" if many
                else "no server can be reached that would take this command"
            )  # fmt: skip
        return candidates[next(self.turn) % len(candidates)]

    def by_node(self, view: View, words: Sequence[Word]) -> dict[str, list[int]] | None:
        """For a command over several nodes: the places of its keys, node by node."""
        keys = keys_of(words)
        if not keys or view.topology is None:
            return None
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            owner = view.topology.node_of(key)
            if owner is None:
                return None
            places.setdefault(owner, []).append(place)
        return places


def surely_not_run(error: BaseException) -> bool:
    """Whether a command that ended so cannot have reached the server: it may be sent elsewhere."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError | FileNotFoundError):
            return True
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    return "connecting to" in text or text.startswith("Timeout connecting")

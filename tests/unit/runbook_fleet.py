"""A fleet of the imagination for tests of the runbook: it remembers what was done to it.

Its health service is the real decision code of the lock (fastcache/ledger.py) without sockets around it.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fastcache import _core, ledger
from fastcache.errors import FastCacheError
from fastcache.health import compose
from fastcache.health.decide import Judgement
from fastcache.health.registry import Member as Listed
from fastcache.health.registry import Record
from fastcache.model import Health
from fastcache.runbook import gate
from fastcache.runbook.fleet import Fleet, Host, Member
from fastcache.runbook.hands import Outcome, Played, RefusedError, Tell, UnreachableError
from fastcache.runbook.operation import Operation, Step

NAMES = ("h1", "h2", "h3")


def fleet(environment: str = "lab") -> Fleet:
    """Three hosts with a node and a proxy each, two health services, a balancer."""
    address = {name: f"10.0.0.{number}" for number, name in enumerate(NAMES, 1)}
    return Fleet(
        environment,
        "lab",
        {name: Host(name, address[name], user="ops", become=True) for name in NAMES},
        tuple(
            Member("node", f"node-{name}-7001", name, address[name], 7001, f"r{name[1]}") for name in NAMES
        ),
        tuple(
            Member("proxy", f"proxy-{name}-6382", name, address[name], 6382, f"r{name[1]}") for name in NAMES
        ),
        tuple(Member("health", f"health-{name}-8080", name, address[name], 8080) for name in NAMES[:2]),
        (Member("balancer", "client-h1-6380", "h1", address["h1"], 6380),),
    )


@functools.cache
def placed(nodes: tuple[Member, ...]) -> compose.Document:
    """A topology of these nodes; placing slots is slow in a debug build."""
    records = [
        Record(Listed(id=one.name, host=one.address, port=one.port), Judgement(Health.HEALTHY))
        for one in nodes
    ]
    made = compose.compose(compose.Shape("lab", "c-1"), records, {}, place_now=True, admit=True)
    return {**made, "epoch": 7}


@functools.cache
def digest_of(nodes: tuple[Member, ...]) -> str:
    return _core.Topology(json.dumps(placed(nodes)).encode()).digest


@dataclass
class World:
    """See hands.Hands. Time passes only when somebody sleeps."""

    fleet: Fleet = field(default_factory=fleet)
    time: float = 1000.0
    kept: ledger.Ledger = field(default_factory=ledger.Ledger)
    chain: list[ledger.Entry] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    #: As the health service's setting replica-placement.
    placement: str = "ring"
    unhealthy: set[str] = field(default_factory=set)
    behind: set[str] = field(default_factory=set)
    replicas: int = 1
    down: bool = False
    #: Hosts without power, for good.
    lost: set[str] = field(default_factory=set)
    #: The admin key on the hosts, that of the health service that runs, and the one that we know.
    keys: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("hosts", "service", "known"), "one"))
    hits: int = 0
    misses: int = 0
    #: What happens when a command holds a word: its code and output.
    says: dict[str, Outcome] = field(default_factory=dict)
    #: Called before every sleep: how the world changes while somebody waits.
    ticks: Callable[["World"], None] = lambda _world: None
    plays: dict[str, Played] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    #: What the health service says of moves, one answer after the other; the last one stays.
    moves: list[dict[str, Any]] = field(default_factory=list)
    planned: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    #: Who takes over from whom, where it is not h2; and how many slots each node serves.
    heirs: dict[str, str] = field(default_factory=dict)
    mains: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mains = {one.name: 5461 for one in self.fleet.nodes}
        self.tell: Tell = lambda why, _part=0.0: self.told.append(why)

    # --- hands --------------------------------------------------------------------------------------

    def run(self, host: str, command: str, *, stdin: bytes = b"", seconds: float = 60.0) -> Outcome:
        if host in self.lost:
            raise UnreachableError(f"{host}: no route to host")
        if command == gate.DIGESTS:
            return Outcome(0, self.digests(host))
        self.calls.append(f"{host}: {command}")
        for word, outcome in self.says.items():
            if word in command:
                return outcome
        if "show stat" in command:
            header = "# pxname,svname,scur,status\n"
            rows = [f"proxies,{one.name},0,UP\n" for one in self.fleet.proxies]
            return Outcome(0, header + "".join(rows))
        return Outcome(0, "")

    def fetch(self, host: str, path: str, to: Path, *, seconds: float = 600.0) -> None:
        self.calls.append(f"{host}: fetch {path}")
        to.write_bytes(self.data[path])

    def send(self, host: str, content: Path, path: str, *, seconds: float = 600.0) -> None:
        self.calls.append(f"{host}: send {path}")

    def http(self, method: str, path: str, body: Any = None, *, seconds: float = 15.0) -> Any:
        if self.down:
            raise UnreachableError("health-h1-8080 does not answer")
        if method != "GET" and self.keys["known"] != self.keys["service"]:
            # As the hands do: whoever is refused reads the key anew.
            self.keys["known"] = self.keys["hosts"]
            if self.keys["known"] != self.keys["service"]:
                raise RefusedError("health-h1-8080: X-Admin-Key is missing or wrong", 401)
        if path == "/rebalance/plan":
            return self.planned or {"moves": [], "slots": 0, "keys": 0, "bytes": 0, "seconds": 0.0}
        if path == "/rebalance":
            return self.moves.pop(0) if len(self.moves) > 1 else self.moves[0]
        if method != "GET" and not (isinstance(body, dict) and body.get("plan")):
            self.calls.append(f"{method} {path}")
        asked = {"/lock": self.shown, "/topology": self.document, "/replication": self.replication,
                 "/health/nodes": self.nodes, "/health/summary": self.summary}  # fmt: skip
        if method == "GET" and path in asked:
            return asked[path]()
        if method == "GET" and path.startswith("/audit"):
            return [told(entry) for entry in self.chain]
        if path == "/leader":
            return {"leader": "http://10.0.0.2:8080"}
        if path in {"/switchover", "/failover"}:
            heir = body.get("to") or self.heirs.get(body["node"], "node-h2-7001")
            if heir != body["node"] and not body.get("plan"):
                self.mains[heir] = self.mains.get(heir, 0) + self.mains.pop(body["node"], 0)
            plan = [{"old": body["node"], "new": heir, "slots": 5461, "lost": 0}]
            return {"plan": plan, "to": plan, "from": body["node"], "seconds": 0.01, "epoch": 8}
        if path == "/rebalance/start":
            self.calls.append(json.dumps(body["weights"]))
            self.planned = {}
            return {}
        if path.startswith(("/lock", "/audit")):
            return self.changed(path, body)
        raise AssertionError(path)

    @contextlib.contextmanager
    def talk(self, member: Member, *, seconds: float = 10.0) -> Iterator["World"]:
        if member.name in self.unhealthy or member.host in self.lost:
            raise UnreachableError(f"{member.name} cannot be reached")
        yield self

    def say(self, *words: str | bytes) -> Any:
        if words[0] == "INFO":
            return f"keyspace_hits:{self.hits}\r\nkeyspace_misses:{self.misses}\r\nloading:0\r\n".encode()
        if words[0] == "DBSIZE":
            return 0
        if words[:2] == ("FASTCACHE", "SNAPSHOT"):
            self.calls.append("FASTCACHE SNAPSHOT")
            return [b"file", b"/var/lib/fastcache/x/one.fcsnap", b"entries", 3, b"bytes", 300]
        raise AssertionError(words)

    def play(self, playbook: str, *words: str, seconds: float = 3600.0) -> Played:
        self.calls.append(" ".join(("play", playbook, *words)))
        return self.plays.get(playbook, Played(0, "", {}))

    def forget_secrets(self) -> None:
        self.keys["known"] = ""

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.ticks(self)

    # --- the cluster --------------------------------------------------------------------------------

    def placing(self) -> tuple[Member, ...]:
        """The nodes of the topology in force."""
        return self.fleet.nodes

    def document(self) -> compose.Document:
        return placed(self.placing())

    def digests(self, host: str) -> str:
        members = [one for one in (*self.fleet.nodes, *self.fleet.proxies) if one.host == host]
        right = digest_of(self.placing())
        lines = [f"{one.state} sha256:{'0' * 64 if one.name in self.behind else right}" for one in members]
        return "\n".join(lines) + "\n"

    def nodes(self) -> list[dict[str, Any]]:
        members = (*self.fleet.nodes, *self.fleet.proxies)
        return [
            {"nodeId": one.name, "status": "UNHEALTHY" if one.name in self.unhealthy else "HEALTHY",
             "errorMessage": "refused" if one.name in self.unhealthy else None}
            for one in members
        ]  # fmt: skip

    def summary(self) -> dict[str, int]:
        def well(members: tuple[Member, ...]) -> int:
            return sum(one.name not in self.unhealthy for one in members)

        return {"healthyNodes": well(self.fleet.nodes), "healthyProxies": well(self.fleet.proxies)}

    def replication(self) -> dict[str, Any]:
        return {
            "replication": bool(self.replicas), "replicas": self.replicas, "paused": False, "slotsDown": 0,
            "slotsWithoutReplica": 0, "streams": [], "mains": dict(self.mains), "placement": self.placement,
        }  # fmt: skip

    # --- the lock -----------------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        now = self.kept
        lock = ledger.held(now, self.time)
        return {
            "now": self.time,
            "lock": told(lock),
            "unfinished": [told(one) for one in now.unfinished.values()],
            "number": now.number,
            "hash": now.hash,
        }

    def changed(self, path: str, body: dict[str, Any]) -> Any:
        before, token = self.kept, int(body.get("token", 0))
        try:
            if path == "/lock":
                after = ledger.taken(before, body["owner"], body["task"], body["seconds"], self.time)
                after = ledger.begun(after, after.token, body["arguments"], self.time, fresh=body["fresh"])
                self.note(after, "begins", body["arguments"])
                return {"token": self.kept.token, "done": list(self.kept.unfinished[body["task"]].done)}
            if path == "/lock/renew":
                self.kept = ledger.renewed(before, token, body["seconds"], self.time)
            elif path == "/lock/step":
                self.note(ledger.stepped(before, token, body["step"]), "step", {"step": body["step"]})
            elif path == "/lock/release":
                ended = ledger.ended(before, token, body["stopped"])
                self.note(ledger.released(ended, token), "stopped" if body["stopped"] else "done", {})
        except ledger.HeldError as error:
            raise RefusedError(str(error), 409) from None
        return {}

    def note(self, after: ledger.Ledger, event: str, fields: dict[str, str]) -> None:
        self.kept, entry = ledger.appended(after, f"t{self.time}", ("ann@a", "task", event, fields))
        self.chain.append(entry)

    def changing(self) -> list[str]:
        """What was done that is more than looking."""
        looks = ("show stat", "readlink", "for d in")
        return [call for call in self.calls if not any(word in call for word in looks)]


def told(thing: Any) -> Any:
    """As it comes out of JSON."""
    return msgspec.json.decode(msgspec.json.encode(thing))


@dataclass
class Quiet:
    """A show that remembers; `consents`: what the operator answers."""

    consents: bool = True
    told: list[str] = field(default_factory=list)
    parts: list[float] = field(default_factory=list)

    def plan(self, operation: Operation, done: frozenset[str]) -> None:
        self.told.append(f"plan {len(operation.steps)} steps, {len(done)} done")

    def ask(self, question: str) -> bool:
        self.told.append(question)
        return self.consents

    def begin(self, number: int, total: int, step: Step) -> None:
        self.told.append(f"begin {step.name}")

    def waiting(self, why: str, part: float = 0.0, /) -> None:
        self.told.append(f"waiting: {why}")
        self.parts.append(part)

    def end(self, step: Step, found: str) -> None:
        self.told.append(f"end {step.name}: {found}")

    def note(self, text: str) -> None:
        self.told.append(text)


def steps(world: World, *names: str, fails: str = "") -> tuple[Step, ...]:
    """Steps that only write down that they were done; one of them fails."""

    def acting(name: str) -> Callable[[], str]:
        def act() -> str:
            if name == fails:
                raise FastCacheError(f"{name} broke", "mend it")
            world.calls.append(f"did {name}")
            return f"{name} went well"

        return act

    return tuple(Step(name, f"do {name}", acting(name)) for name in names)
